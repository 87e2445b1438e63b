"""Arguments from what the policy wrote: text becomes a value of its parameter's hint."""

# ruff: noqa: UP007, UP045 (both ways of writing a union)

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypedDict, Union

import pytest
from pydantic import Field, PositiveInt

from appo.tools.runner import ToolRunner, bind_arguments

if TYPE_CHECKING:
    from collections import OrderedDict


class Colour(enum.Enum):
    RED = "red"
    TWO = 2


class Point(TypedDict):
    x: int


def taking(hint):
    """A function whose only parameter has a hint."""

    def tool(value):
        return value

    tool.__annotations__["value"] = hint
    return tool


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (Optional[int], "3", 3),
        (Optional[int], "null", None),
        (int | None, " 3 ", 3),
        ("int | None", "3", 3),
        (Literal[1, 2], "2", 2),
        (Literal["C", 1], "C", "C"),
        (Union[int, float], "3", 3),
        (Union[int, float], "3.5", 3.5),
        (Optional[list[int]], "[1, 2]", [1, 2]),
        (Optional[dict[str, int]], '{"a": 1}', {"a": 1}),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (Annotated[int, "a number"], "3", 3),
        (bool, "true", True),
        (bool, "False", False),
        (float, "inf", float("inf")),
        (Colour, "red", Colour.RED),
        (Colour, "2", Colour.TWO),
        (dict, '{"a": 1}', {"a": 1}),
        (Point, '{"x": 1}', {"x": 1}),
        (PositiveInt, "3", 3),
    ],
)
def test_text_becomes_a_value_of_its_hint(hint, text, value):
    found = bind_arguments(taking(hint), text)["value"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("hint", [str, Optional[str], "int | str", Any, object, "no hint {"])
def test_text_stays_text_where_the_hint_takes_text_or_says_nothing(hint):
    assert bind_arguments(taking(hint), "3") == {"value": "3"}


@pytest.mark.parametrize(
    ("hint", "text", "reason"),
    [
        (Optional[int], "three", "'three' does not fit: Input should be a valid integer"),
        (Literal[1, 2], "3", "'3' does not fit: Input should be 1 or 2"),
        (list[int], '["a"]', "Input should be a valid integer"),
        (list[int], "1, 2", "Input should be a valid list"),
        (PositiveInt, "-5", "'-5' does not fit: Input should be greater than 0"),
        (Annotated[int, Field(gt=3)], "2", "'2' does not fit: Input should be greater than 3"),
        (Iterable[str], "abc", "'abc' does not fit: Invalid JSON"),
        (Iterable[int], '["a"]', "Input should be a valid integer"),
        (Point, "x", "'x' does not fit: "),
    ],
)
def test_text_that_is_no_value_of_its_hint_is_refused_with_a_reason(hint, text, reason):
    with pytest.raises(ValueError) as raised:
        bind_arguments(taking(hint), text)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_hint_for_type_checkers_alone_leaves_its_argument_a_text_and_the_others_theirs():
    def first(pairs: OrderedDict[str, int], count: int = 1) -> OrderedDict[str, int]:
        return pairs

    def second(count: int, pairs: OrderedDict[str, int] | None = None) -> OrderedDict[str, int]:
        return count + 1

    tools = {"first": first, "second": second}
    outcomes = [ToolRunner().submit(tools, name, "3").result() for name in ("first", "second")]
    assert [(outcome.text, outcome.error) for outcome in outcomes] == [("3", None), ("4", None)]


def test_the_values_of_an_object_are_passed_as_they_are():
    def area(width: float, height: float | None) -> float:
        return width

    assert bind_arguments(area, '{"width": 2, "height": "3"}') == {"width": 2, "height": "3"}


def test_an_iterable_is_read_from_json():
    assert list(bind_arguments(taking(Iterable[str]), '["ab", "c"]')["value"]) == ["ab", "c"]


@dataclass
class Scale:
    """A tool that has no hash."""

    factor: int

    def __call__(self, number: float) -> float:
        return self.factor * number


def test_an_object_without_a_hash_can_be_a_tool():
    found = ToolRunner().submit({"scale": Scale(3)}, "scale", {"number": 2}).result()
    assert (found.text, found.error) == ("6", None)
