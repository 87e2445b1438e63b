"""Tool calls: time-outs, errors as text, parallel calls, arguments from text and mappings."""

import queue
import threading
import time
from types import SimpleNamespace

import pytest

from appo.tools import ToolError, ToolResult
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


def outcome(name, arguments, timeout=600.0):
    return ToolRunner(timeout=timeout).submit(TOOLS, name, arguments).result()


def test_text_goes_to_the_only_required_parameter_as_its_type():
    assert outcome("add", "40").text == "42"
    assert outcome("echo", '{"a": 1}').text == '{"a": 1}'


def test_several_parameters_take_a_json_object():
    assert outcome("area", '{"width": 2, "height": 3}').text == "6"
    assert outcome("area", {"width": 2, "height": 4}).text == "8"


def test_text_for_a_list_or_an_object_is_read_as_json():
    def total(numbers: list[int]) -> int:
        """Adds. Args: numbers: What."""
        return sum(numbers)

    assert ToolRunner().submit({"total": total}, "total", "[1, 2, 3]").result().text == "6"
    assert ToolRunner().submit({"total": total}, "total", "1, 2").result().error == "bad arguments"


def test_coroutines_are_awaited():
    assert outcome("later", "hi").text == "hi!"


@pytest.mark.parametrize(
    ("name", "arguments", "error", "text"),
    [
        ("nothing", "x", "unknown tool", "no tool named nothing; tools: add, area, echo, fail, later"),
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


def test_a_call_that_could_not_be_read_says_why_whatever_its_name():
    result = ToolRunner().submit(TOOLS, "nothing", None, "<echo> was not closed").result()
    assert (result.text, result.error) == ("error: malformed call: <echo> was not closed", "malformed call")


def test_a_call_that_hangs_times_out_and_the_next_one_works():
    gate = threading.Event()
    runner = ToolRunner(timeout=1.0, max_workers=1)
    tools = {"hang": lambda: gate.wait(600), "echo": echo}
    hanging, waiting = runner.submit(tools, "hang", {}), runner.submit(tools, "echo", "next")
    assert hanging.result().error == "timeout"
    assert waiting.result().text == "next"
    gate.set()


def test_the_time_a_call_waits_for_a_thread_does_not_count():
    runner = ToolRunner(timeout=2.0, max_workers=1)
    tools = {"nap": lambda: time.sleep(0.7)}
    assert [p.result().error for p in [runner.submit(tools, "nap", {}) for _ in range(4)]] == [None] * 4


def test_calls_run_at_the_same_time():
    runner = ToolRunner(timeout=600)
    barrier = threading.Barrier(8, timeout=600)
    pending = [runner.submit({"meet": barrier.wait}, "meet", {}) for _ in range(8)]
    assert all(p.result().error is None for p in pending)


def test_binding_names_the_missing_parameter():
    with pytest.raises(TypeError, match="b"):
        bind_arguments(lambda a, b: None, {"a": 1})


def test_calls_that_hang_do_not_keep_a_waiting_one_from_starting():
    gate = threading.Event()
    runner = ToolRunner(timeout=1.0, max_workers=2)
    tools = {"hang": lambda: gate.wait(600), "echo": echo}
    for _ in range(2):
        runner.submit(tools, "hang", {})
    waiting = runner.submit(tools, "echo", "after two that hang")
    assert waiting.result().text == "after two that hang"
    gate.set()


def test_any_keyword_reaches_a_function_that_takes_any():
    def query(text: str, **options) -> str:
        """Text and options."""
        return f"{text} {options}"

    tools = {"query": query}
    assert ToolRunner().submit(tools, "query", {"text": "x", "k": 2}).result().text == "x {'k': 2}"
    assert ToolRunner().submit(tools, "query", "plain").result().text == "plain {}"


def test_text_that_cannot_be_encoded_is_replaced():
    assert outcome("echo", {"text": "a\ud800b"}).text == "a?b"
    assert "\ud800" not in outcome("fail", {"text": "\ud800"}).text


def test_deeply_nested_arguments_are_bad_arguments():
    assert outcome("area", "[" * 100_000).error == "bad arguments"


def test_a_tool_that_exits_is_an_error_at_once():
    def leave() -> str:
        """Exits."""
        raise SystemExit(3)

    assert ToolRunner(timeout=600).submit({"leave": leave}, "leave", {}).result().error == "SystemExit"


def test_a_long_result_is_cut_in_the_middle():
    runner = ToolRunner(max_result_chars=20)
    text = runner.submit(TOOLS, "echo", "a" * 50 + "b" * 50).result().text
    assert text == "a" * 10 + "\n[80 characters cut]\n" + "b" * 10


def test_coroutines_share_one_event_loop():
    import asyncio

    async def loop_id() -> int:
        """The loop."""
        return id(asyncio.get_running_loop())

    runner = ToolRunner()
    assert len({runner.submit({"loop_id": loop_id}, "loop_id", {}).result().text for _ in range(3)}) == 1


def test_a_tool_result_says_whether_the_call_failed():
    def check(text: str) -> ToolResult:
        """Checks. Args: text: What."""
        return ToolResult(f"seen {text}", None if text == "good" else "bad word")

    runner = ToolRunner()
    good, bad = (runner.submit({"check": check}, "check", text).result() for text in ("good", "evil"))
    assert (good.text, good.error) == ("seen good", None)
    assert (bad.text, bad.error) == ("seen evil", "bad word")


class Flaky:
    """Raises the given errors, one a call, and then answers."""

    def __init__(self, *errors):
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.mark.parametrize(
    ("errors", "retries", "calls", "error"),
    [
        ([OSError("down")], 1, 2, None),
        ([OSError("down"), ValueError("odd")], 2, 3, None),
        ([OSError("down"), OSError("down")], 1, 2, "OSError"),
        ([OSError("down")], 0, 1, "OSError"),
        ([ToolError("no such page")], 3, 1, "ToolError"),
        ([SystemExit(1)], 3, 1, "SystemExit"),
    ],
)
def test_what_is_tried_again(monkeypatch, errors, retries, calls, error):
    monkeypatch.setattr("appo.tools.runner.FIRST_PAUSE", 0.001)
    tool = Flaky(*errors)
    assert ToolRunner(retries=retries).submit({"tool": tool.__call__}, "tool", {}).result().error == error
    assert tool.calls == calls


def test_pauses_double_and_stop_at_the_time_limit(monkeypatch):
    clock, pauses = [0.0], []

    def sleep(seconds):
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr("appo.tools.runner.time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr("appo.tools.runner.FIRST_PAUSE", 100.0)
    tool = Flaky(*[OSError("down")] * 9)
    outcome = ToolRunner(timeout=1000.0, retries=9).submit({"tool": tool.__call__}, "tool", {}).result()
    # Tries at 0, 100, 300 and 700 seconds; the next would be at 1500.
    assert (tool.calls, pauses, outcome.error, outcome.seconds) == (4, [100, 200, 400], "OSError", 700)


def test_a_failure_that_the_tool_reports_is_not_tried_again():
    calls = []

    def check() -> ToolResult:
        """Checks."""
        calls.append(1)
        return ToolResult("no", "bad word")

    assert ToolRunner(retries=3).submit({"check": check}, "check", {}).result().error == "bad word"
    assert len(calls) == 1


def test_errors_without_words():
    class Mute(Exception):
        def __str__(self):
            raise ValueError

    def fail(error: str) -> str:
        """Fails. Args: error: How."""
        raise Mute if error == "mute" else ValueError

    texts = [ToolRunner(timeout=2).submit({"fail": fail}, "fail", error).result().text for error in ("mute", "empty")]
    assert texts == ["error: Mute: no message", "error: ValueError: no message"]


def test_the_least_limit_of_a_result():
    text = ToolRunner(max_result_chars=1).submit(TOOLS, "echo", "a" * 50).result().text
    assert text == "\n[50 characters cut]\n"


def test_a_fault_in_a_tools_code_is_told_once_with_its_place_and_a_tools_own_answer_is_not(caplog):
    def broken() -> str:
        return undefined_name  # noqa: F821

    def strict() -> str:
        raise ToolError("give a city")

    runner = ToolRunner()
    tools = {"broken": broken, "strict": strict}
    assert [runner.submit(tools, "broken", {}).result().error for _ in range(3)] == ["NameError"] * 3
    assert runner.submit(tools, "strict", {}).result().error == "ToolError"
    (message,) = caplog.messages
    assert message.startswith("The tool broken raised") and "test_runner.py" in message and "undefined_name" in message


def test_the_end_of_each_call_is_told_once():
    """Of one that answers, that is refused, and that is given up: by then its outcome is there."""
    gate, told = threading.Event(), queue.SimpleQueue()

    def hang(text: str) -> str:
        """Hangs. Args: text: What."""
        gate.wait()
        return text

    runner = ToolRunner(timeout=0.1)
    tools = {**TOOLS, "hang": hang}
    calls = [("echo", "a", None), ("nothing", "a", None), ("hang", "a", None)]
    pending = [
        runner.submit(tools, *call, on_end=lambda number=number: told.put(number)) for number, call in enumerate(calls)
    ]
    ends = []
    while len(ends) < 3:
        try:
            ends.append(told.get(timeout=runner.tend()))
        except queue.Empty:
            continue
        assert pending[ends[-1]].result().error == {0: None, 1: "unknown tool", 2: "timeout"}[ends[-1]]
    gate.set()
    assert sorted(ends) == [0, 1, 2]
    assert runner.tend() is None
    runner.busy(None)
    assert told.empty()


@pytest.mark.parametrize("workers", [1, 2])
def test_as_many_calls_run_at_once_as_there_are_workers(workers):
    """Each waits until so many run."""
    running, most, lock, together = [], [], threading.Lock(), threading.Barrier(workers)

    def work(text: str) -> str:
        """Works. Args: text: What."""
        with lock:
            running.append(text)
            most.append(len(running))
        together.wait(60)
        with lock:
            running.remove(text)
        return text

    runner, told = ToolRunner(max_workers=workers), queue.SimpleQueue()
    for number in range(6):
        runner.submit({"work": work}, "work", str(number), on_end=lambda: told.put(1))
    ended = 0
    while ended < 6:
        try:
            ended += told.get(timeout=runner.tend())
        except queue.Empty:
            continue
    assert max(most) == workers


def test_the_kind_of_an_error_is_a_text_whatever_a_tool_gives():
    def look(place: str) -> ToolResult:
        """Looks. Args: place: Where."""
        return ToolResult(f"nothing at {place}", error=404)

    found = ToolRunner().submit({"look": look}, "look", "home").result()
    assert (found.text, found.error) == ("nothing at home", "404")
