"""The results of an evaluation as text of at most 100 columns.

Left out on purpose: files of tables; `results.json` holds the numbers.
"""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 100
NAMES = {"f1": "F1", "em": "EM", "math": "math", "judge": "judge", "tests": "tests", "verifier": "verifier"}
LEGEND = (
    "pass@k: expected best score of k samples, in %. [95 % interval]: bootstrap over questions; w: Wilson's. calls, "
    "tokens: per sample. format: share of samples with format errors. cut: share at the token limit."
)
PER_TABLE = 4  # columns of pass@k


def print_results(results: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Prints the benchmarks' summaries (`appo.evaluation.scores.summarise`), the shown metrics and a legend."""
    # Of its own width: a pipe counts as 80 columns, and rows would lose their ends there.
    console = Console(file=console.file, width=WIDTH, highlight=False, markup=False)
    table = _table("benchmark", "n", "samples", "metric", "pass@1 [95 %]", "calls", "format", "tokens", "cut")
    for name, result in results.items():
        facts = [
            f"{result['tool_calls']:.2f}",
            "" if result["format_errors"] is None else f"{result['format_errors']:.0%}",
            f"{result['tokens']:,.0f}",
            f"{result['truncated']:.0%}",
        ]
        counts = [str(result["questions"]), str(result["samples"])]
        for row, metric in enumerate(shown_metrics(result)):
            cells = [NAMES[metric], _cell(result["metrics"][metric][0])]
            table.add_row(*([name, *counts, *cells, *facts] if row == 0 else ["", "", "", *cells, *[""] * 4]))
    console.print("", table, "")
    for name, result in results.items():
        if why := result.get("why_zero"):
            console.print(f"{name}: nothing is right; {why}.")
    most = max(result["samples"] for result in results.values())
    for first in range(1 if most > 1 else most, most, PER_TABLE):
        ks = range(first, min(first + PER_TABLE, most))
        table = _table("benchmark", "metric", *(f"pass@{k + 1}" for k in ks))
        for name, result in results.items():
            for metric in shown_metrics(result):
                values = result["metrics"][metric]
                table.add_row(name, NAMES[metric], *(_cell(values[k]) if k < len(values) else "" for k in ks))
        console.print(table, "")
    console.print(LEGEND)


def shown_metrics(result: Mapping[str, Any]) -> list[str]:
    """The benchmark's metric; where a judge is wanted and there is none, EM and F1 instead."""
    return [result["metric"]] if result["metric"] in result["metrics"] else ["em", "f1"]


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for name in names:
        table.add_column(name, justify="left" if name in ("benchmark", "metric") else "right", no_wrap=True)
    return table


def _cell(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return "none"
    mark = "w" if value["interval"] == "wilson" else ""
    low, high = 100 * value["low"], 100 * value["high"]
    return f"{100 * value['mean']:.1f} [{low:.1f}, {high:.1f}]{mark}"
