"""Questions: chains of properties, each of what the one before led to.

    question = draw(rng, world, hops=3)     # Nairobi > country > Kenya > northernmost > Somalia > currency > SOS
    question.answer                         # "SOS"

No property and no entity comes twice, so that the last property says which one is next, and the answer stands neither
in the question nor on the way. A question's checksum decides what it is for: demonstrations, training or evaluation,
which therefore share none, whatever their seeds.

Left out on purpose: questions whose answer is the name of what was asked about, or a part of it.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from appo.environments.multihop.world import PROPERTIES, Fact, World
from appo.tools.search.words import words

USES = ("demonstrations", "evaluation", "training", "training")  # by the checksum's last two bits
LONGEST = 10


@dataclass(frozen=True)
class Question:
    """A chain.

    Args:
        names: The properties, in the order in which they are looked up.
        entities: The entity to start from and what each property leads to: one more than `names`.
    """

    names: tuple[str, ...]
    entities: tuple[str, ...]

    @property
    def answer(self) -> str:
        return self.entities[-1]

    @property
    def use(self) -> str:
        """What it serves, of `USES`."""
        return USES[zlib.crc32(" ".join([self.entities[0], *self.names]).encode()) % len(USES)]

    def chain(self) -> str:
        """As a column of a dataset has it."""
        steps = [f"{name} > {entity}" for name, entity in zip(self.names, self.entities[1:], strict=True)]
        return " > ".join([self.entities[0], *steps])


def read_chain(chain: str) -> Question:
    """The question of a dataset's column `chain`."""
    parts = chain.split(" > ")
    return Question(tuple(parts[1::2]), tuple(parts[::2]))


def draw_questions(world: World, hops: tuple[int, int], seed: Any, use: str) -> Iterator[Question]:
    """Endless questions of one use, with the number of hops drawn uniformly.

    Args:
        world: What there is to know.
        hops: Least and most properties of a question, 1 to `LONGEST`.
        seed: Two seeds give different questions, but for coincidences, which are frequent with one hop.
        use: One of `USES`.
    """
    rng = random.Random(f"multihop {use} {seed}")
    while True:
        count = rng.randint(*hops)
        question = None
        while question is None or question.use != use:
            question = draw(rng, world, count)
        yield question


def draw(rng: random.Random, world: World, hops: int) -> Question | None:
    """A walk from a random entity, or None where it came to an end before its last hop."""
    entity = rng.choice(_starts(tuple(world.kinds)))
    entities, names = [entity], list[str]()
    for left in reversed(range(hops)):
        ways = [fact for fact in _leading_on(world, entity, left > 0) if fact.name not in names]
        ways = [fact for fact in ways if fact.value not in entities]
        if not ways:
            return None
        way = rng.choice(ways)
        entity = way.value
        entities.append(entity)
        names.append(way.name)
    tells = set(words(" ".join([entities[0], *names]).replace("_", " ")))
    if tells & set(words(entity.replace("_", " "))):
        return None
    return Question(tuple(names), tuple(entities))


@cache
def _starts(entities: tuple[str, ...]) -> list[str]:
    return sorted(entities)


def _leading_on(world: World, entity: str, to_country: bool) -> list[Fact]:
    """The facts about an entity; those that lead to a country where the question goes on from there."""
    ways = world.about(entity)
    return [fact for fact in ways if world.kinds[fact.value] == "country"] if to_country else ways


def wrong_names(world: World, question: Question, hop: int) -> list[str]:
    """The properties of the entity at a hop (0: the first) that are there, and lead elsewhere than the right one."""
    entity, right = question.entities[hop], question.entities[hop + 1]
    return [name for name in PROPERTIES if world.value(entity, name) not in (None, right)]
