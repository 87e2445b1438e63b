"""Traces as demonstrations of the cold start: whether they fit the recipe, and what of them carries loss.

    mistakes = check_traces(traces, "tags", ["python", "search"])
    demonstrations = tag_demonstrations(traces, TagProtocol(tokenizer, ["python", "search"]), ["python", "search"])

In the tag protocol a `<result>` is the tool's where it directly follows a closed call; it ends with the next
`</result>`. It carries no loss, and the white space around it gives way to the protocol's own frame
(`result_format`), because that is what rollouts see. Any other `<result>` is the policy's own text. In the
chat-template protocol the turns of the assistant carry loss, up to and with their end token. In both, a trace with a
call that no result follows is left out, and logged: a rollout would have run that call.

Left out on purpose: turning calls in messages into calls in tags or the other way round, and traces with several
questions.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from appo.config import APPOConfig
from appo.data.rows import BadRows
from appo.environments.base import Demonstration, Segment
from appo.protocols.base import ToolProtocol
from appo.protocols.chat_template import chat_protocol_for, set_up_tools
from appo.protocols.tags import TagProtocol
from appo.sft.traces import FRAMED, Message, Trace

logger = logging.getLogger(__name__)

NO_CALLS = ("think", "answer", "result")  # tags of the format
_CALL_AND_RESULT = re.compile(r"</([A-Za-z_]\w*)>\s*<result>(.*?)</result>\s*", re.DOTALL)
_OPEN_RESULT = re.compile(r"</([A-Za-z_]\w*)>\s*<result>")
_CALL_AT_END = re.compile(r"</([A-Za-z_]\w*)>\s*\Z")


def check_traces(
    traces: Sequence[Trace],
    tool_protocol: str,
    tool_names: Collection[str],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[str]:
    """What in the traces contradicts the recipe: sentences, none where all is well.

    Args:
        traces: Of any layout; the tokens of rollouts are not looked into.
        tool_protocol: `tags` or `chat_template`.
        tool_names: The tools of the task.
        tokenizer: If given, whether it can render messages is checked too.
    """
    told = [trace for trace in traces if trace.token_ids is None]
    in_tags, in_messages = Counter[str](), Counter[str]()
    for trace in told:
        in_tags.update(_tag_calls(trace))
        in_messages.update(call["function"]["name"] for turn in trace.turns for call in turn.get("tool_calls", ()))
    mistakes = []
    wrong, form, other = (
        (in_messages, "messages", "chat_template") if tool_protocol == "tags" else (in_tags, "tags", "tags")
    )
    if wrong:
        mistakes.append(
            f"traces write {wrong.total()} calls as {form}, but tool_protocol = {tool_protocol!r}; set it to "
            f"{other!r} or give other traces."
        )
    calls = in_tags if tool_protocol == "tags" else in_messages
    if unknown := {name: count for name, count in calls.items() if name not in tool_names}:
        counts = ", ".join(f"{name} ({count} calls)" for name, count in unknown.items())
        mistakes.append(f"traces call {counts}, but the tools of the task are {', '.join(tool_names) or 'none'}.")
    if told and tool_protocol == "tags" and not any("</answer>" in turn["content"] for t in told for turn in t.turns):
        mistakes.append(
            "traces hold no <answer>..</answer> at all, which ends a rollout where tool_protocol = 'tags'."
        )
    if (
        tokenizer is not None
        and tokenizer.chat_template is None
        and any(not isinstance(t.prompt, str) for t in traces)
    ):
        mistakes.append("traces are messages, but the model's tokenizer has no chat template to write them with.")
    largest = max((max(trace.token_ids, default=0) for trace in traces if trace.token_ids is not None), default=0)
    if tokenizer is not None and largest >= len(tokenizer):
        mistakes.append(
            f"traces hold the token {largest}, but the model's tokenizer has only {len(tokenizer)}; give "
            "the records of a run of the same model."
        )
    return mistakes


def _tag_calls(trace: Trace) -> Iterator[str]:
    """Names of the calls in tags that a result follows, in the same text or as the next message."""
    for turn, following in zip(trace.turns, [*trace.turns[1:], None], strict=True):
        if turn["role"] == "assistant":
            names = [match[1] for match in _CALL_AND_RESULT.finditer(turn["content"])]
            if following is not None and following["role"] == "tool" and (end := _CALL_AT_END.search(turn["content"])):
                names.append(end[1])
            yield from (name for name in names if name not in NO_CALLS)


def prompt_template(
    tokenizer: PreTrainedTokenizerBase, tools: Sequence[Callable[..., Any]], args: APPOConfig
) -> dict[str, Any]:
    """Arguments of `apply_chat_template` with which the trainer renders prompts of messages."""
    template = dict(args.chat_template_kwargs or {})
    if args.tool_protocol == "chat_template" and tools:
        template.update(tools=list(tools), chat_template=set_up_tools(tokenizer, args.add_tools))
    return template


def trace_demonstrations(
    traces: Iterable[Trace],
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Callable[..., Any]],
    args: APPOConfig,
) -> Iterator[Demonstration]:
    """Demonstrations of traces in the protocol of a configuration; see the two functions below."""
    names = [tool.__name__ for tool in tools]
    if args.tool_protocol == "tags":
        return tag_demonstrations(traces, TagProtocol(tokenizer, names, args.result_format), names)
    protocol = chat_protocol_for(
        tokenizer, tools, chat_template_kwargs=args.chat_template_kwargs, add_tools=args.add_tools
    )
    return chat_demonstrations(traces, protocol, tokenizer, prompt_template(tokenizer, tools, args))


def tag_demonstrations(
    traces: Iterable[Trace], protocol: ToolProtocol, tool_names: Collection[str]
) -> Iterator[Demonstration]:
    """Demonstrations in the tag protocol: what tools wrote is framed and encoded by the protocol, as in rollouts.

    Args:
        traces: Of any layout.
        protocol: How results are framed.
        tool_names: The tags that are calls.

    Raises:
        DataError: for traces that are no single question with turns of text and results, with their rows.
    """
    bad, unanswered = BadRows("traces"), []
    closing = re.compile(rf"</({'|'.join(map(re.escape, tool_names)) or '(?!)'})>")
    for trace in traces:
        if trace.token_ids is not None:
            yield _of_tokens(trace)
            continue
        try:
            pieces = _pieces(trace.turns)
            _check_pieces(pieces)
        except ValueError as error:
            bad.add(trace.place, str(error))
            continue
        if any(len(closing.findall(text)) != (name is not None) for text, name, _ in pieces):
            unanswered.append(trace.place)
            continue
        yield Demonstration(trace.prompt, list(_tag_segments(pieces, protocol)))
    bad.raise_if_any()
    _tell_unanswered(unanswered)


def _tell_unanswered(places: Sequence[str]) -> None:
    if places:
        shown = ", ".join(places[:3]) + (", .." if len(places) > 3 else "")
        logger.warning("left out %d trace(s) with a call that no result follows: %s.", len(places), shown)


def _pieces(turns: Sequence[Message]) -> list[tuple[str, str | None, str]]:
    """Policy's text, the name of the call that it ends with (None for the last piece), and that call's result."""
    pieces: list[tuple[str, str | None, str]] = []
    text = ""
    for turn in turns:
        if "reasoning_content" in turn:
            raise ValueError("its reasoning_content has no place in tags; write it into the content, in <think>")
        if turn["role"] == "assistant":
            text += turn["content"] if text or not pieces else turn["content"].lstrip()
            start = 0
            for match in _CALL_AND_RESULT.finditer(text):
                if match[1] not in NO_CALLS:
                    pieces.append((text[start : match.end(1) + 1], match[1], match[2].strip()))
                    start = match.end()
            text = text[start:]
        elif turn["role"] == "tool":
            call = _CALL_AT_END.search(text)
            if call is None or call[1] in NO_CALLS:
                raise ValueError("a result follows no closed call")
            framed = FRAMED.fullmatch(turn["content"])
            pieces.append((text[: call.end(1) + 1], call[1], (framed[1] if framed else turn["content"]).strip()))
            text = ""
        else:
            raise ValueError("it asks a second question")
    if any(match[1] not in NO_CALLS for match in _OPEN_RESULT.finditer(text)):
        raise ValueError("a result is never closed")
    return [*pieces, (text.rstrip(), None, "")]


def _check_pieces(pieces: Sequence[tuple[str, str | None, str]]) -> None:
    """Raises ValueError where what the policy is taken to have written cannot be that."""
    for text, _, _ in pieces:
        if text.count("</result>") > text.count("<result>"):
            raise ValueError("a </result> closes nothing, so where a result ends is unclear")
    _, answered, behind = "".join(text for text, _, _ in pieces).partition("</answer>")
    if answered and behind:
        raise ValueError("text follows </answer>, where a rollout ends")


def _tag_segments(pieces: Iterable[tuple[str, str | None, str]], protocol: ToolProtocol) -> Iterator[Segment]:
    for text, name, result in pieces:
        if text:
            yield Segment(text)
        if name is not None:
            yield Segment(result, trained=False, token_ids=protocol.encode_results([(name, result)]))


def chat_demonstrations(
    traces: Iterable[Trace], protocol: ToolProtocol, tokenizer: PreTrainedTokenizerBase, template: Mapping[str, Any]
) -> Iterator[Demonstration]:
    """Demonstrations in the chat-template protocol: turns as the template writes them, results as the protocol does.

    Args:
        traces: Of any layout.
        protocol: How results are written.
        tokenizer: Its template is used.
        template: Further arguments of `apply_chat_template`, such as the tools.

    Raises:
        DataError: for traces that the template does not write piece by piece, with their rows.
    """
    bad, unanswered = BadRows("traces"), []
    for trace in traces:
        if trace.token_ids is not None:
            yield _of_tokens(trace)
            continue
        try:
            rounds = _rounds(trace.turns)
            if any(len(results) < len(turn.get("tool_calls", ())) for turn, results in rounds):
                unanswered.append(trace.place)
                continue
            segments = list(_chat_segments([*trace.prompt], rounds, protocol, tokenizer, template))
        except ValueError as error:
            bad.add(trace.place, str(error))
            continue
        except jinja2.TemplateError as error:
            bad.add(trace.place, f"the chat template refuses it ({' '.join(str(error).split())})")
            continue
        yield Demonstration(trace.prompt, segments)
    bad.raise_if_any()
    _tell_unanswered(unanswered)


def _rounds(turns: Sequence[Message]) -> list[tuple[Message, list[Message]]]:
    """Each turn of the assistant with the results of its calls, in their order, every result with its tool's name."""
    rounds: list[tuple[Message, list[Message]]] = []
    for turn in turns:
        if turn["role"] == "assistant":
            if rounds and not rounds[-1][0].get("tool_calls"):
                raise ValueError("a turn of the assistant follows one without a call")
            rounds.append((turn, []))
        elif turn["role"] == "tool":
            rounds[-1][1].append(turn)
        else:
            raise ValueError("it asks a second question")
    return [(turn, _in_order(turn.get("tool_calls", ()), results)) for turn, results in rounds]


def _in_order(calls: Sequence[Message], results: list[Message]) -> list[Message]:
    """The results of a turn in the order of its calls: that of their ids, where both have them."""
    if len(results) > len(calls):
        raise ValueError("a result follows no call")
    ids, answered = [call.get("id") for call in calls], [result.get("tool_call_id") for result in results]
    if None not in ids and None not in answered:
        if Counter(answered) - Counter(ids):
            raise ValueError("a result's tool_call_id is that of no call before it")
        results = sorted(results, key=lambda result: ids.index(result["tool_call_id"]))
    names = [call["function"]["name"] for call in calls]
    return [{"name": name, **result} for name, result in zip(names, results, strict=False)]


def _chat_segments(
    messages: list[Message],
    rounds: Iterable[tuple[Message, list[Message]]],
    protocol: ToolProtocol,
    tokenizer: PreTrainedTokenizerBase,
    template: Mapping[str, Any],
) -> Iterator[Segment]:
    results: list[Message] = []
    for turn, following in rounds:
        if results:
            texts = [(result["name"], result["content"]) for result in results]
            yield Segment("\n".join(text for _, text in texts), False, protocol.encode_results(texts))
        yield Segment(_turn_text(messages, turn, tokenizer, template))
        messages = [*messages, turn, *following]
        results = following
    if results:
        raise ValueError("it ends with a result")


def _turn_text(
    messages: list[Message], turn: Message, tokenizer: PreTrainedTokenizerBase, template: Mapping[str, Any]
) -> str:
    """What the policy would have written for a turn: from behind the generation prompt to the end token."""
    before = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **template)
    whole = tokenizer.apply_chat_template([*messages, turn], tokenize=False, **template)
    if not whole.startswith(before):
        raise ValueError("the chat template does not keep what precedes a turn")
    text, end, _ = whole[len(before) :].rpartition(tokenizer.eos_token)
    if not end:
        raise ValueError("the chat template does not end a turn with the tokenizer's eos_token")
    return text + end


def _of_tokens(trace: Trace) -> Demonstration:
    """The tokens of a rollout, in segments of the policy and of the tools."""
    assert trace.token_ids is not None and trace.policy_mask is not None
    segments: list[Segment] = []
    for token, own in zip(trace.token_ids, trace.policy_mask, strict=True):
        if not segments or segments[-1].trained != bool(own):
            segments.append(Segment("", bool(own), []))
        segments[-1].token_ids.append(token)  # type: ignore[union-attr]
    return Demonstration(trace.prompt, segments)
