"""`AgentRun`: one run of an agent, and what it wrote. It stands where a rollout of ours has its environment.

Left out on purpose: how it is run (`runner.py`), and tokens (`rollouts.py`).
"""

from dataclasses import dataclass, field
from typing import Any

from appo.serve.book import Book, WrittenTurn
from appo.serve.replay import CAUSES, Branch

# What takes time: the agents' own work, and what requests take beside the engine; both add up runs at once.
PHASES = ("agent", "endpoint")
# What `RunCounters` counts besides. Rows: further segments that entered a loss. Tokens left out: those of neither a
# rollout nor such a row, as where a branch is left out. A branch whose place is in no conversation that is trained on:
# "segment".
COUNTED = (
    "agent/requests", "agent/failures", "agent/timeouts", "agent/segments", "agent/rows",
    "agent/tokens_left_out",
    *(f"agent/diverged/{cause}" for cause in (*CAUSES, "segment")),
)  # fmt: skip


@dataclass(eq=False)
class AgentRun:
    """
    Args:
        row: Of the data set.
        seed: Of its random numbers, below 2**63.
        branch: What it branches; None for a rollout from the start.

    Attributes:
        reward: What the agent gave itself; None where it gives none, 0 where it failed.
        error: Why it failed: "timeout", or an exception's name.
        refused: Requests that left no room for an answer.
        book: All that it wrote.
        chain: Numbers of the turns that are its rollout, one segment of the book; the others are trained beside it.
        seconds: From its start to its end.
        asked_seconds, engine_seconds: Of these, in its requests, and of those in the engine.
    """

    row: dict[str, Any]
    seed: int
    branch: Branch | None = None
    reward: float | None = None
    error: str | None = None
    refused: int = 0
    book: Book = field(default_factory=Book)
    chain: list[int] = field(default_factory=list)
    seconds: float = 0.0
    asked_seconds: float = 0.0
    engine_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that the run can still be branched; what it branched itself is over."""
        own = {name: value for name, value in vars(self).items() if name not in ("book", "branch")}
        return {**own, "turns": [[number, _turn_as_dict(turn)] for number, turn in self.book.turns.items()]}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "AgentRun":
        """What `as_dict` gave."""
        own = {name: value for name, value in stored.items() if name != "turns"}
        book = Book()
        book.turns = {number: _turn_from_dict(turn) for number, turn in stored["turns"]}
        return cls(**own, book=book)


def _turn_as_dict(turn: WrittenTurn) -> dict[str, Any]:
    likeliest: Any = turn.likeliest and [[[token, logp] for token, logp in one] for one in turn.likeliest]
    return {**vars(turn), "also": list(turn.also), "likeliest": likeliest}


def _turn_from_dict(stored: dict[str, Any]) -> WrittenTurn:
    likeliest: Any = stored["likeliest"] and [[(token, logp) for token, logp in one] for one in stored["likeliest"]]
    return WrittenTurn(**{**stored, "also": tuple(stored["also"]), "likeliest": likeliest})


def agent_reward(environments: list[AgentRun], **_: Any) -> list[float | None]:
    """What agents gave themselves, as a reward function of TRL's; None where they gave nothing."""
    return [run.reward for run in environments]


agent_reward.__name__ = "agent"
