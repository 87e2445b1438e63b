"""The two forms of the task: for a model that learns its words from nothing, and for one that reads English.

    WORDS.prompt(question)      # "start country northernmost Nairobi"
    CHAT.prompt(question)       # a system message, and "What is the northernmost neighbour of the country .. Nairobi?"

Left out on purpose: how calls are parsed (`appo.protocols.tags` reads both).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from appo.environments.multihop.corpus import PHRASES, Corpus, chat_corpus, words_corpus
from appo.environments.multihop.questions import Question
from appo.environments.multihop.world import PROPERTIES
from appo.models import smollm2
from appo.models.tiny import tiny_llama, word_tokenizer

# fmt: off
FILLERS = ["well", "so", "hmm", "now", "let", "me", "see", "then", "ok", "maybe", "right", "again"]
TOOL_WORDS = [
    "Page", "1:", "No", "search", "results", "found.", "error:", "the", "query", "is", "empty", "too", "long", "no",
    "searches", "are", "left", "malformed", "call:", "has", "before", "it;", "write", "...", "was", "closed", "with",
    ";", "stands", "inside", ",", "which", "not", "closed;", "by", "itself", "opened", "2", "3", "times", "once",
]
# fmt: on
TAGS = [f"<{slash}{name}>" for name in ("think", "search", "result", "answer") for slash in ("", "/")]

SYSTEM_PROMPT = (
    "Look things up step by step: write <search>capital of Kenya</search>, and a page follows in <result></result>. "
    "Each step is one search. End with <answer>the name alone</answer>."
)


@dataclass(frozen=True)
class Form:
    """How questions and rollouts are written.

    Args:
        corpus: Gives the pages.
        prompt: Of a question, as a dataset has it.
        thought: What is written before a tag; meaningless.
        search, answer: A turn: a thought, and a query or an answer.
        result: What stands around a page, as the recipe's `result_format` has it.
        entity: Pattern of a query whose group is the entity, behind its tag.
        pieces: Whether its tokens are pieces of words (`appo.rollout.decisions`).
        make_model: The model and its tokenizer.
    """

    corpus: Callable[[], Corpus]
    prompt: Callable[[Question], Any]
    thought: Callable[[random.Random], str]
    search: str
    answer: str
    result: str
    entity: str
    pieces: bool
    make_model: Callable[[], tuple[Any, Any]]


def words_prompt(question: Question) -> str:
    """`start`, the properties in the order in which they are looked up, and the entity to start from."""
    return " ".join(["start", *question.names, question.entities[0]])


def chat_prompt(question: Question) -> list[dict[str, str]]:
    """Messages with the question in English."""
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": in_english(question)}]


def in_english(question: Question) -> str:
    """`What is the currency of the northernmost neighbour of Kenya?`"""
    asked = question.entities[0]
    for name in question.names:
        asked = f"the {PHRASES.get(name, name)} of {asked}"
    return f"What is {asked}?"


def _words_thought(rng: random.Random) -> str:
    return " ".join(["<think>", *rng.choices(FILLERS, k=rng.randint(1, 3)), "</think>"])


def _no_thought(rng: random.Random) -> str:
    return ""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the form in words."""
    words = ["start", *PROPERTIES, *words_corpus().world.kinds, *FILLERS, *TOOL_WORDS]
    return word_tokenizer(list(dict.fromkeys(words)), TAGS)  # fillers are words of results, too


def make_tiny_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A Llama of about 0.2M parameters with fresh weights and its tokenizer."""
    tokenizer = make_tokenizer()
    return tiny_llama(tokenizer), tokenizer


WORDS = Form(
    corpus=words_corpus,
    prompt=words_prompt,
    thought=_words_thought,
    search=" {} <search> {} </search>",
    answer=" {} <answer> {} </answer>",
    result=" <result> {} </result>",
    entity=r"<search>\s*[^\s<]+ ([^\s<]+)",
    pieces=False,
    make_model=make_tiny_model,
)
CHAT = Form(
    corpus=chat_corpus,
    prompt=chat_prompt,
    thought=_no_thought,
    search="{}<search>{}</search>",
    answer="{}<answer>{}</answer>",
    result="\n<result>\n{}\n</result>\n",
    entity=r"<search>[^<]*? of ([^\s<]+)",
    pieces=True,
    make_model=smollm2.make_model,
)
FORMS = {"words": WORDS, "chat": CHAT}
