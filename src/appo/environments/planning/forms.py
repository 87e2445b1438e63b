"""The two ways in which a policy meets planning: words for the tiny model, a chat for a real one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from appo.environments.planning.texts import OK, UNDER, WORDS
from appo.models.smollm2 import make_model as make_smollm2
from appo.models.tiny import tiny_llama, word_tokenizer

SYSTEM_PROMPT = (
    "Bring each thing from its place to its goal. <act>X</act> takes thing X or puts it down, or goes to place X; "
    "a held block is put on X. After goal reached, write <answer>done</answer>."
)
TAGS = [f"<{slash}{name}>" for name in ("act", "result", "answer") for slash in ("", "/")]


def make_tiny() -> tuple[Any, Any]:
    """A Llama of about 0.2M parameters with fresh weights, and one token per word."""
    tokenizer = word_tokenizer(WORDS, TAGS)
    return tiny_llama(tokenizer), tokenizer


def as_list(text: str) -> str:
    """A text of `Named.text` as people write it: `ferry north, A ok, B south to east, C aboard to here`."""
    head, place, *words = text.split()
    items, under = [f"{head} {place}"], ""
    while words:
        if words[0] == UNDER:
            under, words = f"{UNDER} ", words[1:]
        at, goal, name, *words = words
        items.append(f"{under}{name} {OK}" if goal == OK else f"{under}{name} {at} to {goal}")
        under = ""
    return ", ".join(items)


def chat_prompt(start: str) -> list[dict[str, str]]:
    """The rules, and the question."""
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": as_list(start)}]


@dataclass(frozen=True)
class Form:
    """How prompts, calls and results are written.

    Args:
        prompt: The question's text -> the dataset's `prompt`.
        tell: The text of a state -> what a result says.
        call: A move, with one `{}`.
        result: A result, with one `{}`; a recipe's `result_format`.
        ending: The end of a rollout.
        pieces: Whether its tokens are pieces of words (`appo.rollout.decisions`).
        make_model: Makes a model that reads it, and its tokenizer.
    """

    prompt: Callable[[str], Any]
    tell: Callable[[str], str]
    call: str
    result: str
    ending: str
    pieces: bool
    make_model: Callable[[], tuple[Any, Any]]


FORMS = {
    "words": Form(
        prompt=str,
        tell=str,
        call=" <act> {} </act>",
        result=" <result> {} </result> ",
        ending=" <answer> done </answer>",
        pieces=False,
        make_model=make_tiny,
    ),
    "chat": Form(
        prompt=chat_prompt,
        tell=as_list,
        call="<act>{}</act>",
        result="\n<result>{}</result>\n",
        ending="<answer>done</answer>",
        pieces=True,
        make_model=make_smollm2,
    ),
}
