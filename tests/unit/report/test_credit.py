"""The credit equation: what a record says that an advantage is made of multiplies out to the advantage."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_parts import add_branch, make_method, make_scores, make_tree, rollout_of
from report_parts import exact_values, parts_of_run, read_pack, read_shards, record, unpacked, write_run

from appo.algorithm import FUTURE_CLIP
from appo.algorithm.fork_weight import FORK_SCALE
from appo.methods import METHODS, options_of
from appo.methods.appo import ADVANTAGES, APPOOptions
from appo.report.html import credit, credit_words
from appo.report.html.credit import TOLERANCE, CreditCheck
from appo.report.html.credit_words import base_of, factor_help
from appo.report.html.write import write_report
from appo.rollout.records import RecordWriter
from appo.rollout.rollout_records import rollout_records

APPO = [
    {"advantage": advantage, "future_weight": weight, "token_weight": fork}
    for advantage in ADVANTAGES
    for weight in (0.0, 0.5)
    for fork in ("uniform", "fork")
]
CASES = [
    *(("appo", options) for options in APPO),
    ("appo", {"discount_over": "policy", "half_life": 4.0, "future_clip": [0.5, 2.0]}),
    *((name, {"token_weight": fork}) for name in METHODS if name != "appo" for fork in ("uniform", "fork")),
    ("whole_tree", {"future_weight": 0.7, "local_weight": 0.3}),
    ("arpo", {"shared_prefix": "hard"}),
]
BRANCHING = ("appo", "whole_tree", "arpo", "tree_grpo", "vineppo")


def credited(name, options, rewards, generator):
    """Two trees and the credit that a method gives them, with scores drawn at random."""
    if name in ("appo", "whole_tree", "tree_grpo", "vineppo"):
        options = {"num_initial_rollouts": 2, "num_branch_points": 1, **options}
    method = make_method(name, options, num_generations=4, loss_type="dapo")
    trees = [make_tree(rewards[:2], length=5), make_tree(rewards[2:4], length=7)]
    for tree in trees:
        if name in BRANCHING:
            for parent, reward in ((0, rewards[4]), (1, rewards[5])):
                position = int(torch.randint(1, 4, (), generator=generator))
                add_branch(tree, parent, position, reward, length=3)
        else:
            for reward in rewards[4:6]:
                tree.add_initial(rollout_of(6, reward))
    rows = [rollout for tree in trees for rollout in tree.trained(method.needs.trains)]
    shape = len(rows), max(len(rollout.completion_ids) for rollout in rows)
    entropies = 4 * torch.rand(shape, generator=generator)
    scores = make_scores(
        trees,
        method.needs.trains,
        log_ratio=0.2 * torch.randn(shape, generator=generator),
        entropies=entropies,
        collisions=-entropies * torch.rand(shape, generator=generator),
    )
    return trees, method, scores, method.credit(trees, scores)


def recorded(directory, trees, method, given):
    """The credit, written down and read again."""
    factors = {"base": given.base_BT, **given.factors, "loss_mask": given.loss_mask_BT}
    per_token = {**given.measured, "advantages": given.advantages_BT}
    records = rollout_records(trees, per_token, 1, method.needs.trains, factors=factors)
    RecordWriter(directory / "records").append(1, records)
    return parts_of_run(directory)


@pytest.mark.parametrize(("name", "options"), CASES)
@settings(max_examples=8, deadline=None)
@given(rewards=st.lists(st.sampled_from([0.0, 1.0, 0.25, -1.0, 3.7]), min_size=6, max_size=6), seed=st.integers(0, 99))
def test_the_product_of_what_is_recorded_is_the_advantage_of_the_loss(tmp_path_factory, name, options, rewards, seed):
    directory = tmp_path_factory.mktemp("run")
    trees, method, _, given = credited(name, options, rewards, torch.Generator().manual_seed(seed))
    (part,) = recorded(directory, trees, method, given)
    check = CreditCheck(base_of(name, options))
    wrong = check.add(part, np.arange(len(part.lengths_R)))
    assert check.tokens == int(given.loss_mask_BT.sum()) > 0
    assert check.disagree == 0 == len(wrong.rows)
    assert check.summary()["bases_disagree"] == 0

    # Not only what the record says, but what the loss got.
    mask = given.loss_mask_BT.bool()
    loss = given.advantages_BT[mask].double().numpy()
    found = credit.product(part)[part.loss_P]
    assert np.abs(found - loss).max() <= TOLERANCE * max(1.0, np.abs(loss).max())


def test_the_page_multiplies_to_the_same_numbers(tmp_path):
    options = {"token_weight": "fork"}
    trees, method, _, given = credited(
        "appo", options, [0.0, 1.0, 1.0, 0.25, 1.0, 0.0], torch.Generator().manual_seed(1)
    )
    recorded(tmp_path, trees, method, given)
    page = write_report(tmp_path)
    (shard,) = read_shards(page)
    lengths = unpacked(read_pack(page)["runs"][0]["index"]["columns"]["n_tokens"])
    carries = np.flatnonzero(unpacked(shard["flags"]) & 2)
    rollouts = np.repeat(np.arange(len(lengths)), lengths)[carries]
    product = np.prod([exact_values(f, rollouts).astype(float) for f in shard["credit"]["factors"].values()], axis=0)
    loss = given.advantages_BT[given.loss_mask_BT.bool()].double().numpy()
    assert set(shard["credit"]["factors"]) == {"base", "future_factor", "token_weight"}
    assert np.abs(product - loss).max() <= TOLERANCE * max(1.0, np.abs(loss).max())
    assert shard["credit"]["differences"] == []


def broken_run(tmp_path, **values):
    """Two rollouts; of the second, one token says another advantage than its base."""
    records = [record(0, 1.0, base=0.5), {**record(1, 0.0, base=-0.5), **values}]
    return write_run(tmp_path, records)


def test_a_record_that_breaks_the_equation_is_counted_and_shown(tmp_path):
    run = broken_run(tmp_path, advantages=[-0.5, -0.5, 2.0, -0.5])
    page = write_report(run)
    check = read_pack(page)["runs"][0]["summary"]["credit_check"]
    assert (check["tokens"], check["disagree"]) == (8, 1)
    assert check["largest_difference"] == pytest.approx(2.5 / 2.0)  # relative beyond an advantage of 1
    assert read_shards(page)[0]["credit"]["differences"] == [[1, 2, 2.0]]


def test_a_difference_below_the_tolerance_is_rounding(tmp_path):
    run = broken_run(tmp_path, advantages=[-0.5, -0.5, -0.50008, -0.5])
    assert read_pack(write_report(run))["runs"][0]["summary"]["credit_check"]["disagree"] == 0


def test_a_factor_that_is_missing_disagrees(tmp_path):
    factors = {"base": [-0.5, None, -0.5, -0.5], "loss_mask": [1.0] * 4}
    page = write_report(broken_run(tmp_path, factors=factors))
    check = read_pack(page)["runs"][0]["summary"]["credit_check"]
    assert check["disagree"] == 1
    assert check["largest_difference"] is None  # there is none, which is not 0
    assert read_shards(page)[0]["credit"]["differences"] == [[1, 1, -0.5]]


def test_tokens_without_loss_are_not_tried(tmp_path):
    factors = {"base": [-0.5] * 4, "loss_mask": [0.0, 0.0, 1.0, 1.0]}
    page = write_report(broken_run(tmp_path, factors=factors, advantages=[9.0, 9.0, -0.5, -0.5]))
    check = read_pack(page)["runs"][0]["summary"]["credit_check"]
    assert (check["tokens"], check["disagree"]) == (6, 0)


def test_a_base_that_its_rewards_do_not_give_is_counted(tmp_path):
    groups = {"initial_mean": 0.5, "initial_std": 0.5}  # a reward of 1 is 1 standard deviation above
    records = [record(0, 1.0, base=1.0, **groups), record(1, 0.0, base=-0.25, **groups)]
    check = read_pack(write_report(write_run(tmp_path, records)))["runs"][0]["summary"]["credit_check"]
    assert (check["bases"], check["bases_disagree"]) == (2, 1)
    assert check["bases_largest_difference"] == pytest.approx(0.75)
    assert check["disagree"] == 0


def test_eq_6_is_the_mean_of_two_terms_and_a_group_without_spread_adds_nothing(tmp_path):
    spreads = {"initial_mean": 0.5, "initial_std": 0.5, "branch_mean": 0.25, "branch_std": 0.25}
    records = [
        record(0, 1.0, **spreads),  # ((1 - 0.5) / 0.5 + (1 - 0.25) / 0.25) / 2 = 2
        record(1, 1.0, **{**spreads, "branch_std": 0.0}),  # (1 + 0) / 2
        record(2, 1.0, initial_mean=0.5, initial_std=0.5),  # no branches: (1 + 0) / 2
        record(3, None, **spreads),  # not scored
    ]
    (part,) = parts_of_run(write_run(tmp_path, records))
    assert credit.base_from_groups(part, ["initial", "branch"]).tolist() == [2.0, 0.5, 0.5, 0.0]


def test_a_spread_of_rounding_alone_is_none(tmp_path):
    """1e-7, as float32 leaves of equal rewards, counts as 0; 1e-5 does not: (0.5 - 0.25) / 1e-5."""
    one = {"initial_mean": 0.25}
    records = [record(n, 0.5, **one, initial_std=std) for n, std in enumerate((1e-7, 1e-5))]
    (part,) = parts_of_run(write_run(tmp_path, records))
    assert credit.base_from_groups(part, ["initial"]).tolist() == pytest.approx([0.0, 25_000.0], rel=1e-5)


def test_samples_name_tokens_of_the_report_and_what_is_recorded_of_them(tmp_path):
    records = [[record(n, 0.0, step=step, base=step / 8) for n in range(2)] for step in (1, 2)]
    samples = read_pack(write_report(write_run(tmp_path, *records)))["runs"][0]["summary"]["credit_check"]["samples"]
    assert len(samples) == 16  # all of them, as there are fewer than 200
    assert samples == sorted(
        [rollout, token, 0.125 if rollout < 2 else 0.25] for rollout in range(4) for token in range(4)
    )


def test_a_run_without_factors_shows_its_advantages_and_tries_nothing(tmp_path):
    values = record(0, 1.0, base=0.5)
    del values["factors"]
    page = write_report(write_run(tmp_path, [values]))
    assert read_pack(page)["runs"][0]["summary"]["credit_check"]["method_has_factors"] is False
    shown = read_shards(page)[0]["credit"]
    assert shown["factors"] == {}
    assert exact_values(shown["advantage"], np.zeros(4, int)).tolist() == [0.5] * 4


def test_the_report_knows_the_bases_of_every_method():
    assert all(base_of(name, {})["kind"] for name in METHODS)
    assert {base_of("appo", {"advantage": kind})["kind"] for kind in ADVANTAGES} == set(ADVANTAGES)
    own = base_of("my.module:Mine", {})
    assert own["kind"] is None
    assert own["groups"] == []


def spread(**values):
    return {"initial_mean": 0.5, "initial_std": 0.5, "branch_mean": 0.0, "branch_std": 0.5, **values}


@pytest.mark.parametrize(
    ("bases", "kind"),
    [
        ([1.5, -0.5], "dual_group"),  # ((1 - 0.5) / 0.5 + (1 - 0) / 0.5) / 2, ((0 - 0.5) / 0.5 + 0) / 2
        ([1.0, -1.0], "group"),
        ([1.0, -0.5], None),  # one rollout that disagrees is enough
        ([0.0, 0.0], None),  # equal to nothing in particular
    ],
)
def test_the_base_of_an_own_method_is_known_by_its_numbers(tmp_path, bases, kind):
    records = [
        record(n, reward, base=base, **spread())
        for n, (reward, base) in enumerate(zip((1.0, 0.0), bases, strict=True))
    ]
    run = write_run(tmp_path, records, settings={"method": "my.module:Mine"})
    found = read_pack(write_report(run))["runs"][0]["summary"]
    assert (found["base_kind"], found["base"]["kind"]) == (kind, kind)
    assert found["credit_check"]["bases"] == (2 if kind else 0)
    assert found["credit_check"]["bases_disagree"] == 0


def test_a_base_that_varies_along_a_rollout_is_no_reward_of_a_group(tmp_path):
    factors = {"base": [1.0, 1.0, 1.0, 0.5], "loss_mask": [1.0] * 4}
    one = record(0, 1.0, base=1.0, factors=factors, advantages=factors["base"], **spread())
    run = write_run(tmp_path, [one], settings={"method": "my.module:Mine"})
    assert read_pack(write_report(run))["runs"][0]["summary"]["base_kind"] is None


def test_an_unknown_factor_is_called_by_its_name():
    found = factor_help(["base", "how_bold"], {})
    assert found["how_bold"]["label"] == "how bold"
    assert found["how_bold"]["equation"] == ""


def test_equations_hold_the_numbers_of_the_run():
    options = {"future_weight": 0.25, "future_clip": [0.8, 1.2], "weight_floor": 0.2}
    found = factor_help(["future_factor", "token_weight"], options)
    assert found["future_factor"]["equation"] == "1 + 0.25 · clip(Ω, 0.8, 1.2), Eq. 7"
    assert found["token_weight"]["equation"] == "0.2 + 0.8 · min(1, 4.5 (H − H2) / perplexity)"


def test_defaults_that_are_told_are_those_of_the_methods():
    defaults = {f.name: f.default for f in dataclasses.fields(APPOOptions)}
    assert (defaults["future_weight"], defaults["weight_floor"]) == (
        credit_words.FUTURE_WEIGHT,
        credit_words.WEIGHT_FLOOR,
    )
    assert credit_words.FUTURE_CLIP == FUTURE_CLIP
    assert credit_words.FORK_SCALE == FORK_SCALE
    assert all(math.isclose(options_of(name)().weight_floor, credit_words.WEIGHT_FLOOR) for name in METHODS)
