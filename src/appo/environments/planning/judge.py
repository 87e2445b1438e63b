"""What each decision of a planning rollout was worth: exact, by search over all states.

A decision is the word of a move, `<act> WORD </act>`, one token where names are; and the word `answer` of the tag that
ends the rollout, which before the goal gives up what was left. The advantage of a move is Q - V under the policy
`search.skilled`, so that over all possible moves of a state the advantages, weighted by that policy, sum to 0. An
impossible move costs one move and changes nothing; it, and stopping, have no chance under that policy.

A move is right if it brings the goal nearer by one move, the most that a move can; with moves to spare another may be
worth as much. Where there is no chance left, and
behind the goal, nothing is decided: advantage 0, and right.

Advantages add up to the reward minus the first V, but for a rollout that was cut off, or ended without `<answer>`,
while there was a chance left.

Left out on purpose: choosing a tag (`<answer>` in place of `<act>` is judged, the other way round is not), and what
never runs: calls that are not closed, and what a thought says of them.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from appo.environments.planning.search import Values, distances, skilled
from appo.environments.planning.texts import read
from appo.environments.planning.worlds import Problem, moves
from appo.rollout.decisions import Decision, found_in

# What has not run: a thought that holds no result, and what the runner refused as malformed. Then a call as the
# environment got it, with its move, or the tag that ends a rollout.
_DECISION = (
    r"(?s)<think>(?:(?!<result>|</think>).)*</think>"
    r"|<(?:act|answer)>(?:(?!</act>|</answer>|<result>).)*</act>\s*<result>\s*error: malformed"
    r"|<(?:act>\s*((?:(?!</act>|<result>).)*?)\s*</act>|(answer)>)"
)


def decision_positions(words: Sequence[str], *, pieces: bool = False) -> list[int]:
    """Where the decisions of a completion stand; arguments as `judge` has them."""
    return [position for position, _ in _decisions(words, pieces)]


def _decisions(words: Sequence[str], pieces: bool) -> list[tuple[int, re.Match[str]]]:
    return [(position, match) for position, match in found_in(words, _DECISION, pieces) if match.lastindex]


def judge(row: dict[str, Any], words: Sequence[str], skill: float, *, pieces: bool = False) -> list[Decision]:
    """`Task.judge`.

    Args:
        row: The question; its `start` and `budget` are read.
        words: The completion's tokens.
        skill: Chance of a best move, in (0, 1], from there on.
        pieces: Whether the tokens are pieces of words (`appo.rollout.decisions`).
    """
    named, state = read(row["start"])
    problem, left = named.problem, int(row["budget"])
    values, to_go = _values(problem, skill), distances(problem)
    judged = []
    for position, match in _decisions(words, pieces):
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


@lru_cache(maxsize=1024)  # a skill that is measured is another one at each update
def _values(problem: Problem, skill: float) -> Values:
    return Values(problem, skilled(problem, skill))
