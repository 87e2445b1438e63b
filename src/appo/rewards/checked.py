"""What a reward function returns: one number, or None for not scored, per completion.

TRL iterates over it and fills a column, so a text or a number breaks without a name, and a list of one number would be
every rollout's reward in silence. Left out on purpose: reward models, whose shape is TRL's to see.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from numbers import Real
from typing import Any

from torch import Tensor, nn

from appo.errors import UserError

# What TRL gives a reward function besides the columns, and which of these it leaves out.
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
MAYBE = {"environments"}  # where there are any
LEFT_OUT = ("prompt", "completion", "completion_ids")


def checked(function: Any, name: str) -> Any:
    """A reward function with TRL's signature, whose rewards are looked at; a reward model is returned as it is.

    Args:
        name: The function's, for errors.
    """
    if isinstance(function, nn.Module):
        return function
    call = _async_call(function, name) if _is_async(function) else _call(function, name)
    return wraps(function)(call)


def check_parameters(function: Any, name: str, columns: Iterable[str]) -> None:
    """Whether a reward function takes what it will be given.

    Args:
        name: The function's, for errors.
        columns: Of the training data.

    Raises:
        UserError: for a parameter that is no column, and where nothing takes the other columns.
    """
    if isinstance(function, nn.Module):
        return
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some of C's
        return
    given = {*GIVEN, *(column for column in columns if column not in LEFT_OUT)}
    named = {one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)}
    missing = [one.name for one in parameters if one.name in named - given - MAYBE and one.default is one.empty]
    if missing:
        there = sorted(set(columns) - {"prompt"})
        close = difflib.get_close_matches(missing[0], there, 1)
        hint = f"did you mean {close[0]!r}?" if close else "add the column, or give the parameter a default."
        raise UserError(
            f"reward function {name} takes {missing[0]!r}, which is no column of the data ({', '.join(there)}); {hint}"
        )
    if not any(one.kind is one.VAR_KEYWORD for one in parameters) and (others := sorted(given - named)):
        raise UserError(
            f"reward function {name} is given {', '.join(others)} too; take them with **columns: "
            f"def {name}(completions, .., **columns)."
        )


def _is_async(function: Any) -> bool:
    """Whether a call gives an awaitable: of a function, a partial one, or an object with an `async def __call__`."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _call(function: Any, name: str) -> Callable[..., Any]:
    def call(*, completions: list[Any], **columns: Any) -> Any:
        return _look(function(completions=completions, **columns), name, len(completions))

    return call


def _async_call(function: Any, name: str) -> Callable[..., Any]:
    async def call(*, completions: list[Any], **columns: Any) -> Any:
        return _look(await function(completions=completions, **columns), name, len(completions))

    return call


def _look(rewards: Any, name: str, count: int) -> Any:
    rule = f"return a list of {count}, a number or None for each completion"
    try:
        found = len(rewards)
    except TypeError:
        found = None
    if found is None or isinstance(rewards, str | bytes | Mapping):
        raise UserError(f"reward function {name} returned {_shown(rewards)}; {rule}.")
    if found != count:
        raise UserError(f"reward function {name} returned {found} rewards for {count} completions; {rule}.")
    for reward in rewards:
        if not (reward is None or isinstance(reward, Real) or (isinstance(reward, Tensor) and reward.numel() == 1)):
            raise UserError(f"reward function {name} returned {_shown(reward)} as a reward; {rule}.")
    return rewards


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) < 60 else f"a {type(value).__name__}"
