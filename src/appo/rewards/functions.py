"""The rewards with TRL's signature, for `reward_funcs` of a trainer or a task.

Each takes `completions` (strings or lists of messages) and the dataset's columns, and gives a float per completion, or
None for a row without a truth, which TRL leaves out. The truth is the column `answers` (a list of aliases) or, where
that is absent or None, `answer` (a string, a number or a list).

Left out on purpose: asynchronous reward functions, and judges.
Try it: `python -c "from appo.rewards import *; print(f1_reward_func(['<answer>a fox</answer>'], answer=['fox']))"`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from appo.rewards.answers import CALLS, TAG, extract_answer, format_errors
from appo.rewards.equality import math_equal
from appo.rewards.paper import paper_reward
from appo.rewards.words import exact_match, f1

RewardFunction = Callable[..., list[float | None]]


def paper_reward_func(completions: list[Any], **kwargs: Any) -> list[float | None]:
    """`paper_reward` of each completion."""
    return _scored(completions, kwargs, paper_reward)


def math_reward_func(completions: list[Any], **kwargs: Any) -> list[float | None]:
    """1.0 where the extracted answer is mathematically equal to a truth, else 0.0."""
    return _scored(completions, kwargs, lambda text, truths: float(_equals_any(extract_answer(text), truths)))


def exact_match_reward_func(completions: list[Any], **kwargs: Any) -> list[float | None]:
    """1.0 where the extracted answer is a truth word for word, else 0.0."""
    return _scored(completions, kwargs, lambda text, truths: float(exact_match(extract_answer(text), truths)))


def f1_reward_func(completions: list[Any], **kwargs: Any) -> list[float | None]:
    """Token F1 of the extracted answer."""
    return _scored(completions, kwargs, lambda text, truths: f1(extract_answer(text), truths))


def format_reward_func(completions: list[Any], **kwargs: Any) -> list[float | None]:
    """1.0 for the paper's format, 0.0 for a broken one. Needs no truth."""
    return [float(not format_errors(completion_text(completion))) for completion in completions]


def weighted(funcs: Sequence[RewardFunction], weights: Sequence[float]) -> RewardFunction:
    """One reward function that adds up several, for example `f1*0.9+format*0.1` by its `__name__`.

    A part that is None for a row is left out of its sum, as TRL does; a row for which all are None is None.

    Raises:
        ValueError: no functions, or another number of weights.
    """
    funcs, weights = list(funcs), [float(weight) for weight in weights]
    if not funcs or len(funcs) != len(weights):
        raise ValueError(f"weights must hold one number per function, got {len(weights)} for {len(funcs)} functions.")

    def reward(completions: list[Any], **kwargs: Any) -> list[float | None]:
        columns = [func(completions=completions, **kwargs) for func in funcs]
        return [_weighted_sum(row, weights) for row in zip(*columns, strict=True)]

    names = [getattr(func, "__name__", type(func).__name__).removesuffix("_func") for func in funcs]
    reward.__name__ = "+".join(
        f"{name.removesuffix('_reward')}*{weight:g}" for name, weight in zip(names, weights, strict=True)
    )
    return reward


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """A completion as text in the paper's tags.

    A string is itself. Of messages, the assistant's texts are joined; what the chat template keeps apart gets tags:
    `reasoning_content`, calls of the tools `search` and `python`, and results, in which the text of a tag is dropped.
    Calls of other tools and their results are left out.

    Raises:
        ValueError: neither a string nor a list of messages.
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, list) or not all(isinstance(message, dict) for message in completion):
        raise ValueError(f"completions must hold strings or lists of messages, got {type(completion).__name__}.")
    results = [message for message in completion if message.get("role") == "tool"]
    pieces = []
    for message in completion:
        if message.get("role") == "assistant":
            pieces += _assistant_pieces(message, results)
        elif results and message is results[0]:  # without a call that the template knows of
            pieces += [_tagged("result", _content(message))] if results.pop(0).get("name") in CALLS else []
    return "\n".join(pieces)


def _assistant_pieces(message: dict[str, Any], results: list[dict[str, Any]]) -> list[str]:
    """What a message says, and each call followed by its result, which is taken from `results`.

    A template has all calls of a message before their results; the paper's protocol has one after the other.
    """
    thought = message.get("reasoning_content")
    pieces = [_tagged("think", str(thought))] if thought is not None else []
    pieces += [_content(message)] if _content(message) else []
    for name, call in zip(_call_names(message), message.get("tool_calls") or [], strict=True):
        result = results.pop(0) if results else None
        if name in CALLS:
            pieces.append(_tagged(name, str(call.get("function", call).get("arguments", ""))))
            pieces += [] if result is None else [_tagged("result", _content(result))]
    return pieces


def _call_names(message: dict[str, Any]) -> list[str]:
    return [str(call.get("function", call).get("name")) for call in message.get("tool_calls") or []]


def _content(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))


def _tagged(name: str, text: str) -> str:
    return f"<{name}>{TAG.sub('', text)}</{name}>"


def _scored(
    completions: list[Any], columns: dict[str, Any], score: Callable[[str, list[str]], float]
) -> list[float | None]:
    truths = _truths(len(completions), columns)
    texts = [completion_text(completion) for completion in completions]
    return [score(text, row) if row else None for text, row in zip(texts, truths, strict=True)]


def _truths(rows: int, columns: dict[str, Any]) -> list[list[str]]:
    """Each row's truths, none where the dataset has none."""
    found = {name: columns[name] for name in ("answers", "answer") if columns.get(name) is not None}
    if not found:
        raise ValueError("The dataset needs a column `answers` (lists of strings) or `answer`: rename or add one.")
    for name, column in found.items():
        if isinstance(column, str) or len(column) != rows:
            raise ValueError(f"The column `{name}` must hold one truth per completion ({rows}): pass it as a list.")
    return [next((truth for truth in map(_as_list, row) if truth), []) for row in zip(*found.values(), strict=True)]


def _as_list(truth: Any) -> list[str]:
    values = truth if isinstance(truth, (list, tuple)) else [truth]
    return [str(value) for value in values if value is not None and str(value).strip()]


def _equals_any(answer: str | None, truths: list[str]) -> bool:
    return any(math_equal(answer, truth) for truth in truths)


def _weighted_sum(row: Sequence[float | None], weights: Sequence[float]) -> float | None:
    parts = [weight * value for value, weight in zip(row, weights, strict=True) if value is not None]
    return sum(parts) if parts else None
