"""What each decision of a planning rollout was worth: exact, by search over all states.

A decision is the word of a move, `<act> WORD </act>`, one token where names are; and the word `answer` of the tag that
ends the rollout, which before the goal gives up what was left. The advantage of a move is Q - V under the policy
`search.skilled`, so that over all possible moves of a state the advantages, weighted by that policy, sum to 0. An
impossible move costs one move and changes nothing; it, and stopping, have no chance under that policy.

A move is right if it brings the goal nearer by one move, the most that a move can. Where there is no chance left, and
behind the goal, nothing is decided: advantage 0, and right.

Left out on purpose: choosing a tag (`<answer>` in place of `<act>` is judged, the other way round is not), and calls
that are not closed, which never run.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from appo.environments.planning.search import Values, distances, skilled
from appo.environments.planning.texts import read
from appo.environments.planning.worlds import Problem, moves
from appo.rollout.decisions import Decision, found_in

# A call as the environment got it (what the runner refused as malformed has not run), or the tag that ends a rollout.
_DECISION = r"<(?:act>\s*|(?=answer>))([^<>]*?)\s*(?:</act>(?!\s*<result>\s*error: malformed)|>)"


def decision_positions(words: Sequence[str]) -> list[int]:
    """Where the decisions of a completion stand."""
    return [position for position, _ in found_in(words, _DECISION)]


def judge(row: dict[str, Any], words: Sequence[str], skill: float) -> list[Decision]:
    """`Task.judge`.

    Args:
        row: The question; its `start` and `budget` are read.
        words: The completion's tokens.
        skill: Chance of a best move, in (0, 1], from there on.
    """
    named, state = read(row["start"])
    problem, left = named.problem, int(row["budget"])
    values, to_go = _values(problem, skill), distances(problem)
    judged = []
    for position, match in found_in(words, _DECISION):
        before = values.v(state, left)
        if not match[0].startswith("<act>"):
            given_up = before > 0.0 and not problem.is_goal(state)
            judged.append(Decision(position, -before if given_up else 0.0, not given_up))
            continue
        move = named.move(match[1])
        after = moves(problem, state).get(-2 if move is None else move, state)
        if problem.is_goal(state) or before == 0.0:
            judged.append(Decision(position, 0.0, True))
        else:
            judged.append(Decision(position, values.v(after, left - 1) - before, to_go[after] < to_go[state]))
        if not problem.is_goal(state) and left:
            state, left = after, left - 1
    return judged


@cache
def _values(problem: Problem, skill: float) -> Values:
    return Values(problem, skilled(problem, skill))
