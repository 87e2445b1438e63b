"""Numbers made small: what a page gets back is near enough to look at, or exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_parts import exact_values, heat_values, unpacked

from appo.report.html.quantise import exact, heat, ids_column, json_column, rounded

FLOATS = st.floats(-1e6, 1e6, width=32)


@given(st.lists(FLOATS, min_size=1, max_size=50), st.data())
def test_exact_numbers_come_back_to_the_bit(values, data):
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=len(values)))
    rollouts = np.repeat(np.arange(len(sizes)), sizes)[: len(values)]
    values = np.array(values[: len(rollouts)], np.float32)
    assert np.array_equal(exact_values(exact(values, rollouts), rollouts), values)


def test_a_number_that_does_not_vary_within_rollouts_stands_once_for_each():
    column = exact(np.array([0.5, 0.5, -1.0], np.float32), np.array([3, 3, 7]))
    assert column["per"] == "rollout"
    assert unpacked(column).tolist() == [0.5, -1.0]


def test_few_numbers_have_codes_and_very_many_stand_as_they_are():
    rollouts = np.zeros(70_000, int)
    few = exact(np.arange(70_000, dtype=np.float32) % 300, rollouts)
    assert few["type"] == "u16"
    assert len(unpacked(few["palette"])) == 300
    many = exact(np.arange(70_000, dtype=np.float32), rollouts)
    assert "palette" not in many
    assert unpacked(many)[69_999] == 69_999


def test_no_tokens_with_loss_make_an_empty_column():
    assert unpacked(exact(np.zeros(0, np.float32), np.zeros(0, int))).size == 0


@pytest.mark.parametrize("name", ["entropy", "logprob", "omega", "ratio", "score", "a column of a method's own"])
def test_a_heat_map_is_near_its_numbers_and_has_none_where_there_is_none(name):
    values = np.array([0.25, 0.5, 1.0, 1.5, np.nan, np.inf, 2.0], np.float32)
    if name == "logprob":
        values = -values
    found = heat_values(heat(values, name))
    known = np.isfinite(values)
    assert np.isnan(found[~known]).all()
    assert np.abs(found[known] - values[known]).max() < 0.04  # 126 steps of 2.0, or 62 that are widest there


def test_log_probabilities_near_0_are_told_apart():
    found = heat_values(heat(np.array([0.0, -0.01, -0.1, -16.0], np.float32), "logprob"))
    assert found[0] == 0.0 > found[1] > found[2] > found[3] == -16.0


def test_a_ratio_of_none_is_the_middle_of_its_scale():
    column = heat(np.array([-0.5, 0.0, 2.0], np.float32), "ratio")
    assert unpacked(column).tolist() == [32, 63, 126]  # 63 (1 - sqrt(0.25)) = 31.5
    assert (column["low"], column["high"]) == (-2.0, 2.0)


def test_equal_numbers_and_no_numbers_need_no_range():
    assert heat_values(heat(np.array([0.5, 0.5], np.float32), "entropy")).tolist() == [0.5, 0.5]
    assert heat_values(heat(np.array([0.0, 0.0], np.float32), "ratio")).tolist() == [0.0, 0.0]
    assert np.isnan(heat_values(heat(np.array([np.nan], np.float32), "omega"))).all()


def test_ids_take_the_smallest_type_that_holds_them():
    for most, kind in ((255, "u8"), (256, "u16"), (65_535, "u16"), (65_536, "u32")):
        column = ids_column(np.array([0, most], np.int32))
        assert column["type"] == kind
        assert unpacked(column).tolist() == [0, most]
    assert unpacked(ids_column(np.zeros(0, np.int32))).size == 0


def test_the_same_input_gives_the_same_bytes():
    assert json_column({"a": "ä"}) == json_column({"a": "ä"})
    assert unpacked(json_column({"a": "ä"})) == {"a": "ä"}


def test_what_json_does_not_have_becomes_null_or_a_question_mark():
    assert unpacked(json_column([float("nan"), float("inf"), 1.0, "\ud800"])) == [None, None, 1.0, "?"]


def test_rounded_numbers_keep_three_digits_and_what_is_none():
    found = rounded(np.array([1.23456789, -3e-7, np.nan, np.inf, 0.0], np.float32))
    assert np.abs(found[:2] / np.array([1.23456789, -3e-7]) - 1).max() < 2**-12
    assert np.isnan(found[2])
    assert found[3:].tolist() == [np.inf, 0.0]
