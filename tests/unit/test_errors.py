"""Whose mistake an error is: a user's value, or a fault in code."""

from collections.abc import Callable
from functools import partial
from typing import Any

from appo.errors import is_complaint
from appo_sandbox import PLAIN, Launcher, Sandbox


def raised(call: Callable[[], Any]) -> BaseException:
    """What a call raises that a module of this package makes, without a frame of the test's in between."""
    space: dict[str, Any] = {"__name__": "appo.made_up", "call": call}
    exec("try:\n    call()\nexcept Exception as caught:\n    error = caught", space)
    return space["error"]


def test_the_sandbox_counts_as_ours_and_not_as_a_library_that_complains() -> None:
    assert not is_complaint(raised(partial(Sandbox, timeout_s=0, launcher=PLAIN)))


def test_a_library_that_complains_below_the_sandbox_is_still_heard() -> None:
    missing = Launcher("bwrap", ("/no/such/program",))
    error = raised(partial(Sandbox, workers=1, launcher=missing))
    assert isinstance(error, FileNotFoundError)
    assert is_complaint(error)
