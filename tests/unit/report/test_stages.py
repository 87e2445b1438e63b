"""Progress of long work where there is no terminal: lines now and then, and one at each stage's end."""

import io

from rich.console import Console

from appo.report import bar


def lines_of(seconds_between, monkeypatch):
    monkeypatch.setattr(bar, "SECONDS_BETWEEN_LINES", seconds_between)
    out = io.StringIO()
    with bar.Stages(Console(file=out)) as stages:
        for done in range(4):
            stages("reading", done, 3)
        stages("writing", 1, 2)
    return out.getvalue().splitlines()


def test_every_part_is_told_where_lines_are_always_due(monkeypatch):
    assert lines_of(-1.0, monkeypatch) == ["reading 0/3", "reading 1/3", "reading 2/3", "reading 3/3", "writing 1/2"]


def test_a_stage_tells_its_end_whenever_the_last_line_was(monkeypatch):
    assert lines_of(float("inf"), monkeypatch) == ["reading 3/3"]
