"""`Conversation`: several turns with an agent, each read with all that was said before.

Before each turn the whole conversation is rendered by the chat template, which decides what of earlier turns the model
reads again: many leave out old thoughts. The environment stays the same until `reset`.

Left out on purpose: shortening what has grown too long for the model's context; that is told instead.
"""

from typing import TYPE_CHECKING, Any

from appo.agent.answer import AgentAnswer
from appo.agent.live import Listener
from appo.agent.question import Asked, Question, check_seed, encodable
from appo.errors import UserError

if TYPE_CHECKING:
    from appo.agent.agent import Agent


class Conversation:
    """
    Args:
        agent: Answers.

    Attributes:
        messages: What was said so far, the system message included.
    """

    def __init__(self, agent: "Agent") -> None:
        self.agent = agent
        self.messages: list[dict[str, Any]] = []
        self._opened: Asked | None = None

    def __call__(
        self,
        question: Question,
        *,
        seed: int | None = None,
        listener: Listener | None = None,
    ) -> AgentAnswer:
        """Says the next thing and returns the answer; where that fails, nothing was said.

        Args:
            question: A text. The first one of a conversation may be a row, which an environment is reset with.
        """
        check_seed(seed)
        if self._opened is None:
            asked = self.agent.open(question)
        elif isinstance(question, str):
            said = [*self.messages, {"role": "user", "content": encodable(question)}]
            asked = Asked(said, self._opened.environment)
        else:
            raise UserError("only the first question of a conversation may be messages or a row; call reset() first.")
        try:
            answer = self.agent.write([asked], [seed], listener)[0]
        except BaseException:
            if self._opened is None:
                self.agent.close([asked])
            raise
        self._opened, self.messages = asked, answer.messages
        return answer

    def reset(self) -> None:
        """Forgets all that was said."""
        if self._opened is not None:
            self.agent.close([self._opened])
        self.messages, self._opened = [], None
