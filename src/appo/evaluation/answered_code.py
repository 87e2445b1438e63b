"""The code of an answer: what a model wrote around it goes, and a body gets its function's beginning.

    code_of("Sure:\\n```python\\ndef f(x):\\n    return x\\n```", "f")     # the block
    programs_of("return x", "def f(x):\\n", "f")                          # ["def f(x):\\n    return x", ..]

Models answer with a block of code, with several (an example of use comes last), with a function in plain text, or with
the body alone, whose first line often lost its indentation. Several readings may be meant; the sandbox takes the first
that compiles, so that no text of a model's is parsed outside of it.

Left out on purpose: mending code. What compiles in no reading is wrong.
"""

import re
import textwrap

from appo.rewards.answers import parse_blocks

_FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_UNCLOSED = re.compile(r"^[ \t]*```[^\n`]*\n(.*)\Z", re.MULTILINE | re.DOTALL)
_BEGINS_CODE = re.compile(r"^(?:def|class|import|from|async def|@)\b|^@", re.MULTILINE)
_INDENT = "    "


def code_of(text: str, entry_point: str) -> str:
    """What an answer says is its code.

    Args:
        text: The completion. Thoughts in `<think>` do not count; of a closed `<answer>` only its content does.
        entry_point: The function's name.

    Returns:
        The last fenced block that defines the function; else the last fenced block, also one that the end of the text
        leaves open; else the whole text, without blank lines around it.
    """
    text = _said(text)
    blocks = _FENCED.findall(text)
    rest = _FENCED.sub("", text)
    if unclosed := _UNCLOSED.search(rest):
        blocks.append(unclosed[1])
    defining = [block for block in blocks if _defines(block, entry_point)]
    return (defining or blocks or [text])[-1].strip("\n").rstrip()


def programs_of(code: str, prompt: str, entry_point: str) -> list[str]:
    """The programs that a code may mean, the likeliest first.

    Args:
        code: As `code_of` gives it.
        prompt: The function's beginning, with what it needs before it: imports, other functions.
        entry_point: The function's name.
    """
    if _defines(code, entry_point):
        before = prompt[: _definition(entry_point).search(prompt).start()]  # type: ignore[union-attr]
        readings = [code, _function_in(code, entry_point)]
        return list(dict.fromkeys(before + reading for reading in readings))
    bodies = [_first_body(code)]
    if code[:1].strip():  # its first line begins at the left
        bodies = [textwrap.indent(code, _INDENT), _first_body(_INDENT + code)]
    return list(dict.fromkeys(f"{prompt.rstrip()}\n{body}" for body in bodies))


def _said(text: str) -> str:
    blocks = parse_blocks(text)
    answers = [block.text for block in blocks if block.name == "answer" and block.closed]
    return answers[-1] if answers else text.rpartition("</think>")[2] if "</think>" in text else text


def _definition(name: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:async )?def {re.escape(name)}\s*\(", re.MULTILINE)


def _defines(code: str, name: str) -> bool:
    return _definition(name).search(code) is not None


def _function_in(text: str, name: str) -> str:
    """From the first line that begins code to the end of the function's body: words before and after it go."""
    begin = _BEGINS_CODE.search(text)
    found = _definition(name).search(text)
    assert begin and found
    head, line, rest = text[begin.start() : found.start()], *text[found.start() :].partition("\n")[::2]
    return f"{head}{line}\n{_first_body(rest)}"


def _first_body(text: str) -> str:
    """The lines up to the first one after the beginning that is not indented."""
    lines = text.split("\n")
    end = next((number for number, line in enumerate(lines) if line[:1].strip()), len(lines))
    return "\n".join(lines[:end]).rstrip()
