"""What an answer says while it is being written: text as it comes, and each call once it has its result.

Left out on purpose: how that is shown (`appo.cli.chat`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from appo.engines.base import Engine
from appo.protocols.calls import ReadableText
from appo.rollout.types import Rollout, ToolCall

UNFINISHED = "\ufffd"  # ends the text of tokens of which the last one ends inside a character


@dataclass
class Listener:
    """Who is told.

    Args:
        on_text: Of each further piece of what the model writes.
        on_call: Of each call that has ended, after all the text before it.
    """

    on_text: Callable[[str], None] = lambda text: None
    on_call: Callable[[ToolCall], None] = lambda call: None


class Live:
    """Tells a listener of one rollout; to be called after each step of the loop.

    Args:
        rollout: The rollout, sequence `id` of the engine.
        engine: Writes it; one that has no tokens before a turn is whole tells of whole turns.
        read: Decodes.
        listener: Is told.
    """

    def __init__(self, rollout: Rollout, engine: Engine, id: int, read: ReadableText, listener: Listener) -> None:
        self.rollout, self.engine, self.id, self.read, self.listener = rollout, engine, id, read, listener
        self._calls = self._turn_start = 0
        self._told = ""  # of the present turn

    def __call__(self) -> None:
        rollout = self.rollout
        if calls := rollout.tool_calls[self._calls :]:
            self._tell(rollout.completion_ids[self._turn_start : calls[0].end], whole=True)
            for call in calls:
                self.listener.on_call(call)
            self._calls += len(calls)
            self._turn_start = max(rollout.answered_turns(), default=0)
            self._told = ""
            if not calls[-1].answered:  # the rollout ends here, as its results have no room
                self._turn_start = len(rollout.completion_ids)
        ended = rollout.finish_reason is not None
        writing = [] if ended else self.engine.so_far(self.id)
        self._tell(rollout.completion_ids[self._turn_start :] + writing, whole=ended)

    def _tell(self, ids: list[int], whole: bool) -> None:
        text = self.read(ids)
        if text.endswith(UNFINISHED) and not whole:
            return
        if len(text) > len(self._told):
            self.listener.on_text(text[len(self._told) :])
            self._told = text
