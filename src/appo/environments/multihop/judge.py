"""Where a rollout decides, and what each decision was worth.

Each turn decides three things: to search or to answer, the property to ask for, the entity to ask about; the last turn
two, to answer and with what. Known is how far along the chain the pages read so far have led, and how many searches
are left. With `d` decisions to go a policy that decides rightly with chance `skill` succeeds with V = skill^d, as a
wrong search leaves too few of them; with too few, V is 0. So a right decision is worth V / skill - V, a wrong one -V:
an early answer, a query whose page does not lead on. A query is right where the page that it finds leads on, however
it is put. A search that is not needed, or one that only uses up a spare one, loses nothing that later decisions need.

All advantages of a rollout with an answer add up to its reward minus the first V.

Left out on purpose: that a spare search may repair a mistake (V is that of a policy that makes none), and everything
after the first answer, which alone is scored.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from appo.environments.multihop.corpus import Corpus
from appo.environments.multihop.environment import MOST_WORDS
from appo.environments.multihop.forms import Form
from appo.environments.multihop.questions import Question
from appo.environments.multihop.world import Fact
from appo.rollout.decisions import Decision, found_in

PER_HOP, LAST = 3, 2  # decisions
_TURN = r"<(search|answer)>"
_FIRST_WORD = r"<(?:search|answer)>\s*([^\s<]+)"
_TEXT = re.compile(r"<(?:search|answer)>(.*?)(?=<|$)", re.DOTALL)


@dataclass(frozen=True)
class Turn:
    """A search or an answer, with the positions of the words that decide; None where they are missing."""

    is_answer: bool
    text: str
    tag: int
    first: int | None
    second: int | None

    def positions(self) -> list[int]:
        """Of its decisions, in order."""
        return [place for place in (self.tag, self.first, self.second) if place is not None]


def turns(form: Form, words: Sequence[str]) -> list[Turn]:
    """The turns of a completion.

    Args:
        form: How it is written.
        words: Its tokens as text.
    """
    firsts = {match.start(): place for place, match in found_in(words, _FIRST_WORD, form.pieces)}
    seconds = {match.start(): place for place, match in found_in(words, form.entity, form.pieces)}
    found = []
    for tag, match in found_in(words, _TURN, form.pieces):
        text = _TEXT.match(match.string, match.start())
        first, entity = firsts.get(match.start()), seconds.get(match.start())
        found.append(Turn(match[1] == "answer", text[1].strip() if text else "", tag, first, entity))
    return found


def same(answer: str, right: str) -> bool:
    """Whether an answer is the right one, but for case, spacing and marks at its ends."""
    return _normalised(answer) == _normalised(right)


def _normalised(answer: str) -> str:
    return " ".join(answer.casefold().split()).strip(" .,;:!?'\"")


def chance(hops_left: int, searches_left: int, skill: float) -> float:
    """V, before a turn."""
    return skill ** (PER_HOP * hops_left + LAST) if searches_left >= hops_left else 0.0


def is_query(text: str) -> bool:
    """Whether the environment searches for it."""
    return 0 < len(text.split()) <= MOST_WORDS


def leads_to(corpus: Corpus, question: Question, query: str, at: int) -> int:
    """How far along the chain the page of a query leads, from `at`: at least there, one step where it is the one that
    is due; further by luck, where it says nothing else."""
    facts = corpus.found(query) if is_query(query) else []
    hops = range(at, len(question.names) if len(facts) == 1 else at + 1)
    return max([at, *(hop + 1 for hop in hops if any(_is_step(fact, question, hop) for fact in facts))])


def _is_step(fact: Fact, question: Question, hop: int) -> bool:
    """Whether a fact says what a hop leads to, of its entity or as its property."""
    is_due = fact.entity == question.entities[hop] or fact.name == question.names[hop]
    return is_due and fact.value == question.entities[hop + 1]


def judge_rollout(
    form: Form, question: Question, words: Sequence[str], skill: float, spare: int = 0
) -> list[Decision]:
    """`Task.judge` of both forms.

    Args:
        form: How the rollout is written.
        question: The chain.
        words: The completion's tokens.
        skill: Chance of a right decision, in (0, 1].
        spare: Searches that were allowed beyond the hops.
    """
    corpus, hops = form.corpus(), len(question.names)
    at, searches, answered = 0, hops + spare, False
    judged: list[Decision] = []
    for turn in turns(form, words):
        value = 0.0 if answered else chance(hops - at, searches, skill)
        if answered or (at == hops and not turn.is_answer):  # nothing to gain, nothing to lose
            outcomes = [(value, True)] * len(turn.positions())
        elif turn.is_answer:
            outcomes = _answer(turn, at == hops, same(turn.text, question.answer), value, skill)
            answered = True
        else:
            reached = leads_to(corpus, question, turn.text, at) if searches else at
            searches -= bool(searches) and is_query(turn.text)
            query = corpus.query(question.names[at], question.entities[at])
            outcomes = _search(turn, query, reached > at, value, chance(hops - reached, searches, skill), skill)
            at = reached
        for place, (after, right) in zip(turn.positions(), outcomes, strict=True):
            judged.append(Decision(place, after - value, right))
            value = after
    return judged


def _answer(turn: Turn, is_time: bool, is_right: bool, value: float, skill: float) -> list[tuple[float, bool]]:
    """V after each decision of an answer, and whether it was right; an answer by luck counts from its word on."""
    if turn.first is None:
        return [(0.0, value == 0.0)]
    to_answer = (value / skill, True) if is_time else (0.0, value == 0.0)
    return [to_answer, (float(is_right), is_right or not is_time)]


def _search(
    turn: Turn, query: str, leads_on: bool, value: float, after: float, skill: float
) -> list[tuple[float, bool]]:
    """The same of a search, after which V is `after`. What went wrong is blamed on the first word that is not due."""
    places = len(turn.positions())
    if value == 0.0:
        return [*[(0.0, True)] * (places - 1), (after, True)]
    outcomes = [(value / skill**made, True) for made in range(1, places)]
    property_is_due = turn.text.split()[:1] == query.split()[:1]
    if not leads_on and places == PER_HOP and not property_is_due:
        return [outcomes[0], (after, False), (after, True)]
    return [*outcomes, (after, leads_on)]
