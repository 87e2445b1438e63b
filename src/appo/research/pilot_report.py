"""The pilot study's tables as Markdown, and its picture.

Left out on purpose: the numbers (`pilot.py`).
"""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from appo.report.intervals import Interval

Rows = list[dict[str, Any]]  # of a table


def markdown(tables: dict[str, Rows]) -> str:
    """One table per title; intervals as `mean [low, high]`."""

    def shown(value: Any) -> str:
        if isinstance(value, Interval):
            return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = []
    for title, rows in tables.items():
        cells = [list(rows[0]), ["---"] * len(rows[0]), *(map(shown, row.values()) for row in rows)]
        lines += [f"## {title}", "", *(f"| {' | '.join(line)} |" for line in cells), ""]
    return "\n".join(lines)


def draw(tables: dict[str, Rows], picture: Path) -> None:
    """Means with their intervals: what picks decide, pass@k, tokens by kind, picks by setting."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    wanted = (("decision var", "outcome var"), ("pass@1", "pass@4"), ("H ",), ("shared", "decisions"))
    drawn = [item for item in tables.items() if "third" not in item[0]]
    for panel, prefixes, (title, rows) in zip(figure.subplots(2, 2).flat, wanted, drawn, strict=True):
        labels = [str(next(iter(row.values()))).replace(" ", "\n") for row in rows]
        for name in (name for name in rows[0] if name.startswith(prefixes)):
            found = [row[name] for row in rows]
            errors = [[v.mean - v.low for v in found], [v.high - v.mean for v in found]]
            panel.errorbar(labels, [v.mean for v in found], yerr=errors, fmt="o", capsize=3, label=name)
        panel.legend(title=title, fontsize=8)
    figure.savefig(picture, dpi=100)
