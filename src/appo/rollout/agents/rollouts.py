"""What an agent wrote as a rollout: a segment of its book, in the tokens that were sampled.

A segment is a conversation that only ever went on: each turn's prompt begins with all tokens before it. Its first
prompt is the rollout's prompt; what stands between two turns (results, questions) is not the policy's. Of a book with
several segments, as of an agent that shortens its history or asks another one, the one with the most sampled tokens is
the rollout: its main segment, which methods see. The others are trained beside it (`rollout/further.py`).

A turn is in one segment alone. Where another one goes on from it, or quotes it, it stands in that one's prompt or
between its turns, and so no token is trained twice.

Left out on purpose: messages and calls of further segments.
"""

from collections.abc import Iterable
from typing import Any

from appo.rollout.agents.run import AgentRun
from appo.rollout.types import FinishReason, Rollout, ToolCall
from appo.serve.book import Book, WrittenTurn


def sampled(book: Book, chain: list[int]) -> int:
    """Tokens that the policy wrote in a segment."""
    return sum(len(book.turns[number].token_ids) for number in chain)


def sampled_here(book: Book, chain: Iterable[int]) -> int:
    """.. without those that a branch took over."""
    return sum(len(book.turns[number].token_ids) - book.turns[number].forced for number in chain)


def main_segment(book: Book) -> list[int]:
    """The segment with the most tokens of the policy, the last of equal ones; [] where nothing was written."""
    chains = book.segments()
    return max(reversed(chains), key=lambda chain: sampled(book, chain)) if chains else []


def branched_segment(run: AgentRun) -> list[int]:
    """The segment of a branch that holds the turn which was written on; [] where there is none."""
    assert run.branch is not None
    return next((chain for chain in run.book.segments() if run.branch.written in chain), [])


def as_rollout(run: AgentRun, empty: list[int]) -> Rollout:
    """The rollout of a run's `chain`.

    Args:
        empty: The prompt of a run in which nothing was written, at least one token.
    """
    turns = [run.book.turns[number] for number in run.chain]
    if not turns:
        return Rollout(list(empty), run.row.get("prompt", ""), finish_reason=_reason(run), environment=run)
    rollout = Rollout(list(turns[0].prompt_ids), turns[0].messages or run.row.get("prompt", ""), environment=run)
    for place, turn in enumerate(turns):
        start = len(rollout.completion_ids)
        rollout.append(list(turn.token_ids), list(turn.logprobs))
        after = turns[place + 1] if place + 1 < len(turns) else None
        end = len(rollout.completion_ids)
        if after is not None:
            rollout.append(after.prompt_ids[len(turn.ids) :], None)
        rollout.tool_calls += _calls(turn, after, start, end, len(rollout.completion_ids))
    if run.branch is not None and run.branch.alternatives is not None:
        rollout.alternatives = [[token, logp] for token, logp in run.branch.alternatives]
    rollout.finish_reason = _reason(run)
    return rollout


def _reason(run: AgentRun) -> FinishReason:
    last = run.book.turns[run.chain[-1]] if run.chain else None
    if last is not None and last.reason == "length":
        return "length"
    return "stop" if run.error is None else "failed"


def _calls(turn: WrittenTurn, after: WrittenTurn | None, start: int, end: int, result_end: int) -> list[ToolCall]:
    """The calls of a turn, as the client was told of them; a result is what the next request has under a call's id."""
    results = {m.get("tool_call_id"): m.get("content") for m in (after and after.messages) or ()}
    calls = []
    for one in (turn.message or {}).get("tool_calls") or ():
        call = ToolCall(one["function"]["name"], one["function"]["arguments"], start, end)
        if one.get("id") in results:
            call.result, call.result_start, call.result_end = results[one["id"]] or "", end, result_end
        calls.append(call)
    return calls


def further_segments(run: AgentRun) -> list[Rollout]:
    """What a run sampled outside of its `chain`, a rollout of tokens alone for each segment, in the book's order.

    `policy_mask` is 1 at tokens that the run sampled itself: a branch repeats what its parent wrote, which is trained
    there. A segment without such tokens is none; and a run without a chain has none, as it has no rollout.
    """
    others = [chain for chain in run.book.segments() if chain != run.chain] if run.chain else []
    segments = [_tokens_of([run.book.turns[number] for number in chain]) for chain in others]
    return [segment for segment in segments if any(segment.policy_mask)]


def _tokens_of(turns: list[WrittenTurn]) -> Rollout:
    rollout = Rollout(list(turns[0].prompt_ids))
    for turn in turns:
        between = turn.prompt_ids[len(rollout.prompt_ids) + len(rollout.completion_ids) :]
        rollout.append(between + turn.token_ids[: turn.forced], None)
        rollout.append(turn.token_ids[turn.forced :], turn.logprobs[turn.forced :])
    rollout.finish_reason = "length" if turns[-1].reason == "length" else "stop"
    return rollout


def place_of(run: AgentRun, position: int) -> tuple[int, int]:
    """The turn's number and the token within it at a position of the run's rollout.

    Raises:
        ValueError: for a position that is no token of the policy.
    """
    start = 0
    opening = len(run.book.turns[run.chain[0]].prompt_ids) if run.chain else 0
    for number in run.chain:
        turn = run.book.turns[number]
        start = len(turn.prompt_ids) - opening
        if start <= position < start + len(turn.token_ids):
            return number, position - start
    raise ValueError(f"position {position} is no token of the policy; branch at one.")


def completion_of(run: AgentRun) -> list[dict[str, Any]] | None:
    """What followed the messages of the first prompt; None where an agent asked with token ids."""
    turns = [run.book.turns[number] for number in run.chain]
    if not turns or any(turn.messages is None or turn.message is None for turn in turns):
        return None
    opened, last = turns[0].messages, turns[-1]
    assert opened is not None and last.messages is not None and last.message is not None
    return [*last.messages[len(opened) :], last.message]
