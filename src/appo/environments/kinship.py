"""The embedded testbed: chains of look-ups in a table of relations, learnable in minutes on a CPU.

The prompt is the bare list of relations, in the order in which they are to be looked up, and the entity to start
from: `start mother friend boss e12`. The agent thinks, asks, reads the result, and answers:

    <think> filler .. plan start mother filler .. </think> <search> mother e12 </search> <result> e17 </result>
    <think> filler .. plan mother friend filler .. </think> <search> friend e17 </search> <result> weak e9 </result>
    <think> filler .. plan friend retry filler .. </think> <search> friend e17 </search> <result> e4 </result> ...
    <think> filler .. plan boss done filler .. </think> <answer> e5 </answer>

Every episode has a table of its own, so that nothing but asking helps. Fillers mean nothing and have a high entropy;
the third word of each `plan` phrase decides the outcome (`decision_positions`). Demonstrations decide wrongly with
probability `NOISE`, so that a cold start leaves reinforcement learning something to repair.

Left out on purpose: tables in memory (an entry is a hash of episode, relation and entity) and repeated relations in a
question (the last relation alone then says which one comes next).

    from appo.environments.kinship import TASK
    model, tokenizer = TASK.make_model()
    rows = TASK.dataset(500, seed=1)
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from hashlib import blake2b
from typing import Any, ClassVar

from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from appo.environments.base import Demonstration, Segment, Task
from appo.environments.kinship_judge import judge
from appo.errors import UserError
from appo.models.tiny import tiny_llama, word_tokenizer
from appo.tools.results import ToolError

RELATIONS = ["boss", "friend", "mother", "father", "sister", "brother", "teacher", "neighbour"]
ENTITIES = [f"e{number}" for number in range(24)]
# fmt: off
FILLERS = [
    "well", "so", "hmm", "now", "let", "me", "see", "then", "ok", "here", "maybe", "right", "look", "first", "again",
    "step", "next", "think", "fine", "sure", "yes", "note", "but", "also",
]
# fmt: on
PLANNING = ["plan", "start", "retry", "done"]
TAGS = [f"<{slash}{name}>" for name in ("think", "search", "result", "answer") for slash in ("", "/")]
# `weak` marks an answer that should be asked again; the others spell the error of a malformed query.
TOOL_WORDS = [
    "weak",
    "error:",
    "malformed",
    "search",
    "got",
    "nothing",
    "needs",
    "one",
    "relation",
    "and",
    "entity",
    "like",
]

WEAK_SHARE = 0.25
NOISE = 0.15


@dataclass(frozen=True)
class Style:
    """How long the questions are and how much is written besides decisions; the default is `make train`'s.

    Args:
        hops: Least and most relations of a question.
        before, after: Least and most fillers before and after a plan.
        quiet: Whether each filler follows from the one before, so that fillers have hardly any entropy.
        tail: Least and most fillers that follow the entity in the answer, when all that matters has been decided.
        result_words: Words of a search result besides the entity that was asked for, before it.
    """

    hops: tuple[int, int] = (2, 4)
    before: tuple[int, int] = (1, 4)
    after: tuple[int, int] = (0, 2)
    quiet: bool = False
    tail: tuple[int, int] = (0, 0)
    result_words: int = 0


DEFAULT = Style()


class KinshipEnvironment:
    """One episode: a table of relations that the agent asks, entry by entry."""

    _result_words: ClassVar[int] = 0

    def __init__(self) -> None:
        self._seed = 0
        self._asked: frozenset[tuple[str, str]] = frozenset()

    def reset(self, seed: int, **row: Any) -> None:
        """Starts the episode `seed`.

        Args:
            seed: The number that the episode's table is derived from.
            row: The other columns of the dataset; not needed.
        """
        self._seed = int(seed)
        self._asked = frozenset()

    def search(self, query: str) -> str:
        """Looks up who stands in a relation to an entity.

        Args:
            query: A relation and an entity, for example `mother e12`.

        Returns:
            The entity found, or `weak` and an entity that is usually wrong: ask again.
        """
        words = query.split()
        if len(words) != 2 or words[0] not in RELATIONS or words[1] not in ENTITIES:
            # Without punctuation, since the tokenizer knows words only.
            got = " ".join(words) or "nothing"
            raise ToolError(f"search got {got} but needs one relation and one entity like mother e12")
        relation, entity = words
        first_time = (relation, entity) not in self._asked
        self._asked |= {(relation, entity)}
        if first_time and is_weak(self._seed, relation, entity):
            found = f"weak {ENTITIES[_hash(self._seed, relation, entity, 'guess') % len(ENTITIES)]}"
        else:
            found = look_up(self._seed, relation, entity)
        page = random.Random(f"{self._seed} {relation} {entity}").choices(FILLERS, k=self._result_words)
        return " ".join([*page, found])

    def fork(self) -> "KinshipEnvironment":
        """Returns an independent copy in the present state."""
        copy = type(self)()
        # The set is immutable, so sharing it is safe and costs nothing.
        copy._seed, copy._asked = self._seed, self._asked
        return copy


def look_up(seed: int, relation: str, entity: str) -> str:
    """The true entry of the episode's table."""
    return ENTITIES[_hash(seed, relation, entity, "entry") % len(ENTITIES)]


def is_weak(seed: int, relation: str, entity: str) -> bool:
    """Whether the first answer to this query is a weak one."""
    return _hash(seed, relation, entity, "weak") % 1000 < WEAK_SHARE * 1000


def _hash(*parts: object) -> int:
    # Python's own hash of a string differs from process to process.
    text = " ".join(map(str, parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def exact_answer(completions: list[Any], answer: list[str], **kwargs: Any) -> list[float]:
    """TRL reward function: 1 if the last `<answer> x </answer>` of the completion is the row's answer, else 0."""
    return [float(final_answer(text) == right) for text, right in zip(completions, answer, strict=True)]


def leading_answer(completions: list[Any], answer: list[str], **kwargs: Any) -> list[float]:
    """As `exact_answer`, where an explanation may follow the first word of the answer."""
    first = [(final_answer(text) or "").split()[:1] for text in completions]
    return [float(words == [right]) for words, right in zip(first, answer, strict=True)]


def final_answer(completion: str | list[dict[str, Any]]) -> str | None:
    """The text of the last closed answer of a completion (a string or TRL's messages), None without one."""
    if not isinstance(completion, str):
        written = [message.get("content") for message in completion if message.get("role") == "assistant"]
        completion = " ".join(content for content in written if isinstance(content, str))
    before, closing, _ = completion.rpartition("</answer>")
    _, opening, text = before.rpartition("<answer>")
    return text.strip() if opening and closing else None


def decision_positions(words: list[str]) -> list[int]:
    """Where the true decisions of a rollout stand: the third word of each `plan <last> <next>`."""
    return [i + 2 for i, word in enumerate(words[:-2]) if word == "plan"]


def token_kinds(words: list[str]) -> list[str]:
    """Fillers, names (entities and relations), and the words of the format."""
    kinds = {**dict.fromkeys(FILLERS, "filler"), **dict.fromkeys([*ENTITIES, *RELATIONS], "name")}
    return [kinds.get(word, "format") for word in words]


def make_dataset(size: int, seed: int, style: Style = DEFAULT) -> Dataset:
    """Questions with the columns `prompt`, `seed` (of the episode), `answer` and `hops`."""
    rng = random.Random(f"questions {seed}")
    return Dataset.from_list([_make_question(rng, style) for _ in range(size)])


def _make_question(rng: random.Random, style: Style) -> dict[str, Any]:
    episode = rng.getrandbits(62)
    relations = rng.sample(RELATIONS, rng.randint(*style.hops))
    entity = answer = rng.choice(ENTITIES)
    for relation in relations:
        answer = look_up(episode, relation, answer)
    return {
        "prompt": " ".join(["start", *relations, entity]),
        "seed": episode,
        "answer": answer,
        "hops": len(relations),
    }


def make_demonstrations(size: int, seed: int, noise: float = NOISE, style: Style = DEFAULT) -> Iterator[Demonstration]:
    """Demonstrations that decide wrongly with probability `noise` and go on consistently from there."""
    rng = random.Random(f"demonstrations {seed}")
    for _ in range(size):
        question = _make_question(rng, style)
        yield Demonstration(question["prompt"], _demonstrate(question, noise, rng, style))


def _demonstrate(question: dict[str, Any], noise: float, rng: random.Random, style: Style) -> list[Segment]:
    _, *relations, entity = question["prompt"].split()
    environment = make_environment(style)()
    environment.reset(question["seed"])
    segments: list[Segment] = []
    last, position, found, weak = "start", 0, entity, False
    while True:
        decision, position = _decide(relations, position, last, weak, noise, rng)
        before = _fill(rng, rng.randint(*style.before), style.quiet)
        after = _fill(rng, rng.randint(*style.after), style.quiet)
        thought = f"<think> {before} plan {last} {decision} {after} </think>"
        if decision == "done":
            answer = f"{found} {_fill(rng, rng.randint(*style.tail), style.quiet)}" if style.tail[1] else found
            segments.append(Segment(f" {thought} <answer> {answer} </answer>"))
            return segments
        # A retry asks the last query again; anything else asks about what was found.
        if decision != "retry":
            last, entity = decision, found
        segments.append(Segment(f" {thought} <search> {last} {entity} </search>"))
        result = environment.search(f"{last} {entity}")
        segments.append(Segment(f" <result> {result} </result>", trained=False))
        words = result.split()
        found, weak = words[-1], words[-2:-1] == ["weak"]


def _decide(
    relations: list[str], position: int, last: str, weak: bool, noise: float, rng: random.Random
) -> tuple[str, int]:
    """The word that ends the plan, and how many relations of the question are then dealt with."""
    onward = relations[position] if position < len(relations) else "done"
    right = "retry" if weak else onward
    decision = right
    if rng.random() < noise:
        # Ignore a weak result, stop early, repeat needlessly, skip a relation, ask for any relation.
        options = {onward, "done", rng.choice(RELATIONS), *relations[position + 1 : position + 2]}
        if last != "start":
            options.add("retry")
        decision = rng.choice(sorted(options - {right, last}))
    if decision == "retry":
        return decision, position
    skipped = decision in relations[position + 1 : position + 2]
    return decision, min(position + 1 + skipped, len(relations))


def _fill(rng: random.Random, count: int, quiet: bool) -> str:
    return " ".join(FILLERS[:count] if quiet else rng.choices(FILLERS, k=count))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the testbed."""
    return word_tokenizer([*RELATIONS, *ENTITIES, *FILLERS, *PLANNING, *TOOL_WORDS], TAGS)


def make_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A Llama of about 0.2M parameters with fresh weights (from torch's generator) and its tokenizer."""
    tokenizer = make_tokenizer()
    return tiny_llama(tokenizer), tokenizer


def make_environment(style: Style) -> Callable[[], KinshipEnvironment]:
    """The environment's class for a style."""
    if not style.result_words:
        return KinshipEnvironment
    return type("KinshipEnvironment", (KinshipEnvironment,), {"_result_words": style.result_words})


def make_task(style: Style, noise: float = NOISE) -> Task:
    """The testbed in another style, with demonstrations of another chance of a wrong decision."""
    return Task(
        dataset=partial(make_dataset, style=style),
        reward_funcs=[leading_answer if style.tail[1] else exact_answer],
        environment_factory=make_environment(style),
        demonstrations=partial(make_demonstrations, noise=noise, style=style),
        make_model=make_model,
        decision_positions=decision_positions,
        token_kinds=token_kinds,
        judge=partial(judge, weak_share=WEAK_SHARE),
    )


TASK = make_task(DEFAULT)
# The study's testbeds (docs/study.md). Loud: most tokens are fillers of high entropy. Quiet: as many fillers, but each
# follows from the one before. Long: the outcome is decided in the first eighth of 500 tokens. Costly: a search returns
# a page, with several times the tokens that the policy writes. Their cold start continues that of TASK.
LOUD = make_task(Style(before=(4, 10), after=(1, 5)))
QUIET = make_task(Style(before=(4, 10), after=(1, 5), quiet=True))
LONG = make_task(Style(tail=(440, 480)))
COSTLY = make_task(Style(result_words=32))


def STYLED(noise: float = NOISE, **style: Any) -> Task:
    """`task: kinship:STYLED` with `task_args`: the testbed in a style of one's own.

    Args:
        noise: Chance of a wrong decision in demonstrations, 0 to 1.
        style: Fields of `Style`, such as `hops: [8, 8]`.
    """
    known = {f.name for f in fields(Style)}
    if unknown := sorted(set(style) - known):
        raise UserError(f"task_args: kinship has no {unknown[0]}; a style has {', '.join(sorted(known))}, and noise.")
    if not 0 <= noise <= 1:
        raise UserError(f"task_args: noise must lie in [0, 1], got {noise}.")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in style.items()}
    found = Style(**values)
    if not 1 <= found.hops[0] <= found.hops[1] <= len(RELATIONS):
        raise UserError(f"task_args: hops must be two numbers from 1 to {len(RELATIONS)}, got {list(found.hops)}.")
    return make_task(found, noise)
