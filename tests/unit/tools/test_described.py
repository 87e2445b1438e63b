"""What a tool has to say of itself, in both protocols, and what is no tool."""

import functools

import pytest

from appo.errors import UserError
from appo.rollout.environments import EnvironmentPool
from appo.tools import PythonSandbox
from appo.tools.described import check_tool, tool_problems
from appo.tools.python import python
from appo.tools.schema_tool import SchemaTool

BOTH = pytest.mark.parametrize("protocol", ["tags", "chat_template"])


def search(query: str, top_k: int = 3) -> str:
    """Searches the web.

    Args:
        query: What to look for.
        top_k: How many pages.

    Returns:
        The pages.
    """
    return query * top_k


class Shop:
    """An environment."""

    def reset(self, **row):
        pass

    def buy(self, what) -> str:
        """Buys something.

        Args:
            what: Which.
        """
        return what

    def sell(self, what: str) -> str:
        return what


@BOTH
@pytest.mark.parametrize(
    "tool",
    [search, functools.lru_cache(search), PythonSandbox.python, python, SchemaTool("any", "", {}, lambda _: "")],
    ids=["function", "cached", "ours", "python", "schema"],
)
def test_what_says_all_is_a_tool(tool, protocol):
    if tool is PythonSandbox.python:
        tool = PythonSandbox(allow_unisolated=True).python
    assert list(tool_problems(tool, protocol)) == []


@BOTH
def test_a_missing_type_hint_names_tool_parameter_and_remedy(protocol):
    def look(query, page: int) -> str:
        """Looks.

        Args:
            query: For what.
            page: Where.
        """

    assert list(tool_problems(look, protocol)) == [
        "tool look: the parameter query has no type hint; write `query: str`, or another type."
    ]


@BOTH
def test_a_missing_docstring_says_what_to_write(protocol):
    def look(query: str) -> str:
        return query

    with pytest.raises(UserError, match=r"^tool look has no docstring; write one that says what it does, with a line"):
        check_tool(look, protocol)


def test_a_parameter_without_a_description_is_missing_where_a_template_shows_it():
    def look(query: str) -> str:
        """Looks."""

    assert list(tool_problems(look, "tags")) == []
    assert list(tool_problems(look, "chat_template")) == [
        "tool look: its docstring does not describe the parameter query; write `query: What it is.` below a line "
        "`Args:`."
    ]


@BOTH
def test_methods_of_environments_are_named_with_their_class(protocol):
    tools = EnvironmentPool([], Shop).all_tools()
    problems = [problem for tool in tools.values() for problem in tool_problems(tool, protocol)]
    assert problems == [
        "tool Shop.buy: the parameter what has no type hint; write `what: str`, or another type.",
        "tool Shop.sell has no docstring; write one that says what it does, with a line per parameter below `Args:`.",
    ]


class Called:
    """An object that can be called."""

    def __call__(self, query: str) -> str:
        """Looks."""
        return query


@BOTH
@pytest.mark.parametrize(
    ("tool", "sentence"),
    [
        (lambda query: query, "tools: a lambda has no name that a policy could call; write a function with `def`"),
        (functools.partial(search, top_k=1), "tools: a functools.partial of search has no name of its own; write"),
        (Called, r"tools: Called is a class; give methods of an object, such as Called\(..\).METHOD, or the class as"),
        (Called(), "tools: an object of class Called is no function; give one of its methods by name, or write"),
        ("search", "tools: 'search' is no function; give the function itself, without quotation marks"),
        (search("a"), "tools: 'aaa' is no function; give the function itself, without .* calling it"),
    ],
)
def test_what_is_no_function_is_refused_with_its_remedy(tool, sentence, protocol):
    with pytest.raises(UserError, match=f"^{sentence}"):
        check_tool(tool, protocol)


@BOTH
def test_a_policy_cannot_write_parameters_without_names(protocol):
    def look(*queries: str, **options: int) -> str:
        """Looks.

        Args:
            queries: For what.
            options: How.
        """

    said = [problem.partition(";")[0] for problem in tool_problems(look, protocol)]
    assert said == [
        "tool look: a policy cannot write *queries: str",
        "tool look: a policy cannot write **options: int",
    ]


def test_a_hint_that_has_no_type_in_json_is_refused_where_a_template_shows_it():
    class Place:
        pass

    def look(where: Place) -> str:
        """Looks.

        Args:
            where: The place.
        """

    assert list(tool_problems(look, "tags")) == []
    (problem,) = tool_problems(look, "chat_template")
    assert problem.startswith("tool look: ") and "as transformers reads its hints and docstring" in problem


def test_what_is_built_in_and_has_no_signature_is_refused():
    with pytest.raises(UserError, match=r"^tool max does not say which parameters it has; write a function"):
        check_tool(max)
