"""A recorded rollout as text for a terminal: what was asked, thought, called, returned, answered, and what it earned.

Left out on purpose: what each token earned (`token_table.py`).
"""

import math
from collections.abc import Mapping
from itertools import groupby

from rich.console import Console
from rich.text import Text

from appo.report.text.plain_text import as_text, counted, hanging, number, one_line, printable, quoted
from appo.report.text.recorded_tasks import Record, RecordedTask, message_text
from appo.report.text.segments import Segment, segments

STYLES = {"thought": "dim", "call": "cyan", "result": "blue", "answer": "bold", "error": "bold red"}
ANSWER = 40  # characters of a branch's answer
NOT_KNOWN = "<{}>"  # a token whose text is not known, by its id


class Transcript:
    """Prints tasks and rollouts.

    Args:
        console: Where to.
        words: The text of each token id, as `read_vocabulary` gives it.
        tags: As for `segments`.
    """

    def __init__(self, console: Console, words: Mapping[int, str], tags: bool) -> None:
        self.console, self.tags = console, tags
        self._words = words

    def texts(self, record: Record) -> list[str]:
        """The text of each token of the completion."""
        return [self._words.get(token, NOT_KNOWN.format(token)) for token in record["completion_ids"]]

    def task(self, task: RecordedTask) -> None:
        """The task: its prompt, its reference answer, and what its groups of rollouts earned."""
        self.console.print(Text(f"{task.source}, task {printable(task.id)}", style="bold underline"))
        messages = task.prompt if isinstance(task.prompt, list) else [{"role": "prompt", "content": task.prompt}]
        for message in messages:
            self._say(printable(str(message.get("role", "message")))[:10], message_text(message.get("content")))
        if task.reference is not None:
            self._say("reference", as_text(task.reference))
        first = task.records[0]
        if len(task.records) == 1:
            self.console.print()
            return
        groups = [_group(f"{len(task.initial)} initial", first, "initial")]
        if task.branches:
            groups.append(_group(counted(len(task.branches), "branch", "branches"), first, "branch"))
        self._say("rewards", "; ".join(groups))
        self.console.print()

    def rollout(self, task: RecordedTask, record: Record) -> None:
        """One rollout. Of a branch, what it shares with its parent is told in short."""
        start = record.get("branch_position") or 0
        self.console.print(Text(_facts(record), style="bold"))
        if parts := record.get("rewards"):
            self._say("parts", ", ".join(f"{printable(name)} {_part(value)}" for name, value in parts.items()))
        if parent := task.rollout(record["parent"]) if record.get("parent") is not None else None:
            self._say("branch", self._origin(parent, record))
        if span := advantage_span(record):
            self._say("advantage", span)
        texts = self.texts(record)
        redrawn = {branch["branch_position"] for branch in task.branches_of(record.get("rollout", 0))}
        for segment in segments(record, texts, tags=self.tags):
            if segment.end > start:
                self._segment(segment, texts, max(segment.start, start), redrawn)
        for branch in task.branches_of(record.get("rollout", 0)):
            self._say("branch", self._outcome(record, branch))
        self.console.print()

    def _segment(self, segment: Segment, texts: list[str], start: int, redrawn: set[int]) -> None:
        style = STYLES[segment.part]
        body = Text()
        for marked, positions in groupby(range(start, segment.end), redrawn.__contains__):
            text = "".join(texts[position] for position in positions)
            body.append(printable(text), f"{style} underline" if marked else style)
        self._print(segment.part, _stripped(body), style)
        for call in segment.calls:
            stands = call.get("result_start", -1) >= 0
            if call.get("error") and (segment.part == "result") == stands:
                self._say("error", f"{call['name']}: {call['error']}", STYLES["error"])
            if not stands:
                self._say("", "(its result does not stand in the rollout)", "dim")

    def _origin(self, parent: Record, branch: Record) -> str:
        """Where a branch left its parent."""
        return f"left rollout {branch['parent']} {self._change(parent, branch)}; what stands before is its parent's"

    def _outcome(self, parent: Record, branch: Record) -> str:
        """What became of a branch."""
        reward, before = branch.get("reward"), parent.get("reward")
        change = "" if reward is None or before is None else f" ({reward - before:+.4g})"
        texts = self.texts(branch)
        answers = [segment for segment in segments(branch, texts, tags=self.tags) if segment.part == "answer"]
        answer = "".join("".join(texts[segment.start : segment.end]) for segment in answers)
        return f"rollout {branch['rollout']} {self._change(parent, branch)}: reward {number(reward)}{change}" + (
            f", {one_line(answer, ANSWER)}" if answer.strip() else ", no answer"
        )

    def _change(self, parent: Record, branch: Record) -> str:
        place = branch["branch_position"]
        old, new = (texts[place] if place < len(texts) else "" for texts in map(self.texts, (parent, branch)))
        redrawn = f"{quoted(old)} drawn again" if old == new else f"{quoted(old)} -> {quoted(new)}"
        facts = [f"{name} {number(branch.get(key))}" for name, key in _CHOSEN.items() if branch.get(key) is not None]
        return f"at token {place}, {redrawn}" + (f" ({', '.join(facts)})" if facts else "")

    def _say(self, label: str, text: str, style: str = "") -> None:
        self._print(label, Text(printable(text), style), style)

    def _print(self, label: str, body: Text, style: str = "") -> None:
        self.console.print(hanging(label, body, self.console, style))


_CHOSEN = {"score": "branch_score", "rank": "branch_rank"}


def _group(name: str, record: Record, key: str) -> str:
    mean, std = record.get(f"{key}_mean"), record.get(f"{key}_std")
    return f"{name}, mean {number(mean)}, standard deviation {number(std)}"


def _facts(record: Record) -> str:
    calls = record.get("tool_calls") or []
    failed = sum(call.get("error") is not None for call in calls)
    written = sum(record["policy_mask"])
    facts = [
        f"rollout {record.get('rollout', 0)}: reward {number(record.get('reward'))}",
        f"ended by {record.get('finish_reason') or 'nothing that is known'}",
        f"{counted(written, 'token')} written"
        + (f", {len(record['policy_mask']) - written} of results" if calls else ""),
        counted(len(calls), "call") + (f", {failed} failed" if failed else ""),
    ]
    return "; ".join(facts)


def _part(value: float | None) -> str:
    return "does not apply" if value is None or math.isnan(value) else number(value)


def advantage_span(record: Record) -> str | None:
    """The advantages of a rollout's tokens in short; None where they were not measured."""
    values = [value for value in record.get("advantages") or [] if value is not None]
    if not values:
        return None
    mean, low, high = (number(value) for value in (sum(values) / len(values), min(values), max(values)))
    return mean if low == high else f"{mean} on average, {low} to {high}"


def _stripped(text: Text) -> Text:
    """Without white space around it."""
    plain = text.plain
    text = text[len(plain) - len(plain.lstrip()) :] if plain.strip() else Text("(nothing)", "dim")
    text.rstrip()
    return text
