"""Calls of instruct models that cannot be read: whether a text plainly holds one, and what is wrong with it.

Pure functions of text. Left out on purpose: guessing what a broken call meant.
"""

import json
import re
from collections.abc import Collection

from appo.protocols.calls import MAX_CALL_CHARS

# Where a call begins or ends, in the families whose calls have a mark of their own.
MARK = re.compile(r"</?\|?tool_call|<\|python_tag\|>|\bto=functions\.")
# Llama's have none, others may be forgotten: an object that names a tool, or that begins the turn and has arguments.
BARE_CALL = re.compile(r'\{\s*"(?:name|function|type)"\s*:\s*"?([\w.-]*)')
ARGUMENTS = re.compile(r'"(?:parameters|arguments)"')
NAME = re.compile(r'"name"\s*:\s*"([^"\\]{1,64})"')
BODY = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def find_mark(text: str, tool_names: Collection[str]) -> int | None:
    """Where `text`, a turn without its closed thoughts, begins to look like a call; None if it does not."""
    mark = MARK.search(text) or BARE_CALL.search(text)
    if mark is None:
        return None
    bare = mark.re is BARE_CALL and mark[1] not in tool_names
    whole = not text[: mark.start()].strip()
    return None if bare and not (whole and ARGUMENTS.search(text)) else mark.start()


def called_name(text: str, mark: int) -> str:
    """The name that a broken call seems to have."""
    name = NAME.search(text, mark)
    return name[1] if name else "unknown"


def fault_of(text: str, mark: int) -> str:
    """What is wrong with a call that could not be read.

    Args:
        text: A turn without its closed thoughts and the token that ended it.
        mark: Where it begins to look like a call.
    """
    opened, closed = text.count("<tool_call>"), text.count("</tool_call>")
    if len(text) - mark > MAX_CALL_CHARS:
        return f"it has {len(text) - mark:,} characters; at most {MAX_CALL_CHARS:,} are read"
    if "<think>" in text[:mark]:
        return "it stands inside <think>; write </think> before it"
    if opened > closed:
        return f"{opened - closed} of {opened} <tool_call> was not closed; end each with </tool_call>"
    if opened < closed:
        return "</tool_call> has no <tool_call> before it"
    bodies = BODY.findall(text) or [text[start:] for start in [text.find("{", mark)] if start >= 0]
    return next(filter(None, map(_json_fault, bodies)), "it does not have the right form")


def _json_fault(body: str) -> str | None:
    try:
        json.loads(body)
    except RecursionError:
        return "its JSON is nested too deeply"
    except json.JSONDecodeError as error:
        near = body[max(0, error.pos - 20) : error.pos + 20].strip()
        return f"its JSON is wrong near {near!r} ({error.msg})"
    except ValueError:
        return "a number in it has too many digits"
    return None
