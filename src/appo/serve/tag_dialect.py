"""Conversations of a policy that writes calls as tags (`appo.protocols.TagProtocol`).

To such a policy a question, its calls, their results and the answer are one turn of the assistant: messages of the
assistant and of tools that follow each other become one text, which goes on where a result ends it. Results are
written as in training. A call's text is the tool's only argument, or a JSON object where a tool takes several; the API
knows objects alone.

A model whose tokenizer has no chat template reads one question, behind the system message where there is one. Left
out on purpose: telling of tools, which the system message does.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from appo.errors import UserError
from appo.protocols.tags import TagProtocol
from appo.serve.book import WrittenTurn
from appo.serve.dialect import PLACEHOLDER, THINK, THOUGHT, Dialect, Message, message_of, split_thoughts
from appo.serve.template_dialect import results_of
from appo.tools.schema_tool import SchemaTool

RUN = ("assistant", "tool")
Sampled = Mapping[int, WrittenTurn]


class TagDialect(Dialect):
    """
    Args:
        tokenizer: The policy's.
        tools: That the client has.
        reads_calls: Whether calls in turns are read.
        eos_token_ids: Tokens that end a turn.
        names: Tools whose closing tag ends a turn, besides those of the client: those of the training.
        result_format: As in `TagProtocol`; None for its default.
        plain_prompts: Whether prompts were plain texts in training, which a line break does not follow.
        chat_template_kwargs: What the template is given besides.

    Raises:
        UserError: where a tool has the name of a tag that is no call.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: Sequence[SchemaTool],
        reads_calls: bool,
        eos_token_ids: frozenset[int],
        names: Sequence[str] = (),
        result_format: str | None = None,
        plain_prompts: bool = False,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self._arguments = {tool.__name__: argument_of(tool) for tool in tools}
        called = list(self._arguments) if tools else list(names)
        super().__init__(tokenizer, tools, reads_calls, eos_token_ids, [*called, "answer"])
        options = {} if result_format is None else {"result_format": result_format}
        self.protocol = TagProtocol(tokenizer, called, **options)
        self.stop = self.protocol.stop
        self._format = result_format or "\n<result>\n{}\n</result>\n"
        self._called = called
        self._has_messages = tokenizer.chat_template is not None and not plain_prompts
        self._line_end = "" if plain_prompts else "\n"
        self._kwargs = chat_template_kwargs or {}

    # ---- messages to tokens ----

    def prompt(self, messages: list[Message], sampled: Mapping[int, WrittenTurn]) -> list[int]:
        ids, place = self._head(messages)
        if place == len(messages):
            return ids
        follows = self._follow(messages, place, place, None, sampled)
        if follows is not None:
            return ids + follows
        return self.encode(self._render(self._merged(messages), True))  # the template changes what is said

    def continuation(self, messages: list[Message], place: int, turn: WrittenTurn) -> list[int] | None:
        start = place
        while start and messages[start - 1]["role"] in RUN:
            start -= 1
        return self._follow(messages, start, place + 1, turn, {})

    def _head(self, messages: list[Message]) -> tuple[list[int], int]:
        """The tokens up to the first message of the assistant, and its place."""
        place = next((i for i, message in enumerate(messages) if message["role"] in RUN), len(messages))
        if self._has_messages:
            return self.encode(self._render(messages[:place], True)), place
        said = [message["role"] for message in messages if message["role"] not in RUN]
        if said not in (["user"], ["system", "user"]) or said != [message["role"] for message in messages[:place]]:
            raise UserError(
                f"messages: this model knows of no messages and continues one question, got roles {', '.join(said)}; "
                "ask with one message of the user, behind one of the system if need be."
            )
        text = "\n\n".join(message["content"] for message in messages[:place] if message["content"])
        return self.tokenizer(f"{text}{self._line_end}")["input_ids"], place

    def _follow(
        self, messages: list[Message], start: int, place: int, turn: WrittenTurn | None, sampled: Sampled
    ) -> list[int] | None:
        """The tokens from `messages[place]` on, in the run of the assistant's that begins at `start`.

        Args:
            turn: What was written last before `place`; None where that was not sampled.
            sampled: As in `prompt`.
        """
        end = place
        ids: list[int] = []
        while end < len(messages) and messages[end]["role"] in RUN:
            if messages[end]["role"] == "tool":
                results = results_of(messages, end)
                ids += self.protocol.encode_results(results)
                end += len(results)
            else:
                turn = sampled.get(end)
                ids += turn.token_ids if turn else self.encode(self._written(messages[end]))
                end += 1
        if end == len(messages) and messages[-1]["role"] == "tool":
            return ids
        return self._next_turn(messages, start, end, ids, turn, sampled)

    def _next_turn(
        self, messages: list[Message], start: int, end: int, ids: list[int], turn: WrittenTurn | None, sampled: Sampled
    ) -> list[int] | None:
        """The tokens behind a run of the assistant's that ends before `messages[end]`; `ids` are of the run itself."""
        if not self._has_messages:
            raise UserError("messages: this model continues one question, and it is answered; begin anew.")
        place = next((i for i in range(end, len(messages)) if messages[i]["role"] in RUN), len(messages))
        before = self._render(self._merged(messages[:end]), False)
        whole = self._render(self._merged(messages[:place]), True)
        closing = self._closing
        if closing is None or not before.endswith(closing) or not whole.startswith(before):
            return None
        after = whole[len(before) - len(closing) :]
        ids = ids + self.encode(after if turn is None else self.after_end(after, turn))
        if place == len(messages):
            return ids
        follows = self._follow(messages, place, place, None, sampled)
        return None if follows is None else ids + follows

    def _render(self, messages: list[Message], to_be_continued: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=to_be_continued, tokenize=False, **self._kwargs
        )

    @functools.cached_property
    def _closing(self) -> str | None:
        """What the template writes behind an assistant's text; None where it changes the text."""
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PLACEHOLDER}]
        _, found, closing = self._render(messages, False).rpartition(PLACEHOLDER)
        return closing if found else None

    def _merged(self, messages: list[Message]) -> list[Message]:
        """Messages in which each run of the assistant's and of tools is one text of the assistant."""
        merged: list[Message] = []
        for message in messages:
            if message["role"] not in RUN:
                merged.append(message)
                continue
            if not merged or merged[-1]["role"] != "assistant":
                merged.append({"role": "assistant", "content": ""})
            is_result = message["role"] == "tool"
            text = self._format.replace("{}", message["content"], 1) if is_result else self._written(message)
            merged[-1]["content"] += text
        return merged

    def _written(self, message: Message) -> str:
        """An assistant's message as the policy would have written it."""
        thoughts = message.get("reasoning_content")
        text = f"{THINK}{thoughts}{THOUGHT}" if thoughts else ""
        text += message["content"]
        for call in message.get("tool_calls") or ():
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            text += f"<{name}>{body_of(arguments, self._arguments.get(name))}</{name}>"
        return text

    # ---- tokens to messages ----

    def parsed(self, turn_ids: list[int], context_ids: list[int]) -> Message | None:
        calls = [call for call in self.protocol.parse_calls(turn_ids, context_ids) if call.error is None]
        if not calls:
            return None
        thoughts, content, _ = split_thoughts(self._text(turn_ids, context_ids))
        written = [
            {
                "type": "function",
                "function": {"name": c.name, "arguments": arguments_of(c.arguments, self._arguments[c.name])},
            }
            for c in calls
        ]
        return message_of(thoughts.strip(), content.rpartition(f"<{calls[0].name}>")[0], written)

    def mark(self, content: str) -> int | None:
        found = [place for name in self._called if (place := content.find(f"<{name}>")) >= 0]
        return min(found, default=None)


Argument = tuple[str, bool] | None  # a tool's only argument, and whether it is a text; None for several or none


def argument_of(tool: SchemaTool) -> Argument:
    """The argument that a call's text goes to: the only required one, or the first where none is."""
    parameters = tool["function"]["parameters"] or {}
    named = parameters.get("properties") if isinstance(parameters, dict) else None
    needed = parameters.get("required") or list(named or {})[:1]
    if not isinstance(named, dict) or len(needed) != 1 or not isinstance(needed[0], str):
        return None
    schema = named.get(needed[0])
    kind = schema.get("type", "string") if isinstance(schema, dict) else "string"
    return needed[0], kind == "string"


def arguments_of(body: str, argument: Argument) -> dict[str, Any] | str:
    """The arguments of a call's text; the text itself where it is not the object that it should be."""
    if argument is not None and argument[1]:
        return {argument[0]: body}
    try:
        value = json.loads(body or "{}")
    except (ValueError, RecursionError):
        value = body
    if argument is not None and not (isinstance(value, dict) and argument[0] in value):
        return {argument[0]: value}
    return value if isinstance(value, dict) else body


def body_of(arguments: Any, argument: Argument) -> str:
    """A call's text from its arguments; the way back of `arguments_of`."""
    if not isinstance(arguments, dict):
        return str(arguments)
    if argument is not None and list(arguments) == [argument[0]]:
        value = arguments[argument[0]]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(arguments, ensure_ascii=False)
