"""Questions: chains of properties, each of what the one before led to.

    question = draw(rng, world, hops=3)     # Nairobi > country > Kenya > northernmost > Somalia > currency > SOS
    question.answer                         # "SOS"

No property and no entity comes twice, so that the last property says which one is next, and the answer stands neither
in the question nor on the way. What the last look-up connects decides what a question is for: demonstrations, training
or evaluation. So these share no question, whatever their seeds, and no answer can be known from training: what an
evaluation asks for at the end was never asked for at the end of another question.

Left out on purpose: questions whose answer could be guessed, as it is a part of the name of what was asked about, or
that of many others (English is the language of many countries). Where few rollouts succeed, such guesses are many of
those that do, and training on successes teaches to guess.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from appo.environments.multihop.world import PROPERTIES, Fact, World
from appo.tools.search.words import words

USES = ("demonstrations", "evaluation", "training", "training")  # by the checksum's last two bits
LONGEST = 10
MOST_ALIKE = 3  # entities that may share an answer


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
        """What the last property leads to."""
        return self.entities[-1]

    @property
    def use(self) -> str:
        """What it serves, of `USES`: the same for all that end with the same two entities, in either order."""
        return USES[zlib.crc32(" ".join(sorted(self.entities[-2:])).encode()) % len(USES)]

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
    entity = rng.choice(world.entities)
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


def _leading_on(world: World, entity: str, to_country: bool) -> list[Fact]:
    """The facts about an entity that lead to a country, where the question goes on from there; else to an answer."""
    ways = world.about(entity)
    if to_country:
        return [fact for fact in ways if world.kinds[fact.value] == "country"]
    return [fact for fact in ways if world.alike[fact.name, fact.value] <= MOST_ALIKE]


def wrong_names(world: World, question: Question, hop: int) -> list[str]:
    """The properties of the entity at a hop (0: the first) that lead elsewhere than the right one; where it has no
    other, those of others."""
    entity, right = question.entities[hop], question.entities[hop + 1]
    own = [name for name in PROPERTIES if world.value(entity, name) not in (None, right)]
    return own or [name for name in PROPERTIES if name != question.names[hop]]
