"""Tool calls: time-outs, errors as text, parallel calls, arguments from text and mappings."""

import threading
import time

import pytest

from appo.tools.runner import ToolRunner, bind_arguments


def echo(text: str) -> str:
    """Repeats. Args: text: What."""
    return text


def add(a: int, b: int = 2) -> int:
    """Adds. Args: a: One. b: Other."""
    return a + b


def area(width: float, height: float) -> float:
    """Area. Args: width: One. height: Other."""
    return width * height


def fail(text: str) -> str:
    """Fails. Args: text: Why."""
    raise KeyError(text)


async def later(text: str) -> str:
    """Async. Args: text: What."""
    return text + "!"


TOOLS = {f.__name__: f for f in (echo, add, area, fail, later)}


def outcome(name, arguments, timeout=5.0):
    return ToolRunner(timeout=timeout).submit(TOOLS, name, arguments).result()


def test_text_goes_to_the_only_required_parameter_as_its_type():
    assert outcome("add", "40").text == "42"
    assert outcome("echo", '{"a": 1}').text == '{"a": 1}'


def test_several_parameters_take_a_json_object():
    assert outcome("area", '{"width": 2, "height": 3}').text == "6"
    assert outcome("area", {"width": 2, "height": 4}).text == "8"


def test_coroutines_are_awaited():
    assert outcome("later", "hi").text == "hi!"


@pytest.mark.parametrize(
    ("name", "arguments", "error", "text"),
    [
        ("nothing", "x", "unknown tool", "no tool named nothing; tools: add, area, echo, fail, later"),
        ("echo", None, "malformed call", "opening tag is missing"),
        ("add", "forty", "bad arguments", "forty"),
        ("area", "[1, 2]", "bad arguments", "JSON object with width, height"),
        ("area", {"width": 1}, "bad arguments", "height"),
        ("echo", {"text": "a", "more": 1}, "bad arguments", "more"),
        ("fail", "why", "KeyError", "why"),
    ],
)
def test_nonsense_gives_the_policy_a_sentence(name, arguments, error, text):
    result = outcome(name, arguments)
    assert result.error == error
    assert text in result.text


def test_a_call_that_hangs_times_out_and_the_next_one_works():
    gate = threading.Event()
    runner = ToolRunner(timeout=0.2, max_workers=1)
    tools = {"hang": lambda: gate.wait(20), "echo": echo}
    start = time.monotonic()
    hanging, waiting = runner.submit(tools, "hang", {}), runner.submit(tools, "echo", "next")
    assert hanging.result().error == "timeout"
    assert waiting.result().text == "next"
    assert time.monotonic() - start < 2
    gate.set()


def test_the_time_a_call_waits_for_a_thread_does_not_count():
    runner = ToolRunner(timeout=0.5, max_workers=1)
    tools = {"nap": lambda: time.sleep(0.3)}
    assert [p.result().error for p in [runner.submit(tools, "nap", {}) for _ in range(4)]] == [None] * 4


def test_calls_run_at_the_same_time():
    runner = ToolRunner(timeout=5)
    barrier = threading.Barrier(8, timeout=5)
    pending = [runner.submit({"meet": barrier.wait}, "meet", {}) for _ in range(8)]
    assert all(p.result().error is None for p in pending)


def test_binding_names_the_missing_parameter():
    with pytest.raises(TypeError, match="b"):
        bind_arguments(lambda a, b: None, {"a": 1})
