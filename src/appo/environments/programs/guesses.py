"""How a demonstration goes: plausible programs are tested until one passes, and that one is the answer.

`FLAWS` are the mistakes that demonstrations make, each enough to fail, and each one that reinforcement can repair, as
its reward tells. A share `noise` of the demonstrations makes one of them; all others succeed.

Left out on purpose: how turns are written down (`words.py`, `chat.py`).
"""

import random
from collections.abc import Sequence

from appo.environments.programs.catalogue import Program
from appo.environments.programs.primitives import PRIMITIVES, is_program
from appo.environments.programs.questions import Question, fits, shallow

# untested: answers with a first guess, which is wrong.
# stops: although its last test failed, and answers with what failed.
# repeats: tests what has just failed once more, and gives up with it.
# wrong_end: tests the right program and answers with another last step.
FLAWS = ("untested", "stops", "repeats", "wrong_end")
NOISE = 0.4

P_FIRST = 0.5  # chance that a guess is the hidden program; the last test that is allowed always is
P_FITTING = 0.5  # chance that a wrong guess fits the first example at least, where there is one that does


def demonstrate(question: Question, tries: int, noise: float, rng: random.Random) -> tuple[list[Program], Program]:
    """The programs that a demonstration tests, in order, and the one that it answers with.

    Args:
        question: What is asked.
        tries: Tests that are allowed.
        noise: Share of demonstrations with a flaw.
        rng: Of the demonstrations.
    """
    right = question.program
    flaw = rng.choice(FLAWS) if rng.random() < noise else None
    if flaw == "untested":
        return [], guess(question, [], rng) or _other_end(question, rng)
    tested: list[Program] = []
    while len(tested) < tries - 1 and rng.random() >= P_FIRST:
        wrong = guess(question, tested, rng)
        if wrong is None:
            break
        tested.append(wrong)
    if flaw in ("stops", "repeats"):
        tested = tested or [guess(question, [], rng) or _other_end(question, rng)]
        again = [tested[-1]] if flaw == "repeats" and len(tested) < tries else []
        return [*tested, *again], tested[-1]
    return [*tested, right], _other_end(question, rng) if flaw == "wrong_end" else right


def guess(question: Question, tested: Sequence[Program], rng: random.Random) -> Program | None:
    """A wrong program that one may think of, made of what is offered (if anything is), and not one of those tested.

    It fits the first example, or begins as the hidden program does, or is any; None where nothing is left.
    """
    known = question.arrangements() or shallow(min(2, question.depth))
    new = [p for p in known if p not in tested and not fits(p, question.visible)]
    fitting = [p for p in new if fits(p, question.visible[:1])]
    if fitting and rng.random() < P_FITTING:
        return rng.choice(fitting)
    begins = [p for p in new if p[0] == question.program[0]]
    options = begins if begins and rng.random() < 0.5 else new
    return rng.choice(options) if options else None


def _other_end(question: Question, rng: random.Random) -> Program:
    """The hidden program with another last step, offered if possible, so that it fits no longer."""
    offered = [(*question.program[:-1], name) for name in question.offered]
    others = [(*question.program[:-1], name) for name in PRIMITIVES]
    wrong = [[p for p in options if is_program(p) and not fits(p, question.visible)] for options in (offered, others)]
    return rng.choice(wrong[0] or wrong[1])
