"""The code of an answer: what a model wrote around it goes, and a body gets its function's beginning.

    code_of("Sure:\\n```python\\ndef f(x):\\n    return x\\n```", "f")     # the block
    programs_of("return x", "def f(x):\\n", "f")                          # ["def f(x):\\n    return x", ..]

Models answer with a block of code, with several (an example of use comes last), with a function in plain text, or with
the body alone, whose first line often lost its indentation. Several readings may be meant; the sandbox takes the first
that compiles, so that no text of a model's is parsed outside of it.

Left out on purpose: mending code. What compiles in no reading is wrong, and so is a method of a class, a lambda with
the function's name, a block whose own text holds a fence, and one whose own examples fail or read an input. Of two
versions of the function the last counts, also where it is shown as a bad example.
"""

import re
import textwrap

from appo.rewards.answers import parse_blocks

_FENCED = re.compile(r"^([ \t]*)```[^\n`]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_UNCLOSED = re.compile(r"^([ \t]*)```[^\n`]*\n(.*)\Z", re.MULTILINE | re.DOTALL)
_FUTURE = re.compile(r"^from __future__ import (?:\([^)]*\)|[^\n]*)[^\n]*\n?", re.MULTILINE)
_DEFINED = re.compile(r"^(?:(?:async )?def|class) (\w+)", re.MULTILINE)
_BEGINS_CODE = re.compile(r"^(?:def|class|import|from|async def|@)\b|^@", re.MULTILINE)
_INDENT = "    "


def code_of(text: str, entry_point: str) -> str:
    """What an answer says is its code.

    Args:
        text: The completion. Thoughts in `<think>` do not count; of a closed `<answer>` only its content does.
        entry_point: The function's name.

    Returns:
        The last fenced block that defines the function, behind those other blocks whose functions and classes it names
        and does not define; else the last fenced block, also one that the end of the text leaves open; else the whole
        text, without blank lines around it. A block in an item of a list loses the item's indentation.
    """
    text = _said(text)
    found = _FENCED.findall(text)
    rest = _FENCED.sub("", text)
    if unclosed := _UNCLOSED.search(rest):
        found.append(unclosed.groups())
    blocks = [_dedented(*block).strip("\n").rstrip() for block in found]
    defining = [number for number, block in enumerate(blocks) if _defines(block, entry_point)]
    if defining:
        return _with_helpers(blocks, defining[-1])
    return blocks[-1] if blocks else text.strip("\n").rstrip()


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
        return list(dict.fromkeys(_future_first(before + reading) for reading in readings))
    bodies = [_first_body(code)]
    if code[:1].strip():  # its first line begins at the left
        bodies = [textwrap.indent(code, _INDENT), _first_body(_INDENT + code)]
    return list(dict.fromkeys(f"{prompt.rstrip()}\n{body}" for body in bodies))


def _said(text: str) -> str:
    blocks = parse_blocks(text)
    answers = [block.text for block in blocks if block.name == "answer" and block.closed]
    return answers[-1] if answers else text.rpartition("</think>")[2] if "</think>" in text else text


def _dedented(indent: str, block: str) -> str:
    """A block without the indentation of its fence."""
    return textwrap.dedent(re.sub(rf"^[ \t]{{1,{len(indent)}}}", "", block, flags=re.MULTILINE)) if indent else block


def _with_helpers(blocks: list[str], chosen: int) -> str:
    """A block behind those that define, at the left, what it or one of them names and none of them defines."""
    taken = {chosen}
    while True:
        code = "\n\n\n".join(blocks[number] for number in [*sorted(taken - {chosen}), chosen])
        missing = set(re.findall(r"\w+", code)) - set(_DEFINED.findall(code))
        # Of two versions of a helper the last counts.
        helpers = [n for n, block in enumerate(blocks) if n not in taken and missing & set(_DEFINED.findall(block))]
        if not helpers:
            return code
        taken.add(helpers[-1])


def _future_first(program: str) -> str:
    """A program whose imports from `__future__` stand before everything else, as Python wants it."""
    imports = [line.rstrip("\n") + "\n" for line in _FUTURE.findall(program)]
    return "".join(imports) + _FUTURE.sub("", program) if imports else program


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
