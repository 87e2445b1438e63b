"""`Chat`: from a request's messages to the tokens of its prompt, with what was sampled kept as it was sampled.

A conversation is compared with the book of its key: the latest message of the assistant that is what a turn's client
was told, after the same messages and with the same tools, stands for that turn. The prompt is then the turn's own
tokens, its prompt's and those that were sampled, and what follows them. Where the agent has changed what stands before
such a message, the message still gets the tokens that were sampled for it, in a prompt that is written anew. An agent
may leave thoughts out and write arguments with other spaces; an answer that nobody sampled is encoded as text.

Left out on purpose: the ways of writing (`dialect.py`), and counting (`book.py`).
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from appo.serve.book import Book, WrittenTurn
from appo.serve.dialect import Dialect, Message
from appo.tools.schema_tool import SchemaTool

DIALECTS = 64  # sets of tools that are kept ready


@dataclass
class Prompt:
    """What a request asks to be continued.

    Args:
        ids: Its tokens.
        dialect: Reads what is written.
        said: Names the conversation.
        unknown_answer: Whether its last message of the assistant is none that was written for this key.
        retold: Whether the template writes otherwise what was sampled, though the agent sends it back as it was.
    """

    ids: list[int]
    dialect: Dialect
    said: str
    unknown_answer: bool = False
    retold: bool = False

    def names_of(self, message: Message) -> tuple[str, str]:
        """The names of the conversation with one more message, and of that message alone."""
        return _name_after(self.said, message), _name_after("", message)


class Chat:
    """
    Args:
        make: A dialect for these tools, whose calls are read or not.
        system_prompt: The system message of a conversation that begins without one, for its tools; "" for none.
    """

    def __init__(
        self,
        make: Callable[[Sequence[SchemaTool], bool], Dialect],
        system_prompt: Callable[[Sequence[SchemaTool]], str] = lambda tools: "",
    ) -> None:
        self._make, self._system_prompt = make, system_prompt
        self._dialects: OrderedDict[str, Dialect] = OrderedDict()
        self._lock = threading.Lock()  # a dialect may set up its tokenizer

    def is_ready(self, tools: Sequence[dict[str, Any]], reads_calls: bool) -> bool:
        """Whether there is a dialect for these tools, so that a prompt is made at once."""
        return _key(tools, reads_calls) in self._dialects

    def dialect(self, tools: Sequence[dict[str, Any]], reads_calls: bool) -> Dialect:
        """The dialect for tools as the API has them: `{"name", "description", "parameters", ..}`.

        Raises:
            UserError: for tools that the policy's way of writing cannot take.
        """
        key = _key(tools, reads_calls)
        with self._lock:
            if key not in self._dialects:
                self._dialects[key] = self._make([_tool(one) for one in tools], reads_calls)
                if len(self._dialects) > DIALECTS:
                    self._dialects.popitem(last=False)
            self._dialects.move_to_end(key)
            return self._dialects[key]

    def prompt(
        self, book: Book, messages: list[Message], tools: Sequence[dict[str, Any]] = (), reads_calls: bool = True
    ) -> Prompt:
        """
        Args:
            book: Of the key.
            messages: As a chat template takes them, of role system, user, assistant and tool.

        Raises:
            UserError: for a conversation that the policy cannot be told.
        """
        dialect = self.dialect(tools, reads_calls)
        system = "" if messages[0]["role"] == "system" else self._system_prompt(dialect.tools)
        if system:
            messages = [{"role": "system", "content": system}, *messages]
        names = [_named([tools])]
        for message in messages:
            names.append(_name_after(names[-1], message))
        turns = {
            place: turn
            for place, message in enumerate(messages)
            if message["role"] == "assistant" and (turn := _same_thoughts(book.find(names[place + 1]), message))
        }
        told = [
            turns[place].message or message if place in turns else message for place, message in enumerate(messages)
        ]
        answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        unknown = bool(answers) and answers[-1] not in turns
        if retold := bool(turns):
            latest = max(turns)
            after = dialect.continuation(told, latest, turns[latest])
            if after is not None:
                return Prompt(turns[latest].ids + after, dialect, names[-1], unknown)
        for place in answers:
            if place not in turns and (turn := _same_thoughts(book.find(_name_after("", told[place])), told[place])):
                turns[place] = turn
        return Prompt(dialect.prompt(told, turns), dialect, names[-1], unknown, retold=retold)


def _key(tools: Sequence[dict[str, Any]], reads_calls: bool) -> str:
    return json.dumps([tools, reads_calls])


def _tool(described: dict[str, Any]) -> SchemaTool:
    def call(arguments: dict[str, Any]) -> Any:
        raise NotImplementedError("tools run where the agent runs.")

    tool = SchemaTool(described["name"], described["description"], described["parameters"], call)
    tool["function"] = described  # with whatever else it says
    return tool


def _same_thoughts(turn: WrittenTurn | None, message: Message) -> WrittenTurn | None:
    """The turn, where the agent left its thoughts out or sends them back as they were."""
    if turn is None or turn.message is None:
        return None
    given = (message.get("reasoning_content") or "").strip()
    return turn if given in ("", turn.message.get("reasoning_content", "")) else None


def _name_after(name: str, message: Message) -> str:
    content = message["content"]
    said: list[Any] = [message["role"], content.strip() if message["role"] == "assistant" else content]
    if message["role"] == "assistant":
        said += [[call["function"]["name"], call["function"]["arguments"]] for call in message.get("tool_calls") or ()]
    else:
        said.append(message.get("name"))
    return _named([name, said])


def _named(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
