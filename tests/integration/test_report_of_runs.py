"""Reports of real runs: the credit equation holds for every token, and calls have their times."""

import numpy as np
import pytest
from report_parts import read_index, read_pack, read_shards, unpacked
from training_parts import make_searching_trainer

from appo.report.html.write import write_report

RUNS = [
    ("appo", {"token_weight": "fork"}),
    ("whole_tree", {"future_weight": 0.5}),
    ("gppo", {}),
    ("raft", {"token_weight": "fork"}),
]
SKIPS_IDLE = ("raft",)  # tokens of failed rollouts carry loss, but are left out of the forward


@pytest.mark.parametrize(("method", "options"), RUNS)
def test_what_a_run_records_multiplies_out_for_every_token_that_it_trained_on(tmp_path, method, options):
    trainer = make_searching_trainer(tmp_path, method=method, method_args=options)
    trainer.train()
    run = read_pack(write_report(tmp_path))["runs"][0]
    check = run["summary"]["credit_check"]
    trained = trainer.counters.totals()["tokens/trained"]
    assert check["tokens"] > trained > 0 if method in SKIPS_IDLE else check["tokens"] == trained
    assert (check["disagree"], check["bases_disagree"]) == (0, 0)
    assert check["largest_difference"] < 1e-4
    assert run["summary"]["method"] == method


def test_a_run_leaves_its_calls_with_their_seconds(tmp_path):
    make_searching_trainer(tmp_path, max_steps=1).train()
    page = write_report(tmp_path)
    index = read_index(read_pack(page)["runs"][0])
    calls = [call for shard in read_shards(page) for one in unpacked(shard["details"]) for call in one[0]]
    assert len(calls) == index["n_calls"].sum() > 0
    assert all(len(call) > 6 and call[6] >= 0 for call in calls)
    assert np.array_equal(np.unique(index["tree"]), [0, 1])  # two tasks
