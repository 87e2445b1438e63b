"""Report of a study: a Markdown table, one picture and a JSON summary of finished runs.

    python -m appo.research.report runs/study

The directory holds `runs.jsonl`, one line per finished run (`KEY` and points), and `study.json` with the arms
`{"rivals": [...], "candidates": [...]}`. A point has generated_tokens, rollouts, seconds and cpu_seconds (the process'
own) of training, success, and tool_calls and tokens per evaluated question. A study that is still going can be
reported, too.

Arms are compared where every test run of a testbed has arrived: at the smallest last value of an axis. Every candidate
is compared with every rival: a best rival chosen on the test runs would be compared with on the runs it was chosen by.

Left out on purpose: running the study, and comparisons among candidates or among rivals.
"""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter

from appo.files import read_lines
from appo.research.design import ALPHA, coarse, unreachable
from appo.research.statistics import AXES, Interval, bootstrap_interval, holm, holm_intervals, paired_test, value_at

Run = dict[str, Any]
Budgets = dict[str, dict[str, float]]  # testbed, then axis

KEY = ("testbed", "arm", "phase", "cold_start", "seed", "learning_rate")
TOKENS = "generated_tokens"
NAMES = {
    TOKENS: "generated tokens",
    "rollouts": "rollouts",
    "seconds": "seconds of training",
    "cpu_seconds": "CPU seconds of training",
}
GRID = 60  # places of a mean curve
COMPARED = """## Candidates against rivals

At equal tokens, Holm-corrected over {} comparisons; where p-value and interval disagree, the p-value decides. The
effect is the least that a comparison detects with 80 % power at Holm's first step.
"""


@dataclass
class ArmSummary:
    """Test runs of an arm on a testbed."""

    testbed: str
    arm: str
    runs: int
    learning_rate: float  # as the validation runs chose, else that of the test runs
    success: dict[str, Interval]  # per axis, at the equal budget; 95 %
    tool_calls: float | None  # per evaluated question, at equal tokens
    tokens: float | None  # likewise
    seconds: float | None  # of training, whole run
    cpu_seconds: float | None  # likewise


@dataclass
class Comparison:
    """A candidate against a rival on a testbed, at equal generated tokens."""

    testbed: str
    candidate: str
    rival: str
    pairs: int  # common (cold start, seed)
    unpaired: int  # runs of either without a partner
    difference: Interval  # candidate minus rival, at Holm's level
    p_value: float
    holm_p_value: float
    minimum_detectable_effect: float | None  # with 80 % power at Holm's first step; None for one pair


@dataclass
class Summary:
    """All that the table shows; `notes` are sentences on what is missing or odd."""

    budgets: Budgets
    arms: list[ArmSummary] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_runs(path: str | Path) -> tuple[list[Run], list[str]]:
    """Runs of a `runs.jsonl` in order, and a note for each line that is left out; a missing file holds no runs.

    Left out are points without success, lines that lack points or a field of `KEY`, and all but the last line of a run
    (in the test phase also where the learning rates differ).
    """
    runs: dict[tuple[Any, ...], Run] = {}
    notes = []
    for number, run in enumerate(read_lines(path) if Path(path).is_file() else (), 1):
        key = tuple(run.get(name) for name in KEY)
        points = [point for point in run.get("points") or () if point.get("success") is not None]
        if None in key or not points or run["phase"] not in ("validation", "test"):
            notes.append(f"Line {number} of runs.jsonl is left out: it lacks points with success, or one of {KEY}.")
            continue
        key = key if run["phase"] == "validation" else key[:-1]
        if key in runs:
            notes.append(f"Line {number} of runs.jsonl replaces an earlier line of the same run {key}.")
        runs[key] = {**run, "points": points}
    return list(runs.values()), notes


def _known(run: Run, name: str) -> list[float]:
    return [point[name] for point in run["points"] if point.get(name) is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def choose_learning_rates(runs: Sequence[Run]) -> dict[tuple[str, str], float]:
    """The rate with the best mean final success of the validation runs, per (testbed, arm); of equals the smaller."""
    finals: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run["phase"] == "validation":
            finals[run["testbed"], run["arm"]][run["learning_rate"]].append(run["points"][-1]["success"])
    # Rounded, so that equal means are not told apart by the order of their sum.
    means = {key: {rate: round(float(np.mean(own[rate])), 12) for rate in own} for key, own in finals.items()}
    return {key: min(own, key=lambda rate: (-own[rate], rate)) for key, own in means.items()}


def equal_budgets(tests: Sequence[Run]) -> Budgets:
    """Per testbed and axis, the smallest last value over the test runs that have the axis."""
    budgets: Budgets = {run["testbed"]: {} for run in tests}
    for run, axis in product(tests, AXES):
        if known := _known(run, axis):
            budgets[run["testbed"]][axis] = min(known[-1], budgets[run["testbed"]].get(axis, math.inf))
    return budgets


def summarise(
    runs: Sequence[Run], rivals: Sequence[str], candidates: Sequence[str], budgets: Budgets | None = None
) -> Summary:
    """Summary of a study, finished or not.

    Args:
        runs: As `read_runs` gives them.
        rivals, candidates: Names of arms; others are listed but not compared.
        budgets: Per testbed and axis, instead of the smallest last values; a run that did not get there is left out.
    """
    tests = [run for run in runs if run["phase"] == "test"]
    summary = Summary({name: {**own, **(budgets or {}).get(name, {})} for name, own in equal_budgets(tests).items()})
    chosen = choose_learning_rates(runs)
    if not tests:
        summary.notes.append("There are no test runs yet." if runs else "There are no runs yet.")
        summary.notes += [f"{' '.join(key)}: learning rate {rate:g} so far." for key, rate in chosen.items()]
    for testbed, arm in product(summary.budgets, dict.fromkeys([*candidates, *rivals, *(r["arm"] for r in tests)])):
        if own := [run for run in tests if (run["testbed"], run["arm"]) == (testbed, arm)]:
            summary.arms.append(_summarise_arm(own, chosen.get((testbed, arm)), summary))
    _compare(summary, tests, rivals, candidates)
    return summary


def _summarise_arm(own: list[Run], chosen: float | None, summary: Summary) -> ArmSummary:
    testbed, arm, count = own[0]["testbed"], own[0]["arm"], len(own)
    budgets, success = summary.budgets[testbed], {}
    for axis, budget in budgets.items():
        values = {i: value_at(run["points"], axis, budget) for i, run in enumerate(own)}
        known = {i: value for i, value in values.items() if value is not None}
        if known:
            success[axis] = bootstrap_interval(list(known.values()), [own[i]["cold_start"] for i in known])
        if len(known) < count:
            summary.notes.append(f"{testbed}, {arm}: {len(known)} of {count} runs are known at {budget:g} {axis}.")
    rates = sorted({run["learning_rate"] for run in own})
    if rates != [chosen or rates[0]]:
        summary.notes.append(f"{testbed}, {arm}: test runs used the rates {rates}, validation runs chose {chosen}.")
    budget = budgets.get(TOKENS, math.nan)
    # Of runs that end with their first update the budget is where they end.
    noted = [note for run in own if (note := coarse(run, min(budget, run.get("budget", math.inf))))]
    summary.notes += noted[:1]
    calls = _mean(value_at(run["points"], TOKENS, budget, "tool_calls") for run in own)
    tokens = _mean(value_at(run["points"], TOKENS, budget, "tokens") for run in own)
    seconds, cpu = (_mean(max(_known(run, axis), default=None) for run in own) for axis in ("seconds", "cpu_seconds"))
    return ArmSummary(testbed, arm, count, chosen or rates[0], success, calls, tokens, seconds, cpu)


def _compare(summary: Summary, tests: list[Run], rivals: Sequence[str], candidates: Sequence[str]) -> None:
    """Adds the comparisons, Holm-corrected together."""
    values: dict[tuple[str, str], dict[tuple[Any, Any], float]] = defaultdict(dict)
    for run in tests:
        value = value_at(run["points"], TOKENS, summary.budgets[run["testbed"]].get(TOKENS, math.nan))
        if value is not None:
            values[run["testbed"], run["arm"]][run["cold_start"], run["seed"]] = value
    pairs: dict[tuple[str, str, str], tuple[list[float], list[float], list[Any]]] = {}
    for testbed, candidate, rival in product(summary.budgets, candidates, rivals):
        a, b = values[testbed, candidate], values[testbed, rival]
        if candidate == rival:
            continue
        if common := [key for key in a if key in b]:
            sides = [a[key] for key in common], [b[key] for key in common]
            pairs[testbed, candidate, rival] = (*sides, [cold_start for cold_start, _ in common])
        else:
            summary.notes.append(f"{testbed}: {candidate} and {rival} are not compared; they share no seed yet.")
    summary.notes += unreachable({names: len(clusters) for names, (_, _, clusters) in pairs.items()})
    results = {names: paired_test(*pair, alpha=ALPHA / len(pairs)) for names, pair in pairs.items()}
    p_values = {"/".join(names): result.p_value for names, result in results.items()}
    differences = {"/".join(names): (np.subtract(a, b), clusters) for names, (a, b, clusters) in pairs.items()}
    intervals, adjusted = holm_intervals(differences, p_values, alpha=ALPHA), holm(p_values)
    for (testbed, candidate, rival), name in zip(pairs, p_values, strict=True):
        unpaired = len(values[testbed, candidate].keys() ^ values[testbed, rival].keys())
        effect = results[testbed, candidate, rival].minimum_detectable_effect
        row = (testbed, candidate, rival, intervals[name].count, unpaired, intervals[name], p_values[name])
        summary.comparisons.append(Comparison(*row, adjusted[name], effect if math.isfinite(effect) else None))


def _number(value: float | None, form: str = ",.1f") -> str:
    return "–" if value is None else f"{value:{form}}".replace("%", " %")


def _percent(interval: Interval | None, sign: str = "") -> str:
    """75.2 % [71.2, 78.8]; one value has no interval."""
    if interval is None:
        return "–"
    mean, low, high = (f"{100 * x:{sign}.1f}" for x in (interval.mean, interval.low, interval.high))
    return f"{mean} % [{low}, {high}]" if interval.count > 1 else f"{mean} % (one value)"


def _table(head: str, rows: Iterable[Sequence[Any]]) -> list[str]:
    line = "---|" * len(head.split(" | "))
    return [f"| {head} |", f"|{line}", *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def markdown(summary: Summary) -> str:
    """The table, one section per testbed, then the comparisons and the notes."""
    lines = ["# Study", ""]
    equal = "equal tokens | equal rollouts | equal seconds | equal CPU seconds"
    head = f"arm | {equal} | tool calls per question | tokens per question"
    for testbed, budgets in summary.budgets.items():
        places = [f"{budgets[axis]:,.0f} {NAMES[axis]}" for axis in budgets]
        lines += [f"## {testbed}", "", f"Success on the test seeds at {', '.join(places)}; intervals are 95 %.", ""]
        rows = []
        for arm in (arm for arm in summary.arms if arm.testbed == testbed):
            shares = [_percent(arm.success.get(axis)) for axis in AXES]
            means = [_number(arm.tool_calls), _number(arm.tokens)]
            means += [_number(arm.seconds, ",.0f"), _number(arm.cpu_seconds, ",.0f")]
            rows.append([arm.arm, *shares, *means, f"{arm.learning_rate:g}", arm.runs])
        lines += _table(f"{head} | seconds per run | CPU seconds per run | learning rate | runs", rows)
    if summary.comparisons:
        lines += [COMPARED.format(len(summary.comparisons))]
        rows = []
        for c in summary.comparisons:
            shown = [_percent(c.difference, "+"), f"{c.holm_p_value:.3f}", _number(c.minimum_detectable_effect, ".1%")]
            rows.append([c.testbed, c.candidate, c.rival, *shown, c.pairs, c.unpaired])
        lines += _table("testbed | candidate | rival | difference | Holm p | effect | pairs | unpaired runs", rows)
    return "\n".join([*lines, *(f"- {note}" for note in summary.notes)]).rstrip() + "\n"


def plot_study(runs: Sequence[Run], summary: Summary, picture: str | Path) -> None:
    """Mean success per arm with a band of one standard error over its test runs; dashed lines are equal budgets.

    One row per testbed, one column per axis, 1200 pixels wide. A curve spans what all runs of its arm have reached.
    """
    testbeds = list(summary.budgets) or ["no test runs yet"]
    layout: Any = {
        "figsize": (12, 1 + 3.2 * len(testbeds)),
        "layout": "constrained",
        "squeeze": False,
        "sharey": "row",
    }
    figure, panels = plt.subplots(len(testbeds), len(AXES), **layout)
    colors = {arm: f"C{i % 10}" for i, arm in enumerate(dict.fromkeys(arm.arm for arm in summary.arms))}
    for (testbed, axis), panel in zip(product(testbeds, AXES), panels.flat, strict=True):
        panel.set(title=testbed, xlabel=NAMES[axis], ylabel="success (%)")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(alpha=0.3)
        if axis in (budgets := summary.budgets.get(testbed, {})):
            panel.axvline(budgets[axis], color="black", linestyle="--", linewidth=0.8)
        for arm, color in colors.items():
            own = [run for run in runs if (run["phase"], run["testbed"], run["arm"]) == ("test", testbed, arm)]
            _plot_arm(panel, [run for run in own if _known(run, axis)], axis, color)
    figure.legend([plt.Line2D([], [], color=c) for c in colors.values()], colors, loc="outside upper center", ncols=6)
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def _plot_arm(panel: Any, own: list[Run], axis: str, color: str) -> None:
    spans = [_known(run, axis) for run in own]
    start, end = max((x[0] for x in spans), default=math.inf), min((x[-1] for x in spans), default=0.0)
    if start > end:
        return
    grid = np.linspace(start, end, GRID)
    values = 100 * np.array([[value_at(run["points"], axis, x) for x in grid] for run in own], dtype=float)
    mean, error = values.mean(0), values.std(0, ddof=len(own) > 1) / math.sqrt(len(own))
    panel.plot(grid, mean, color=color)
    panel.fill_between(grid, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)


def write_report(directory: str | Path, budgets: Budgets | None = None) -> Summary:
    """Reads `runs.jsonl` and `study.json` of a directory and writes `table.md`, `study.png` and `summary.json` there.

    Raises:
        ValueError: for a `study.json` that is missing or does not name the arms, and for a broken `runs.jsonl`.
    """
    directory = Path(directory)
    path, remedy = directory / "study.json", 'write {"rivals": [...], "candidates": [...]} there'
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
        rivals, candidates = list(study["rivals"]), list(study["candidates"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} does not name the arms ({error!r}); {remedy}.") from None
    runs, notes = read_runs(directory / "runs.jsonl")
    summary = summarise(runs, rivals, candidates, budgets)
    summary.notes += notes
    (directory / "table.md").write_text(markdown(summary), encoding="utf-8")
    plot_study(runs, summary, directory / "study.png")
    (directory / "summary.json").write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")
    return summary


def main(arguments: Sequence[str]) -> None:
    """`python -m appo.research.report DIRECTORY`; a mistake is one sentence."""
    if len(arguments) != 1:
        sys.exit("usage: python -m appo.research.report DIRECTORY")
    try:
        print(markdown(write_report(arguments[0])), end="")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
