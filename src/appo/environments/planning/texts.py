"""States and moves as text: what the policy reads, and what it writes.

    ferry north here ok A, south east B, aboard here C     the ferry is at north, A where it has to be, ..
    hand D table ok A, A C B, hand B D, under table A C    the hand holds D, which has to be on B; C is covered

The first word says which world it is. Of each object there is where it is, where it has to be, and its name; `here`
is where the robot or the ferry is, `ok` an object that need not be moved again. Objects stand in the order of their
names, covered blocks behind `under`. A text holds the whole problem, goal included.

Left out on purpose: other ways to write the same state; equal states have equal texts.
"""

from dataclasses import dataclass

from appo.environments.planning.worlds import HELD, Move, Problem, State

OBJECTS = ["A", "B", "C", "D", "E", "F", "G", "H"]
PLACES = ["north", "south", "east"]
HEADS = {"blocks": "hand", "gripper": "robot", "ferry": "ferry"}
CARRIED = {"blocks": "hand", "gripper": "held", "ferry": "aboard"}
TABLE, EMPTY, UNDER, HERE, OK = "table", "empty", "under", "here", "ok"
GOAL_REACHED, NO_MOVES_LEFT = "goal reached", "no moves left"
# What is told of an impossible move, by what `worlds.why_not` says; {} is the word that was written.
REFUSALS = {
    "covered": "{} is covered",
    "elsewhere": "{} is elsewhere",
    "full": "no room for {}",
    "held": "{} is held",
    "there": "already at {}",
    "fixed": "the table stays",
}
UNKNOWN = "name one thing or place"
# All words of the above, for a tokenizer that knows words only; with those of the runner's own errors.
WORDS = [
    *(*OBJECTS, *PLACES, *HEADS.values(), "held", "aboard", TABLE, EMPTY, UNDER, HERE, OK),
    *(word for text in (GOAL_REACHED, NO_MOVES_LEFT) for word in text.split()),
    *("is", "covered", "elsewhere", "room", "for", "already", "at", "the", "stays"),
    *("name", "one", "thing", "or", "place", "error:", "malformed", "call:", "done"),
]


@dataclass(frozen=True)
class Named:
    """A problem with the names of its objects and places, by number."""

    problem: Problem
    names: tuple[str, ...]

    def move(self, word: str) -> Move | None:
        """The move that a word names; None for any other text."""
        return self.names.index(word) if word in self.names else None

    def text(self, state: State) -> str:
        """The state, and the goal with it."""
        problem = self.problem
        if problem.world != "blocks":
            facts = [self._fact(state, number) for number in range(problem.objects)]
            return " ".join([HEADS[problem.world], self.names[state[-1]], *facts])
        free = [self._fact(state, number) for number in range(problem.objects) if number not in state]
        covered = [self._fact(state, number) for number in range(problem.objects) if number in state]
        held = self.names[state.index(HELD)] if HELD in state else EMPTY
        return " ".join([HEADS["blocks"], held, *free, *([UNDER, *covered] if covered else [])])

    def _fact(self, state: State, number: int) -> str:
        """Where an object is, where it has to be, its name."""
        problem, at, goal = self.problem, state[number], self.problem.goal[number]
        here = state[-1] if problem.world != "blocks" else None
        words = [HERE if place == here else self.names[place] for place in (at, goal)]
        if at == HELD:
            words[0] = CARRIED[problem.world]
        if in_place(problem, state, number):
            words[1] = OK
        return f"{words[0]} {words[1]} {self.names[number]}"


def in_place(problem: Problem, state: State, number: int) -> bool:
    """Whether an object is where it has to be, and in the blocks world all below it, too."""
    at = state[number]
    return at == problem.goal[number] and (
        problem.world != "blocks" or at == problem.objects or in_place(problem, state, at)
    )


def named(world: str, objects: list[str], goal: State) -> Named:
    """A problem with these objects, whose names are sorted."""
    places = [TABLE] if world == "blocks" else PLACES
    return Named(Problem(world, len(objects), len(places), goal), (*objects, *places))


def read(text: str) -> tuple[Named, State]:
    """The problem and the state that a text of `Named.text` tells."""
    head, place, *words = text.split()
    world = next(name for name, word in HEADS.items() if word == head)
    words = [word for word in words if word != UNDER]
    facts = sorted((name, at, goal) for at, goal, name in zip(words[::3], words[1::3], words[2::3], strict=True))
    objects = [name for name, _, _ in facts]
    numbers = {name: i for i, name in enumerate(named(world, objects, ()).names)} | {CARRIED[world]: HELD}
    numbers[HERE] = numbers.get(place, HELD)
    state = tuple(numbers[at] for _, at, _ in facts)
    problem = named(world, objects, tuple(numbers[at if goal == OK else goal] for _, at, goal in facts))
    return problem, state if world == "blocks" else (*state, numbers[place])
