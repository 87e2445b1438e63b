"""The task: multi-hop questions over a corpus.

    task: multihop
    task_args: {hops: [1, 3], form: words, noise: 0.3, spare: 0}

Left out on purpose: what a question, a page, a flaw or a decision is (the other files of this folder).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from datasets import Dataset

from appo.environments.base import Task
from appo.environments.multihop.demonstrations import NOISE, make_demonstrations
from appo.environments.multihop.environment import MultihopEnvironment
from appo.environments.multihop.forms import FILLERS, FORMS, TAGS, TOOL_WORDS, Form
from appo.environments.multihop.judge import judge_rollout, same, turns
from appo.environments.multihop.questions import LONGEST, draw_questions, read_chain
from appo.errors import UserError
from appo.rollout.decisions import Decision

HOPS = (1, 3)


def TASK(hops: Sequence[int] = HOPS, form: str = "words", noise: float = NOISE, spare: int = 0) -> Task:
    """The task.

    Args:
        hops: Least and most look-ups of a question, 1 to 10.
        form: `words` for a model that learns its words from nothing, `chat` for one that reads English.
        noise: Chance that a demonstration goes wrong before each search, 0 to 1.
        spare: Searches that are allowed beyond one for each hop.

    Raises:
        UserError: for other values.
    """
    bounds = _check(hops, form, noise, spare)
    written = FORMS[form]
    return Task(
        dataset=partial(make_dataset, written, bounds, "training"),
        eval_dataset=partial(make_dataset, written, bounds, "evaluation"),
        reward_funcs=[exact_answer],
        environment_factory=lambda: MultihopEnvironment(written.corpus(), spare),
        demonstrations=partial(make_demonstrations, written, bounds, noise),
        make_model=written.make_model,
        decision_positions=partial(decision_positions, written),
        token_kinds=token_kinds if form == "words" else None,
        judge=partial(judge, written, spare),
    )


def _check(hops: Any, form: Any, noise: Any, spare: Any) -> tuple[int, int]:
    if type(form) is not str or form not in FORMS:
        raise UserError(f"form must be one of {', '.join(FORMS)}, got {form!r}.")
    whole = isinstance(hops, list | tuple) and len(hops) == 2 and all(type(number) is int for number in hops)
    if not whole or not 1 <= hops[0] <= hops[1] <= LONGEST:
        raise UserError(f"hops must be the least and most of them, 1 to {LONGEST}, such as [1, 3], got {hops!r}.")
    if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise <= 1:
        raise UserError(f"noise must lie in [0, 1], got {noise!r}.")
    if type(spare) is not int or spare < 0:
        raise UserError(f"spare must be a number of searches, 0 or more, got {spare!r}.")
    return hops[0], hops[1]


def make_dataset(form: Form, hops: tuple[int, int], use: str, size: int, seed: int) -> Dataset:
    """Questions with the columns `prompt`, `answer`, `hops` and `chain` (every entity on the way)."""
    questions = draw_questions(form.corpus().world, hops, seed, use)
    rows = []
    for _ in range(size):
        question = next(questions)
        row = {"answer": question.answer, "hops": len(question.names), "chain": question.chain()}
        rows.append({"prompt": form.prompt(question), **row})
    return Dataset.from_list(rows)


def exact_answer(completions: list[Any], answer: list[str], **kwargs: Any) -> list[float]:
    """TRL reward function: 1 if the completion's first `<answer>x</answer>` is the row's answer, else 0.

    Args:
        completions: Strings, or lists of messages, of which the assistant's count.
        answer: The right one of each row; case, spacing and marks at the ends do not matter.
        kwargs: The other columns, unused.
    """
    return [float(same(first_answer(text) or "", right)) for text, right in zip(completions, answer, strict=True)]


def first_answer(completion: str | list[dict[str, Any]]) -> str | None:
    """The text of the first closed answer, None without one."""
    if not isinstance(completion, str):
        written = [message.get("content") for message in completion if message.get("role") == "assistant"]
        completion = " ".join(content for content in written if isinstance(content, str))
    _, opening, rest = completion.partition("<answer>")
    text, closing, _ = rest.partition("</answer>")
    return text.strip() if opening and closing else None


def decision_positions(form: Form, words: list[str]) -> list[int]:
    """Where a rollout decides: `search` or `answer`, the first word of a query or an answer, a query's entity."""
    return [place for turn in turns(form, words) for place in turn.positions()]


def token_kinds(words: list[str]) -> list[str]:
    """Fillers, names (entities and properties), and the words of the format."""
    kinds = {**dict.fromkeys(FILLERS, "filler"), **dict.fromkeys([*TAGS, *TOOL_WORDS, "start", "<eos>"], "format")}
    return [kinds.get(word, "name") for word in words]


def judge(form: Form, spare: int, row: dict[str, Any], words: list[str], skill: float) -> list[Decision]:
    """What each decision of a completion was worth (`judge.py`)."""
    return judge_rollout(form, read_chain(row["chain"]), words, skill, spare)
