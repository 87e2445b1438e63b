"""Demonstrations, some of which go wrong in one of four ways that reinforcement can repair.

A demonstration goes wrong before a search with probability `noise`, at most once; it goes on from there as if nothing
had happened, and ends with another answer than the right one. So it succeeds exactly where nothing went wrong.

Left out on purpose: mistakes of the form, such as tags that are not closed.
"""

import random
from collections.abc import Iterator

from appo.environments.base import Demonstration, Segment
from appo.environments.multihop.corpus import Corpus
from appo.environments.multihop.environment import MultihopEnvironment
from appo.environments.multihop.forms import Form
from appo.environments.multihop.questions import Question, draw_questions, wrong_names

NOISE = 0.3

# The flaws. Answers too early, with what the last search found:
EARLY = "early"
# searches for another property of the right entity, and takes what that is for what was wanted:
WRONG_PROPERTY = "wrong property"
# searches for the next property of the question's entity once more, not of the one that was found:
SAME_ENTITY = "same entity"
# answers without any search, with something of the right kind:
FROM_MEMORY = "from memory"


def make_demonstrations(
    form: Form, hops: tuple[int, int], noise: float, size: int, seed: int
) -> Iterator[Demonstration]:
    """`size` demonstrations.

    Args:
        form: How they are written.
        hops: Least and most properties of a question.
        noise: Chance of a flaw before each search, 0 to 1.
        size: How many.
        seed: Of the questions and the flaws.
    """
    rng = random.Random(f"multihop demonstrations {seed}")
    questions = draw_questions(form.corpus().world, hops, seed, "demonstrations")
    for _ in range(size):
        question = next(questions)
        flaw, hop = draw_flaw(form.corpus(), question, noise, rng)
        segments, answer = demonstrate(form, question, flaw, hop, rng)
        while flaw and answer == question.answer:  # the mistake happened to lead there
            flaw, hop = draw_flaw(form.corpus(), question, 1.0, rng)
            segments, answer = demonstrate(form, question, flaw, hop, rng)
        yield Demonstration(form.prompt(question), segments)


def draw_flaw(corpus: Corpus, question: Question, noise: float, rng: random.Random) -> tuple[str, int]:
    """A flaw and the hop before which it comes; no flaw is empty."""
    for hop in range(len(question.names)):
        if rng.random() < noise:
            flaws = [EARLY, SAME_ENTITY] if hop else [FROM_MEMORY]
            flaws += [WRONG_PROPERTY] if wrong_names(corpus.world, question, hop) else []
            return rng.choice(flaws), hop
    return "", 0


def demonstrate(form: Form, question: Question, flaw: str, hop: int, rng: random.Random) -> tuple[list[Segment], str]:
    """The pieces of one demonstration, and its answer.

    Args:
        form: How it is written.
        question: What is asked.
        flaw: What goes wrong, empty for nothing.
        hop: Before which search it does, 0 the first.
        rng: For thoughts and the details of the flaw.
    """
    corpus = form.corpus()
    environment = MultihopEnvironment(corpus)
    environment.reset(len(question.names))
    segments: list[Segment] = []
    found = question.entities[0]
    for number, due in enumerate(question.names):
        name, entity = due, found
        if number == hop and flaw in (EARLY, FROM_MEMORY):
            break
        if number == hop and flaw == WRONG_PROPERTY:
            name = rng.choice(wrong_names(corpus.world, question, hop))
        if number == hop and flaw == SAME_ENTITY:
            entity = question.entities[0]
        query = corpus.query(name, entity)
        segments.append(Segment(form.search.format(form.thought(rng), query)))
        segments.append(Segment(form.result.format(environment.search(query)), trained=False))
        found = _read(corpus, query, name, entity, found)
    answer = _guess(corpus, question, rng) if flaw == FROM_MEMORY else found
    return [*segments, Segment(form.answer.format(form.thought(rng), answer))], answer


def _read(corpus: Corpus, query: str, name: str, entity: str, found: str) -> str:
    """What a reader takes from the page: what was asked for, else what it says last, else what was known before."""
    facts = corpus.found(query)
    asked = [fact.value for fact in facts if (fact.entity, fact.name) == (entity, name)]
    return [found, *(fact.value for fact in facts), *asked][-1]


def _guess(corpus: Corpus, question: Question, rng: random.Random) -> str:
    kinds = corpus.world.kinds
    alike = [entity for entity, kind in kinds.items() if kind == kinds[question.answer] and entity != question.answer]
    return rng.choice(alike)
