"""Why nothing was right, as far as it shows in how samples ended: a mean of 0 says nothing by itself.

    likely_reason([Ending("length", tokens=64, errors=())])     # "all 1 samples reached the token limit"

Left out on purpose: what a wrong answer looked like (`appo show`, `samples.jsonl`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from appo.rollout.types import Rollout

LEAST = 0.5  # share of the samples that a reason has to explain
AFTER = 32  # rollouts that are looked at before all of their rewards count as equal
SHOWN_CHARS = 80


@dataclass(frozen=True)
class Ending:
    """How a sample ended.

    Args:
        finish_reason: As a rollout's.
        tokens: That the policy wrote.
        errors: A tool call's each; None for one that succeeded.
        answered: Whether an answer could be read; None where that is unknown.
    """

    finish_reason: str | None
    tokens: int
    errors: Sequence[str | None]
    answered: bool | None = None

    @classmethod
    def of(cls, rollout: Rollout) -> "Ending":
        errors = tuple(call.error for call in rollout.tool_calls)
        return cls(rollout.finish_reason, sum(rollout.policy_mask), errors)


def likely_reason(endings: Iterable[Ending], with_tools: bool = False) -> str | None:
    """The likeliest reason for a success of 0, in words; None where nothing stands out.

    Args:
        endings: Of all samples.
        with_tools: Whether there were tools to call.
    """
    endings = list(endings)
    count = len(endings)
    errors = [error for ending in endings for error in ending.errors]

    def of(found: int) -> str:
        return f"all {count} samples" if found == count else f"{found} of {count} samples"

    def many(found: int) -> bool:
        return found > 0 and found >= LEAST * count

    if many(empty := sum(ending.tokens == 0 for ending in endings)):
        return f"{of(empty)} are empty: the prompts leave no room in the model's context"
    if errors and all(error is not None for error in errors):
        first, often = Counter(errors).most_common(1)[0]
        return f"every tool call failed ({len(errors)} calls; {often} with {str(first)[:SHOWN_CHARS]!r})"
    if many(failed := sum(ending.finish_reason == "failed" for ending in endings)):
        return f"{of(failed)} ended as the agent failed"
    if many(cut := sum(ending.finish_reason == "length" for ending in endings)):
        return f"{of(cut)} reached the token limit"
    if many(limited := sum(ending.finish_reason == "tool_limit" for ending in endings)):
        return f"{of(limited)} reached the limit of tool calls"
    if all(ending.answered is False for ending in endings):
        return "no sample followed the format: none holds <answer>..</answer> or \\boxed{..}"
    if with_tools and not errors:
        return "no sample called a tool"
    if many(silent := sum(ending.answered is False for ending in endings)):
        return f"{of(silent)} hold no <answer>..</answer> or \\boxed{{..}}"
    return None


class EqualRewards:
    """Watches a run's first rollouts, to say once where all of their rewards are the same.

    Args:
        with_tools: Whether there are tools to call.
    """

    def __init__(self, with_tools: bool) -> None:
        self._with_tools = with_tools
        self._endings: list[Ending] | None = []
        self._rewards: set[float | None] = set()

    def look(self, rollouts: Iterable[Rollout]) -> str | None:
        """A sentence, once, when enough rollouts were seen and all have one reward."""
        if self._endings is None:
            return None
        for rollout in rollouts:
            self._endings.append(Ending.of(rollout))
            self._rewards.add(rollout.reward)
        if len(self._rewards) > 1:
            self._endings = None
            return None
        if len(self._endings) < AFTER:
            return None
        endings, self._endings = self._endings, None
        (reward,) = self._rewards
        if reward is None:
            return f"no reward function scored any of the first {len(endings)} rollouts, so nothing is learnt."
        why = likely_reason(endings, self._with_tools) if reward <= 0 else None
        return (
            f"all of the first {len(endings)} rollouts have the reward {reward:g}, and equal rewards teach nothing"
            f"{f'; {why}' if why else ''}: look at what was written (`appo show RUN --worst 3`) and at the reward "
            "function."
        )
