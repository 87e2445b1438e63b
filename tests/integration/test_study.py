"""A whole study in miniature through the command line: what it writes, and how it goes on."""

import io
import json

import pytest
import torch
from recorded import recorded

from appo import APPOConfig
from appo.cli.main import main
from appo.environments import kinship
from appo.files import read_lines
from appo.research import schedule
from appo.research.charges import ChargedTrainer
from appo.research.one_run import Curve
from appo.research.plan import Job, Study

RECIPE = """
task: kinship
demonstrations: 64
cold_start:
  {max_steps: 4, per_device_train_batch_size: 8, learning_rate: 1.0e-3, save_strategy: "no", max_length: 256}
num_generations: 4
method_args: {num_initial_rollouts: 2, num_branch_points: 1}
per_device_train_batch_size: 8
steps_per_generation: 2
max_completion_length: 32
deterministic: true
tool_protocol: tags
result_format: " <result> {} </result> "
train_size: 16
bf16: false
use_cpu: true
report_to: none
"""

STUDY = """
recipe: %(directory)s/recipe.yaml
output_dir: %(directory)s/out
testbeds: {small: {task: "kinship:QUIET"}}
arms: {appo: {}, grpo: {method: grpo}}
rivals: [grpo]
candidates: [appo]
generated_tokens: 1500
evaluations: 2
questions: 8
learning_rates: [4.0e-4]
test_seeds: 1
cold_starts: 1
jobs: 1
"""


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Two threads that wait for each other are many times slower where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The directory of a finished study."""
    directory = tmp_path_factory.mktemp("study")
    (directory / "recipe.yaml").write_text(RECIPE)
    (directory / "study.yaml").write_text(STUDY % {"directory": directory})
    assert main(["study", str(directory / "study.yaml")]) == 0
    return directory


def table(text):
    """What a command printed, from the table on: what it says along the way depends on what is left to do."""
    return text[text.index("# Study") :]


def runs(directory):
    return list(read_lines(directory / "out" / "runs.jsonl"))


def test_a_study_writes_a_line_per_run_and_its_report(done):
    lines = runs(done)
    names = ("testbed", "arm", "phase", "cold_start", "seed", "learning_rate", "questions")
    expected = [("small", arm, "test", 0, 2000, 4e-4, 8) for arm in ("appo", "grpo")]
    assert [tuple(line[name] for name in names) for line in lines] == expected
    for line in lines:
        first, *_, last = line["points"]
        assert (first["updates"], first["generated_tokens"], first["rollouts"]) == (0, 0, 0)
        # The last point is that of the update that reaches the budget.
        assert last["generated_tokens"] >= 1500 > line["points"][-2]["generated_tokens"]
        assert [point["success"] * 8 % 1 for point in line["points"]] == [0] * len(line["points"])
        for name in ("updates", "generated_tokens", "rollouts"):
            values = [point[name] for point in line["points"]]
            assert values == sorted(set(values))
        for name in ("seconds", "cpu_seconds"):
            values = [point[name] for point in line["points"]]
            assert values == sorted(values) and values[-1] > values[0] == 0
    # Arms start from one model and are asked the same.
    assert lines[0]["points"][0]["tokens"] == lines[1]["points"][0]["tokens"]
    out = done / "out"
    text = (out / "table.md").read_text()
    assert "## small" in text
    assert "| small | appo | grpo |" in text
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((out / "summary.json").read_text())
    assert [arm["arm"] for arm in summary["arms"]] == ["appo", "grpo"]
    assert summary["comparisons"][0]["pairs"] == 1


def test_the_second_start_does_nothing_and_a_lost_line_comes_out_the_same(done, capsys, monkeypatch):
    path, out = done / "out" / "runs.jsonl", done / "out"
    before, text = path.read_text(), (out / "table.md").read_text()
    weights = (out / "models" / "small-0" / "cold_start" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    # The first of two lines was lost, and half of another is left.
    path.write_text(before.splitlines()[1] + "\n" + before.splitlines()[0][:40])
    assert main(["study", str(done / "study.yaml")]) == 0
    again = sorted(runs(done), key=lambda line: line["arm"])
    for line, old in zip(again, [json.loads(line) for line in before.splitlines()], strict=True):
        for point in (*line["points"], *old["points"]):
            del point["seconds"], point["cpu_seconds"]
        assert line == old
    assert (out / "models" / "small-0" / "cold_start" / "model.safetensors").stat().st_mtime_ns == weights
    path.write_text(before)
    capsys.readouterr()
    done_now = []
    monkeypatch.setattr(schedule.Workers, "do", lambda self, plan, jobs: done_now.extend(jobs) or iter(()))
    assert main(["study", str(done / "study.yaml")]) == 0
    assert path.read_text() == before
    assert (out / "table.md").read_text() == text
    assert table(capsys.readouterr().out).startswith(text)
    assert [job for job in done_now if job.arm] == []


def test_runs_with_other_questions_are_refused(done, capsys):
    before = (done / "out" / "runs.jsonl").read_text()
    assert main(["study", str(done / "study.yaml"), "--questions", "9"]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"appo: {done / 'out'} holds runs with another questions; give another --output_dir, or --overwrite true.\n"
    )
    assert (done / "out" / "runs.jsonl").read_text() == before


def test_shares_of_running_jobs_are_told_where_there_is_no_terminal(tmp_path, monkeypatch):
    one, two = Job(0, "small"), Job(1, "small")
    plan = Study(recipe="r.yaml", output_dir=str(tmp_path), testbeds={"small": {}}, arms={"appo": {}})
    answers = [(one, 0.4, None), (two, 0.25, None), (one, None, None), (two, 0.5, None), (two, None, None)]

    class Scripted:
        def do(self, plan, jobs):
            assert jobs == [one, two]
            return iter(answers)

    monkeypatch.setattr(schedule, "SECONDS_BETWEEN_LINES", -1.0)
    out = io.StringIO()
    with schedule.progress_bar(schedule.Console(file=out, width=200)) as bar:
        schedule._do_all("test", plan, [one, two], Scripted(), bar)
    assert out.getvalue().splitlines()[:5] == [
        "test 0/2: small, cold start, cold start 0 40%",
        "test 0/2: small, cold start, cold start 0 40%, small, cold start, cold start 1 25%",
        "test 1/2: small, cold start, cold start 0",
        "test 1/2: small, cold start, cold start 1 50%",
        "test 2/2: small, cold start, cold start 1",
    ]


def test_measurements_change_neither_the_run_nor_its_totals(tmp_path):
    records, totals = [], []
    for name, evaluations in (("often", 50), ("once", 1)):
        torch.manual_seed(0)
        model, tokenizer = kinship.make_model()
        shares = []
        curve = Curve(400, evaluations, kinship.make_dataset(4, seed=9), shares.append)
        args = APPOConfig(
            str(tmp_path / name),
            num_generations=4,
            method_args={"num_initial_rollouts": 2, "num_branch_points": 1},
            per_device_train_batch_size=4,
            steps_per_generation=1,
            max_completion_length=16,
            max_steps=100,
            logging_steps=1,
            save_strategy="no",
            tool_protocol="tags",
            result_format=" <result> {} </result> ",
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = ChargedTrainer(
            model,
            kinship.exact_answer,
            args,
            kinship.make_dataset(16, seed=3),
            processing_class=tokenizer,
            environment_factory=kinship.KinshipEnvironment,
            callbacks=[curve],
        )
        curve.trainer = trainer
        trainer.train()
        records.append(recorded(tmp_path / name))
        totals.append(trainer.counters.totals())
        assert 400 <= curve.points[-1]["generated_tokens"] == totals[-1]["tokens/generated"] < 500
        assert shares == sorted(shares) and len(shares) == trainer.state.global_step and shares[-1] == 1.0
        assert len(curve.points) == (2 if name == "once" else trainer.state.global_step + 1)
    assert totals[0] == totals[1]
    assert records[0] == records[1]
