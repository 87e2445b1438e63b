"""The tasks of an update, a line each.

Lines are printed as the tasks are read, so columns have widths of their own and a long run begins to show at once.
Left out on purpose: rich's tables, which need all rows first.
"""

from rich.console import Console
from rich.text import Text

from appo.report.text.plain_text import as_text, counted, one_line, printable
from appo.report.text.recorded_tasks import Record, RecordedTask, mean_reward, question

COLUMNS = ("kind", "row", "prompt", "reward", "tool_calls", "finish_reason")  # of the records, which it needs
TASK, REFERENCE = 12, 16  # characters
HEAD = (
    f"{'task':{TASK}} {'initial':>12} {'branches':>12} {'calls':>6} {'errors':>6} {'cut':>4}  "
    f"{'reference':{REFERENCE}}  question"
)


class TaskTable:
    """Prints tasks and counts them."""

    def __init__(self, console: Console, success_reward: float) -> None:
        self.console, self.success_reward = console, success_reward
        self.source: str | None = None
        self.tasks = self.rollouts = self.scored = self.successes = 0

    def add(self, task: RecordedTask) -> None:
        """Prints a task; the head of the table first, where another update begins."""
        if task.source != self.source:
            self._begin(task.source)
        rewards = [record["reward"] for record in task.initial if record.get("reward") is not None]
        self.tasks, self.rollouts = self.tasks + 1, self.rollouts + len(task.records)
        self.scored += len(rewards)
        self.successes += sum(reward >= self.success_reward for reward in rewards)
        calls = [call for record in task.records for call in record.get("tool_calls") or []]
        failed = sum(call.get("error") is not None for call in calls)
        cut = sum(record.get("finish_reason") == "length" for record in task.records)
        groups = [_mean(group) for group in (task.initial, task.branches)]
        reference = "-" if task.reference is None else one_line(as_text(task.reference), REFERENCE)
        facts = (
            f"{printable(task.id):{TASK}} {groups[0]:>12} {groups[1]:>12} "
            f"{len(calls) / len(task.records):>6.1f} {failed:>6} {cut:>4}  {reference:{REFERENCE}}  "
        )
        most = max(self.console.width - len(facts), 20)
        line = Text(facts + one_line(question(task.prompt), most))
        self.console.print(line)

    def end(self, note: str = "") -> None:
        """Prints the sums of the update whose tasks came last."""
        if self.source is None:
            return
        self.source = None
        success = f", {self.successes} of {self.scored} initial rollouts succeeded" if self.scored else ""
        self.console.print(
            f"{counted(self.tasks, 'task')}, {counted(self.rollouts, 'rollout')}{note and f' {note}'}{success}"
        )
        self.tasks = self.rollouts = self.scored = self.successes = 0

    def _begin(self, source: str) -> None:
        if self.source is not None:
            self.end()
            self.console.print()
        self.source = source
        self.console.print(Text(f"{source}: mean rewards of each task's rollouts", style="bold"))
        self.console.print(Text(HEAD, style="bold"))


def _mean(group: list[Record]) -> str:
    """The mean reward of a group and its size; a dash for an empty one, or one that was not scored."""
    mean = mean_reward(group)
    return "-" if mean is None else f"{mean:.2f} of {len(group)}"
