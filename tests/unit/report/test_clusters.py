"""Branches in a plane: what is gathered of them, and what a UMAP makes of it where there is one."""

import numpy as np
import pytest
from report_parts import parts_of_run, record, write_run

from appo.report.html import clusters
from appo.report.html.clusters import Clusters


def gathered(tmp_path, branches):
    """Clusters of so many branches, of which half write tokens of their own."""
    tree = [record(0, 1.0, base=0.5, length=8)]
    for number in range(1, branches + 1):
        ids = [10, 11] + [20 + number % 2 * 20 + place for place in range(6)]
        tree.append(record(number, number % 2 * 1.0, parent=0, position=2, length=8, completion_ids=ids))
    (part,) = parts_of_run(write_run(tmp_path, tree))
    found = Clusters()
    found.there = True
    rows = np.arange(1, branches + 1)
    found.add(part, rows, part.numbers("reward")[rows] - 1.0, rows)
    return found


def test_of_a_branch_its_own_tokens_count(tmp_path):
    found = gathered(tmp_path, 2)
    assert found._counts.sum(1).tolist() == [6.0, 6.0]
    assert np.flatnonzero(found._counts[1]).tolist() == [20, 21, 22, 23, 24, 25]
    assert found._rows.tolist() == [[0.0, 1.0], [-1.0, 2.0]]


def test_of_very_many_branches_a_sample_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "MOST", 5)
    first, second = (gathered(tmp_path / name, 20) for name in ("a", "b"))
    assert len(first._rows) == len(first._counts) == len(first._keys) == 5
    assert first._rows.tolist() == second._rows.tolist()


def test_few_branches_make_no_picture(tmp_path):
    assert gathered(tmp_path, clusters.LEAST - 1).summary() is None


def test_without_a_umap_nothing_is_gathered(tmp_path):
    found = gathered(tmp_path, 3)
    empty = Clusters()
    empty.there = False
    (part,) = parts_of_run(tmp_path)
    empty.add(part, np.arange(1, 4), np.zeros(3), np.arange(1, 4))
    assert (len(found._rows), len(empty._rows), empty.summary()) == (3, 0, None)


def test_branches_that_write_alike_lie_together(tmp_path):
    pytest.importorskip("umap", reason="umap-learn is not installed")
    found = gathered(tmp_path, 60).summary()
    groups = [{point[4] for point in found["points"] if point[2] == outcome} for outcome in (0.0, -1.0)]
    assert len(found["points"]) == 60
    assert groups[0].isdisjoint(groups[1])
