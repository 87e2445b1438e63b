"""What a reward function returns: one number, or None for not scored, per completion.

TRL iterates over it and fills a column, so a text or a number breaks without a name, and a list of one number would be
every rollout's reward in silence. Left out on purpose: reward models, whose shape is TRL's to see.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial, wraps
from numbers import Real
from typing import Any

from torch import Tensor, nn

from appo.errors import UserError


def checked(function: Any, name: str) -> Any:
    """A reward function with TRL's signature, whose rewards are looked at; a reward model is returned as it is.

    Args:
        name: The function's, for errors.
    """
    if isinstance(function, nn.Module):
        return function
    call = _async_call(function, name) if _is_async(function) else _call(function, name)
    return wraps(function)(call)


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
