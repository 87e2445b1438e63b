"""What updates are charged for: sums by hand, and real runs of every kind of arm against their records."""

import itertools

import pytest
import torch

from appo import APPOConfig
from appo.environments import kinship
from appo.research.charges import ChargedTrainer, Ledger
from appo.research.one_run import Curve
from appo.rollout.records import read_records
from appo.rollout.writer import RolloutWriter

NOTHING = dict.fromkeys(("generated_tokens", "rollouts", "tool_calls_made", "seconds", "cpu_seconds"), 0.0)


def amounts(tokens, rollouts, calls, seconds=0.0):
    return dict(zip(NOTHING, (tokens, rollouts, calls, seconds, seconds / 2), strict=True))


def part(tokens, rollouts, calls):
    return dict(zip(("generated_tokens", "rollouts", "tool_calls_made"), (tokens, rollouts, calls), strict=True))


def test_a_mini_batch_is_charged_when_an_update_first_trains_on_it():
    ledger = Ledger()
    cost = amounts(100, 8, 10, seconds=20)
    assert ledger.used(cost) == cost
    ledger.write(cost, {1: part(60, 4, 10), 2: part(40, 4, 0)})
    assert ledger.used(cost) == NOTHING
    ledger.use(1)
    # 60 of 100 tokens, so 12 of the 20 seconds; 4 of 8 rollouts; all calls. The update itself: 7 tokens, 3 seconds.
    assert ledger.used(amounts(107, 9, 10, seconds=23)) == amounts(67, 5, 10, seconds=15)
    ledger.use(1)  # another pass over the same rollouts
    assert ledger.used(amounts(107, 9, 10, seconds=23)) == amounts(67, 5, 10, seconds=15)
    ledger.use(2)
    assert ledger.used(amounts(120, 10, 11, seconds=30)) == amounts(120, 10, 11, seconds=30)


def test_rollouts_that_were_thrown_away_are_dealt_out_in_proportion():
    ledger = Ledger()
    # 200 tokens and 16 rollouts were written; 50 tokens in 4 rollouts are left, and none of the 6 calls.
    ledger.write(amounts(200, 16, 6), {1: part(10, 1, 0), 2: part(40, 3, 0)})
    ledger.use(1)
    assert ledger.used(amounts(200, 16, 6)) == amounts(40, 4, 3)


# ---- real runs ----


def run(tmp_path, updates, **changes):
    """(points, records, totals) of a run measured at every update: 2 a generation, each on 1 task of 4 rollouts."""
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    curve = Curve(budget=10**9, evaluations=10**9, questions=kinship.make_dataset(1, seed=9))
    settings = {
        "num_generations": 4,
        "method": "grpo",
        "per_device_train_batch_size": 4,
        "steps_per_generation": 2,
        "gradient_accumulation_steps": 1,
        "max_steps": updates,
        **changes,
    }
    args = APPOConfig(
        str(tmp_path), max_completion_length=16, save_strategy="no", tool_protocol="tags", bf16=False, use_cpu=True,
        result_format=" <result> {} </result> ", report_to="none", disable_tqdm=True, **settings,
    )  # fmt: skip
    curve.trainer = ChargedTrainer(
        model,
        kinship.exact_answer,
        args,
        kinship.make_dataset(16, seed=3),
        processing_class=tokenizer,
        environment_factory=kinship.KinshipEnvironment,
        callbacks=[curve],
    )
    curve.trainer.train()
    return curve.points, list(read_records(tmp_path)), curve.trainer.counters.totals()


def own_tokens(record):
    return sum(record["policy_mask"][record["branch_position"] or 0 :])


def used_by_hand(records, updates, branches_anew):
    """Tokens and rollouts that the first `updates` updates trained on or branched; each rollout counts once.

    Args:
        branches_anew: Whether the present policy writes the branches, each time a mini-batch is trained on.
    """
    seen = {}
    for record in records:
        if record["step"] <= updates:
            anew = record["step"] if branches_anew and record["parent"] is not None else 0
            seen[record["task"], record["rollout"], anew] = own_tokens(record)
    return sum(seen.values()), len(seen)


HALVES = {"num_initial_rollouts": 2, "num_branch_points": 1}
ARMS = {
    "grpo": {},
    "appo": {"method": "appo", "method_args": {**HALVES, "future_weight": 0.1}},
    "whole_tree": {"method": "whole_tree", "method_args": HALVES},
    "accumulated": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 4},
    "raft": {"method": "raft", "method_args": {"token_weight": "fork"}},
    "arpo": {"method": "arpo"},
    "tree_grpo": {"method": "tree_grpo", "method_args": HALVES},
    "vineppo": {"method": "vineppo", "method_args": HALVES},
}


@pytest.mark.parametrize(("arm", "passes"), [*itertools.product(ARMS, (1, 2))])
def test_an_update_is_charged_for_what_it_trained_on_and_branched(tmp_path, arm, passes):
    points, records, totals = run(tmp_path, 2 * passes + 1, num_iterations=passes, **ARMS[arm])
    anew = arm in ("appo", "whole_tree")
    assert len(points) == 2 * passes + 2
    for point in points:
        charged = point["generated_tokens"], point["rollouts"]
        assert charged == used_by_hand(records, point["updates"], anew), point["updates"]
    # The last update is the first of its generation, whose other mini-batch is written: nobody has used it.
    initial = 2 if anew else 4
    assert points[-1]["rollouts"] == totals["rollouts/generated"] - initial
    assert points[-1]["generated_tokens"] < totals["tokens/generated"]


def test_seconds_of_a_generation_are_charged_as_its_tokens_are(tmp_path, monkeypatch):
    """On a clock that moves by 100 s while a generation is written, and else stands still."""
    now = [0.0]
    monkeypatch.setattr("appo.research.charges.time.perf_counter", lambda: now[0])
    written = RolloutWriter.write

    def slowly(self, *args, **kwargs):
        now[0] += 100
        return written(self, *args, **kwargs)

    monkeypatch.setattr(RolloutWriter, "write", slowly)
    points, records, _ = run(tmp_path, 2)
    first, both = (used_by_hand(records, updates, False)[0] for updates in (1, 2))
    assert [point["seconds"] for point in points] == pytest.approx([0, 100 * first / both, 100], abs=0.01)


def test_what_dynamic_sampling_throws_away_is_paid_by_what_it_keeps(tmp_path):
    # No rollout of random weights succeeds, so that all four rounds are written and one is kept.
    points, records, totals = run(tmp_path, 2, method="dapo", loss_type="dapo")
    first, both = (used_by_hand(records, updates, False)[0] for updates in (1, 2))
    assert totals["rollouts/generated"] == 32
    assert [point["rollouts"] for point in points] == [0, 16, 32]
    total = totals["tokens/generated"]
    assert total > both
    assert [point["generated_tokens"] for point in points] == [0, round(total * first / both), total]
