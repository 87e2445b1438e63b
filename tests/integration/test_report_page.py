"""The report of a small real run, opened in a headless Chromium: views, clicks, keys, widths and themes."""

import json
import re
import subprocess

import pytest
import report_parts
import torch
from browser import FLAGS, NONE, OWN, Browser, find_browser
from training_parts import RESULT, make_config, parity_reward

from appo import APPOTrainer
from appo.environments import kinship
from appo.report.html.write import write_report
from appo.rollout.records import read_records
from appo.tools.results import ToolError

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=NONE)

HOSTILE = """</script><img src=x onerror="document.title='broken'"><b>bold</b>"""
LONG = "unbroken" * 60


class HostileEnvironment(kinship.KinshipEnvironment):
    """Answers, and fails, with text that a careless page would run."""

    def search(self, query: str) -> str:
        """Looks something up.

        Args:
            query: Anything.

        Returns:
            Trouble.
        """
        if len(query) % 2:
            raise ToolError(f"{HOSTILE} failed")
        return HOSTILE


def train(directory, method="appo", method_args=None):
    """Four updates of a random model that calls its tool all the time."""
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("</search>")] *= 3
    sizes = {"max_steps": 4, "max_completion_length": 48}
    args = make_config(directory, method, method_args, result_format=RESULT, **sizes)
    rows = kinship.make_dataset(16, seed=3).map(lambda row: {"prompt": f"{row['prompt']} {HOSTILE}", "remark": LONG})
    trainer = APPOTrainer(
        model, parity_reward, args, rows, processing_class=tokenizer, environment_factory=HostileEnvironment
    )
    trainer.train()
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("appo-run"))


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    return write_report(run, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def chromium():
    with Browser(PROGRAM) as browser:
        yield browser


@pytest.fixture
def browser(chromium):
    chromium.resize(1280, 900)
    chromium.prefer("light")
    return chromium


def at(report, address):
    return f"{report.as_uri()}{address}"


def self_test(browser, report):
    """The lines of `#selftest`."""
    browser.open(at(report, "#selftest"), until="document.body?.dataset.selftest")
    browser.wait("document.body.dataset.selftest != 'running'")
    return browser.evaluate("document.getElementById('selftest').textContent").strip().splitlines()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 800])
def test_the_page_passes_its_own_test(browser, report, width, scheme):
    browser.resize(width, 900)
    browser.prefer(scheme)
    lines = self_test(browser, report)
    assert [line for line in lines if not line.startswith("PASS")] == []
    assert re.fullmatch(r"PASSED (\d\d) of \1", lines[-1]), lines[-1]
    assert browser.complaints() == []


@pytest.mark.skipif(str(OWN) == PROGRAM, reason="the browser of .venv/browser has no --dump-dom")
def test_the_self_test_is_read_by_dump_dom_alone(report, tmp_path):
    command = [PROGRAM, *FLAGS, f"--user-data-dir={tmp_path}", "--virtual-time-budget=100000", "--dump-dom"]
    done = subprocess.run([*command, at(report, "#selftest")], capture_output=True, text=True, timeout=120)
    assert re.search(r"PASSED (\d\d) of \1", done.stdout)


def test_the_first_view_needs_no_token(browser, report):
    browser.open(at(report, "#/overview"))
    assert float(browser.evaluate("document.body.dataset.firstView")) > 0
    assert browser.evaluate("RUNS[0].shards.size") == 0
    assert browser.evaluate("document.title").startswith("Overview")


def test_a_branch_beyond_its_parents_end_is_left_out_of_the_tree_and_told(browser, tmp_path):
    tree = [
        report_parts.record(0, 1.0),
        report_parts.record(1, 0.0, parent=0, position=2),
        report_parts.record(2, 0.0, parent=0, position=4, length=6),
    ]
    page = write_report(report_parts.write_run(tmp_path, tree))
    browser.open(at(page, "#/tree/0/0"), until="document.querySelectorAll('.lane').length")
    assert browser.evaluate("document.querySelectorAll('.lane').length") == 2
    assert "not drawn, as they leave beyond an end: 1" in browser.evaluate("document.body.textContent")


def test_clicks_lead_from_a_step_to_the_tree(browser, report):
    browser.open(at(report, "#/overview"))
    browser.click("svg a .hit")
    browser.wait("location.hash.includes('step=1') && document.querySelector('.list')")
    assert browser.evaluate("document.querySelector('[role=status]').textContent") == "16 rollouts of 64"
    browser.click(".window .row", "0")
    browser.wait("ROUTE.view == 'rollout' && document.querySelectorAll('.t').length")
    browser.click(".t[data-t='3']")
    browser.wait("document.querySelector('.side h2').textContent.startsWith('Token 3 ')")
    browser.click(".side a", "tree")
    browser.wait("ROUTE.view == 'tree' && document.querySelectorAll('.lane').length == 8")
    browser.click(".lane text", "↳")
    browser.wait("ROUTE.view == 'rollout' && document.body.textContent.includes('This token was redrawn')")


def test_keys_lead_through_rollouts_and_tokens(browser, report):
    browser.open(at(report, "#/rollouts"))
    browser.wait("document.querySelector('.row[aria-selected=true]')")
    browser.key("j")
    browser.key("Enter")
    browser.wait("ROUTE.view == 'rollout' && ROUTE.args[1] == '1' && ROUTE.token !== undefined")
    before = browser.evaluate("ROUTE.token")
    browser.key("ArrowRight")
    browser.wait(f"ROUTE.token == {before + 1} && location.hash.includes('token={before + 1}')")
    browser.key("?")
    browser.wait("document.querySelector('[role=dialog]')")
    browser.key("Escape")
    browser.wait("!document.querySelector('[role=dialog]')")
    browser.key("Escape")
    browser.wait("ROUTE.view == 'rollouts' && document.querySelector('.list')")
    browser.key("/")
    assert browser.evaluate("document.activeElement.type") == "search"


def test_the_tab_key_shows_where_it_is(browser, report):
    browser.open(at(report, "#/overview"))
    for _ in range(3):
        browser.key("Tab")
        assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert browser.evaluate("document.activeElement.tagName") == "A"


def test_the_credit_of_a_token_is_the_recorded_advantage(browser, report, run):
    records = list(read_records(run))
    looked_at = 0
    for i, record in enumerate(records):
        told = [t for t, value in enumerate(record["advantages"] or []) if value]
        if not told or looked_at == 5:
            continue
        looked_at += 1
        browser.open(at(report, f"#/rollout/0/{i}?token={told[-1]}"))
        shown = browser.wait("document.querySelector('.equation b.val')?.textContent")
        assert float(shown.replace("−", "-")) == pytest.approx(record["advantages"][told[-1]], abs=1e-4)
        lines = browser.evaluate("[...document.querySelectorAll('.equation .val')].map(e => e.textContent)")
        initial, branches, base, factor = [float(line.replace("−", "-")) for line in lines[1:5]]
        assert (initial + branches) / 2 == pytest.approx(base, abs=2e-4)  # Eq. 6
        assert base * factor == pytest.approx(record["advantages"][told[-1]], abs=2e-4)  # Eq. 7
    assert looked_at == 5


def test_a_token_whose_record_disagrees_is_marked(browser, report, run):
    record = next(read_records(run))
    t = next(t for t, value in enumerate(record["advantages"]) if value is not None)
    browser.open(at(report, f"#/rollout/0/0?token={t}"))
    browser.wait("document.querySelector('.equation')")
    assert browser.evaluate("document.querySelectorAll('.off, .side .alert').length") == 0
    browser.evaluate(f"RUNS[0].shard(0).then((shard) => shard.creditColumns.differences.set('0/{t}', 7.5)).then(show)")
    assert browser.evaluate("document.querySelector('.off').dataset.t") == str(t)
    assert "disagrees with its factors" in browser.evaluate("document.querySelector('.side .alert').textContent")


def test_numbers_and_intervals_are_those_of_hand_computation(browser, report):
    browser.open(at(report, "#/overview"))
    # Wilson, 2 of 3: centre (2/3 + 1.2805) / 2.2805 = 0.5731..., half width 0.3650 (z = 1.96)
    assert browser.evaluate("wilson(2, 3)") == pytest.approx([0.2077, 0.9385], abs=1e-3)
    # Student, of 0, -1, -1: mean -2/3, standard error sqrt(1/3) / sqrt(3) = 1/3, t = 4.303 with two degrees of freedom
    assert browser.evaluate("meanInterval([0, -1, -1])") == pytest.approx([-2 / 3 - 4.303 / 3, -2 / 3 + 4.303 / 3])
    assert browser.evaluate("meanInterval([1, 1])") == [None, None]
    # Newcombe: the difference less, and plus, the hypotenuse of the two nearer halves
    found = browser.evaluate("gain({success: 0.5, low: 0.4, high: 0.6}, {success: 0.8, low: 0.77, high: 0.84})")
    assert found == pytest.approx([0.3, 0.3 - (0.03**2 + 0.1**2) ** 0.5, 0.3 + (0.04**2 + 0.1**2) ** 0.5])
    numbers = [0, 0.05, -0.5, 12.34, 100, 40, 1000, 0.00003, 1234567, None]
    shown = browser.evaluate(f"{json.dumps(numbers)}.map((x) => number(x))")
    assert shown == ["0", "0.05", "−0.5", "12.3", "100", "40", "1000", "3.0e−5", "1.2e6", "–"]
    assert browser.evaluate("[fixed(-0.001), fixed(-0.5), signedFixed(0.25), percent(0.5)]") == [
        "0.00", "−0.50", "+0.25", "50.0 %",
    ]  # fmt: skip


def test_what_a_tool_wrote_stays_text(browser, report, run):
    calls = [record["tool_calls"] or [] for record in read_records(run)]
    answered = next(i for i, some in enumerate(calls) if any(call["result"] == HOSTILE for call in some))
    wrong = [any(HOSTILE in call["result"] and call["error"] for call in some) for some in calls]
    for i, words in ((answered, HOSTILE), (wrong.index(True), f"{HOSTILE} failed")):
        browser.open(at(report, f"#/rollout/0/{i}"))
        browser.wait("document.querySelector('.side h2')")
        assert words in browser.evaluate("document.querySelector('[aria-label^=\"Tool calls\"]').textContent")
        assert browser.evaluate("document.title").startswith("Rollout")
        assert browser.evaluate("document.querySelectorAll('img, b b').length") == 0


def test_the_page_asks_for_nothing_and_may_not(browser, report):
    self_test(browser, report)
    assert set(browser.requests()) == {at(report, "#selftest")} or all(
        url.split("#")[0] == report.as_uri() for url in browser.requests()
    )
    policy = browser.evaluate("document.querySelector('[http-equiv=Content-Security-Policy]').content")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy and "http" not in policy
    browser.evaluate(f"document.body.insertAdjacentHTML('beforeend', {HOSTILE!r})")
    refused = browser.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)")
    assert refused == "TypeError"
    browser.wait("document.querySelector('img')")
    browser.evaluate("new Promise((done) => setTimeout(done, 200))")
    assert browser.evaluate("document.title") != "broken"
    violated = " ".join(browser.complaints())
    assert "img-src" in violated or "default-src" in violated
    assert "connect-src" in violated or violated.count("Content Security Policy") >= 2


@pytest.mark.parametrize("width", [1280, 800])
def test_nothing_is_wider_than_the_window(browser, report, width):
    browser.resize(width, 900)
    for view in ("overview", "rollouts", "rollouts?by=tasks", "rollout/0/0", "rollout/0/4", "tree/0/0", "atlas"):
        browser.open(at(report, f"#/{view}"))
        browser.wait("document.querySelector('main > div > *')")
        browser.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        browser.evaluate("new Promise((done) => setTimeout(done, 100))")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, view


def test_the_page_follows_the_systems_theme_and_the_button(browser, report):
    def brightness():
        found = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", found)[:3])) / 3

    browser.prefer("dark")
    browser.open(at(report, "#/overview"))
    assert brightness() < 40
    browser.click("#bar button", "dark")
    browser.wait("document.documentElement.dataset.theme == 'light'")
    assert brightness() > 230
    browser.evaluate("localStorage.clear()")


def luminance(color):
    channels = [c / 255 for c in color]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def ramp(browser, kind):
    """(background, ink) at 21 places of a colour scale."""
    found = browser.evaluate(f"Array.from({{length: 21}}, (_, k) => rampColor('{kind}', k / 20))")
    numbers = [[tuple(map(int, re.findall(r"\d+", paper))), ink] for paper, ink in found]
    return [(paper, tuple(int(ink[k : k + 2], 16) for k in (1, 3, 5))) for paper, ink in numbers]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colour_scales_can_be_read_without_seeing_red_or_green(browser, report, scheme):
    browser.prefer(scheme)
    browser.open(at(report, "#/overview"))
    brightness = [luminance(paper) for paper, _ in ramp(browser, "sequential")]
    ordered = sorted(brightness, reverse=scheme == "light")
    assert brightness == ordered and len(set(brightness)) == 21
    diverging = [paper for paper, _ in ramp(browser, "diverging")]
    for low, high in zip(diverging[:8], diverging[:12:-1], strict=True):
        # Who sees no red or no green still sees blue against yellow: there both ends differ, in opposite directions.
        assert low[2] < (low[0] + low[1]) / 2 and high[2] > (high[0] + high[1]) / 2
    for paper, ink in ramp(browser, "sequential") + ramp(browser, "diverging"):
        light, dark = sorted((luminance(paper), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.0


def test_texts_are_searched_where_they_are_asked_for(browser, report, run):
    browser.open(at(report, "#/rollouts"))
    texts = ["".join(record["texts"]) for record in read_records(run, texts=True)]
    word = "neighbour e1"
    browser.click("[type=search]")
    browser.call("Input.insertText", text=word)
    browser.key("Enter")
    prompts = [str(record["prompt"]) for record in read_records(run)]
    there = sum(word in text or word in prompt for text, prompt in zip(texts, prompts, strict=True))
    assert 0 < there < 64
    browser.wait(f"document.querySelector('.filters [role=status]')?.textContent == '{there} rollouts of 64'")


def test_a_report_in_a_folder_opens_without_a_server(browser, run, tmp_path):
    report = write_report(run, tmp_path / "report.html", folder_from=10)
    assert list((tmp_path / "report.data").glob("*.js"))
    lines = self_test(browser, report)
    assert [line for line in lines if not line.startswith("PASS")] == []


def test_two_runs_stand_side_by_side(browser, run, tmp_path):
    other = train(tmp_path / "raft", "raft", {"token_weight": "fork"})
    report = write_report(run, tmp_path / "report.html", other=other)
    browser.open(at(report, "#/compare"))
    browser.wait("document.querySelectorAll('.list .row').length > 1")
    text = browser.evaluate("document.querySelector('main').innerText")
    assert "tasks that both runs saw" in text
    browser.open(at(report, "#/rollout/1/0?heat=weight"))
    browser.wait("document.querySelector('.seg [aria-pressed=true]')?.textContent == 'Weight'")
    lines = self_test(browser, report)
    assert [line for line in lines if not line.startswith("PASS")] == []


def test_clusters_are_drawn_where_there_are_some(browser, report):
    browser.open(at(report, "#/atlas"))
    points = [[0.0, 0.0, 1.0, 4, 0], [1.0, 2.0, -1.0, 5, 0], [3.0, 1.0, 0.0, 6, -1]]
    browser.evaluate(f"document.querySelector('main').append(clusterCard(RUNS[0], {{points: {points}}}))")
    assert browser.evaluate("document.querySelectorAll('main circle').length") == 3
    lowest = browser.evaluate("document.querySelector('[aria-label=\"map of 3 branches\"] a').getAttribute('href')")
    assert lowest == "#/rollout/0/6"  # what ended alike lies below what changed


def test_the_time_of_a_call_is_shown(browser, report, run):
    records = list(read_records(run, times=True))
    i = next(i for i, record in enumerate(records) if any(call["seconds"] for call in record["tool_calls"] or []))
    browser.open(at(report, f"#/rollout/0/{i}"))
    browser.wait("document.querySelector('.side h2')")
    cells = browser.evaluate(
        "[...document.querySelectorAll('[aria-label=\"tool calls\"] td:last-child')].map((cell) => cell.textContent)"
    )
    assert len(cells) == len(records[i]["tool_calls"])
    assert any(re.fullmatch(r"\d+ ms", cell) for cell in cells)


def test_what_could_have_been_written_has_words(browser, report, run):
    records = list(read_records(run))
    i, branch = next((i, record) for i, record in enumerate(records) if record["alternatives"])
    browser.open(at(report, f"#/rollout/0/{i}?token={branch['branch_position']}"))
    browser.wait("document.querySelector('.bars')")
    words = browser.evaluate("[...document.querySelectorAll('.bars .chip')].map((chip) => chip.textContent)")
    assert len(words) >= len(branch["alternatives"])
    assert not any(word.startswith("[token") for word in words)


def test_a_run_tells_versions_and_the_options_of_its_method(browser, report):
    browser.open(at(report, "#/overview"))
    text = browser.evaluate("document.querySelector('main').innerText")
    assert "num_initial_rollouts: 4\n" in text.replace("\n\n", "\n")
    names = browser.evaluate(
        "[...document.querySelectorAll('[aria-label=\"Made with\"] dt')].map((e) => e.textContent)"
    )
    assert names == ["appo", "torch", "transformers", "trl", "records", "directory", "report"]


@pytest.mark.parametrize(
    ("gained", "words"),
    [
        ({"difference": 0.25, "low": 0.1, "high": 0.4, "n": 90}, "[+10.0, +40.0]paired by question, n = 90"),
        ({"difference": 1.0, "low": None, "high": None, "n": 2}, "paired by question, n = 2"),
        # Newcombe: 0.3 - sqrt(0.03^2 + 0.1^2) = 0.1956, 0.3 + sqrt(0.04^2 + 0.1^2) = 0.4077
        (dict.fromkeys(("difference", "low", "high", "n")), "[+19.6, +40.8]interval without pairing"),
    ],
)  # fmt: skip
def test_the_gain_says_whether_it_is_paired(browser, report, gained, words):
    browser.open(at(report, "#/overview"))
    evaluations = [
        {"key": "a", "name": "a", "success": 0.5, "low": 0.4, "high": 0.6},
        {"key": "b", "name": "b", "success": 0.8, "low": 0.77, "high": 0.84},
    ]
    gained = {**gained, "first": "a", "last": "b"}
    tile = f"gainTile({json.dumps(gained)}, {json.dumps(evaluations)})"
    found = browser.evaluate(f"[...{tile}.querySelectorAll('span')].map((e) => e.textContent)")
    assert "".join(found) == f"gained, a to b {words}"


def test_only_all_branches_of_a_task_together_have_intervals(browser, report):
    browser.open(at(report, "#/tree/0/0"))
    browser.wait("document.querySelector('[aria-label=\"did it matter\"]')")
    rows = browser.evaluate(
        "[...document.querySelectorAll('[aria-label=\"did it matter\"] tbody tr')].map((row) => row.textContent)"
    )
    assert len(rows) > 1
    assert ["[" in row for row in rows] == [False] * (len(rows) - 1) + [True]
    few = browser.evaluate("matterWords([0, -1, -1].map((difference) => ({difference})))")
    assert (few["low"], few["high"]) == (None, None)
    many = browser.evaluate("matterWords([0, -1, -1, 0, -1, -1].map((difference) => ({difference})))")
    # Mean -2/3, standard error sqrt(4/15) / sqrt(6) = 0.2108, t = 2.571 with five degrees of freedom
    assert (many["low"], many["high"]) == pytest.approx((-2 / 3 - 0.542, -2 / 3 + 0.542), abs=1e-3)


def test_letters_of_all_charts_of_decisions_are_of_about_one_size(browser, report):
    browser.resize(1400, 900)
    browser.open(at(report, "#/atlas"))
    word = {"text": "a", "mean": 1, "low": 0, "high": 2, "n": 9}
    words = json.dumps({"words": {"entropy": [word], "score": [word]}})
    browser.evaluate(f"document.querySelector('main').append(wordsCard({words}))")
    scale = "(chart) => chart.getBoundingClientRect().width / chart.viewBox.baseVal.width"
    scales = browser.evaluate(f"[...document.querySelectorAll('main svg')].map({scale})")
    assert len(scales) > 2
    assert max(scales) < 1.2 * min(scales)


def test_decisions_may_be_called_so(browser, report):
    browser.open(at(report, "#/decisions"))
    assert browser.evaluate("document.title").startswith("Decisions")
    assert browser.evaluate("document.querySelector('#bar [aria-current]').textContent") == "Decisions"


def test_a_task_is_found_by_the_name_that_show_prints(browser, report, run):
    records = list(read_records(run))
    i, record = next((i, one) for i, one in enumerate(records) if one["step"] == 3)
    browser.open(at(report, f"#/task/{record['task']}"))
    browser.wait("ROUTE.view == 'tree' && document.querySelector('.lane')")
    place = next(j for j, one in enumerate(records) if (one["step"], one["task"]) == (3, record["task"]))
    assert browser.evaluate("location.hash") == f"#/tree/0/{place}"
    assert i == place


@pytest.mark.parametrize("address", ["nowhere", "task/no.such", "tree/0/9999", "rollout/0/9999"])
def test_what_is_not_there_leads_back(browser, report, address):
    browser.open(at(report, "#/atlas"))
    browser.evaluate(f"location.hash = '#/{address}'")
    browser.wait("document.querySelector('main p[role=alert]')")
    assert "There is no" in browser.evaluate("document.querySelector('main').textContent")
    browser.click("main button", "Back")
    browser.wait("ROUTE.view == 'atlas' && document.querySelector('main h1')")
