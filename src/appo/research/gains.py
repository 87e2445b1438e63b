"""The map of several studies: what every arm gains over one of them, testbed by testbed, as a table and a picture.

    python -m appo.research.gains runs/map-kinship runs/map-planning --over raft --output docs/images/map.png

Gains are differences of paired runs at equal generated tokens, in points, with 95 % bootstrap intervals over cold
starts and seeds. Left out on purpose: tests and corrections for many comparisons (a study's own report): a map says
where to look.
"""

import argparse
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from appo.files import write_text
from appo.research.report import TOKENS, Run, equal_budgets, read_runs
from appo.research.statistics import Interval, bootstrap_interval, value_at

MATTERS = 4.0  # points, below which a gain is not worth a method


@dataclass
class Gain:
    """What an arm gained over another on a testbed, in points.

    Args:
        before: Success of the cold starts, 0 to 1, mean over the arm's runs that have a pair.
        over: Success of the other arm at equal tokens, 0 to 1, mean over pairs.
        points: The difference.
        pairs: Runs of equal cold start and seed.
        tokens: At which they are compared.
    """

    testbed: str
    arm: str
    before: float
    over: float
    points: Interval
    pairs: int
    tokens: float


def gains(runs: Sequence[Run], over: str) -> list[Gain]:
    """The gains of all arms but `over`, by testbed and arm in the order in which they stand in the runs."""
    tests = [run for run in runs if run["phase"] == "test"]
    found: dict[tuple[str, str], dict[tuple[int, int], tuple[float, float]]] = defaultdict(dict)
    for testbed, budget in equal_budgets(tests).items():
        for run in tests:
            if run["testbed"] == testbed and (value := value_at(run["points"], TOKENS, budget[TOKENS])) is not None:
                pair = (run["cold_start"], run["seed"])
                found[testbed, run["arm"]][pair] = (run["points"][0]["success"], value)
    budgets = equal_budgets(tests)
    rows = []
    for (testbed, arm), own in found.items():
        rival = found.get((testbed, over), {})
        pairs = sorted(own.keys() & rival.keys())
        if arm == over or not pairs:
            continue
        clusters: list[Hashable] = [cold_start for cold_start, _ in pairs]
        difference = [100 * (own[pair][1] - rival[pair][1]) for pair in pairs]
        before = sum(own[pair][0] for pair in pairs) / len(pairs)
        base = sum(rival[pair][1] for pair in pairs) / len(pairs)
        points = bootstrap_interval(difference, clusters)
        rows.append(Gain(testbed, arm, before, base, points, len(pairs), budgets[testbed][TOKENS]))
    return rows


def markdown(rows: Sequence[Gain], over: str) -> str:
    """A row per testbed and a column per arm: gains in points, with the number of pairs.

    Arms that have other pairs have other cold starts and other rivals: where these means differ, there is one per arm,
    in the order of the columns.
    """
    arms = list(dict.fromkeys(row.arm for row in rows))
    head = ["testbed", "cold start", over, *arms, "tokens"]
    lines = [head, ["---"] * len(head)]
    for testbed in dict.fromkeys(row.testbed for row in rows):
        by_arm = {row.arm: row for row in rows if row.testbed == testbed}
        own = [by_arm[arm] for arm in arms if arm in by_arm]
        cells = [shown(by_arm[arm].points) if arm in by_arm else "" for arm in arms]
        before, base = (_each([f"{value:.0%}" for value in values]) for values in _means(own))
        lines.append([testbed, before, base, *cells, f"{own[0].tokens:,.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _means(rows: Sequence[Gain]) -> tuple[list[float], list[float]]:
    return [row.before for row in rows], [row.over for row in rows]


def _each(values: list[str]) -> str:
    return values[0] if len(set(values)) == 1 else " / ".join(values)


def shown(points: Interval) -> str:
    """A gain in points, its interval, and in brackets the number of pairs; one pair has no interval."""
    interval = f" [{points.low:+.1f}, {points.high:+.1f}]" if points.count > 1 else ""
    return f"{points.mean:+.1f}{interval} ({points.count})"


def draw(rows: Sequence[Gain], over: str, picture: Path) -> None:
    """A panel per arm, a line per testbed; the grey band is what is not worth a method. One pair is a grey ring."""
    arms, testbeds = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("arm", "testbed"))
    figure = Figure(figsize=(2.2 * len(arms) + 1.5, 0.32 * len(testbeds) + 1.4), layout="constrained")
    panels = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
    for arm, panel in zip(arms, panels, strict=True):
        own = [row for row in rows if row.arm == arm]
        panel.axvspan(-MATTERS, MATTERS, color="0.93", zorder=0)
        panel.axvline(0, color="0.4", linewidth=0.8)
        for row in own:
            place = testbeds.index(row.testbed)
            if row.pairs == 1:
                panel.plot(row.points.mean, place, "o", color="0.35", fillstyle="none", markersize=4)
                continue
            color = "tab:green" if row.points.low > 0 else "tab:red" if row.points.high < 0 else "0.35"
            panel.plot([row.points.low, row.points.high], [place, place], color=color, linewidth=1.6)
            panel.plot(row.points.mean, place, "o", color=color, markersize=4)
        panel.set_title(arm.replace("_", " "), fontsize=9)
        panel.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(testbeds)), testbeds)
    panels[0].invert_yaxis()
    figure.supxlabel(f"success minus that of {over} at equal tokens, points", fontsize=9)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, help="output_dir of each study")
    parser.add_argument("--over", required=True, help="the arm that all others are compared with")
    parser.add_argument("--output", required=True, type=Path, help="the picture; the table lies beside it, as .md")
    options = parser.parse_args(arguments)
    rows: list[Gain] = []
    studies: dict[str, Path] = {}  # of each testbed
    for directory in options.studies:
        runs, notes = read_runs(directory / "runs.jsonl")
        print(*notes, sep="\n", end="\n" if notes else "")
        for testbed in dict.fromkeys(run["testbed"] for run in runs):
            if studies.setdefault(testbed, directory) != directory:
                raise SystemExit(
                    f"testbed {testbed} is in {studies[testbed]} and in {directory}: rename it in one of the studies, "
                    "or map them apart."
                )
        rows += gains(runs, options.over)
    if not rows:
        raise SystemExit(f"no test run of {options.over} has a partner in {', '.join(map(str, options.studies))}.")
    table = markdown(rows, options.over)
    draw(rows, options.over, options.output)
    write_text(options.output.with_suffix(".md"), table)
    print(table)


if __name__ == "__main__":
    _main()
