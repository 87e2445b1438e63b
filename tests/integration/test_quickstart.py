"""The README's quickstart, as it stands."""

import runpy
from pathlib import Path

from appo.rollout.records import read_records

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"


def test_the_quickstart_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(QUICKSTART), run_name="__main__")
    assert len(list(read_records("runs/quickstart"))) == 4 * 16
