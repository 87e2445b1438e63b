"""The two ways in which a policy meets planning: words for the tiny model, a chat for a real one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from appo.environments.planning.texts import WORDS
from appo.models.smollm2 import make_model as make_smollm2
from appo.models.tiny import tiny_llama, word_tokenizer

SYSTEM_PROMPT = (
    "Bring everything to where it has to be. Written is: thing, where it is > where it has to be. Each move is "
    "<act>name</act> of a thing (to take it or put it down) or of a place (to go there, or put down there). "
    "When the goal is reached, write <answer>done</answer>."
)
TAGS = [f"<{slash}{name}>" for name in ("act", "result", "answer") for slash in ("", "/")]


def make_tiny() -> tuple[Any, Any]:
    """A Llama of about 0.2M parameters with fresh weights, and one token per word."""
    tokenizer = word_tokenizer(WORDS, TAGS)
    return tiny_llama(tokenizer), tokenizer


def chat_prompt(start: str) -> list[dict[str, str]]:
    """The rules, and the question."""
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": start}]


@dataclass(frozen=True)
class Form:
    """How prompts, calls and results are written.

    Args:
        prompt: The question's text -> the dataset's `prompt`.
        call: A move, with one `{}`.
        result: A result, with one `{}`; a recipe's `result_format`.
        ending: The end of a rollout.
        make_model: Makes a model that reads it, and its tokenizer.
    """

    prompt: Callable[[str], Any]
    call: str
    result: str
    ending: str
    make_model: Callable[[], tuple[Any, Any]]


FORMS = {
    "words": Form(str, " <act> {} </act>", " <result> {} </result> ", " <answer> done </answer>", make_tiny),
    "chat": Form(
        chat_prompt, "<act>{}</act>", "\n<result>{}</result>\n", "<answer>done</answer>", make_smollm2
    ),
}
