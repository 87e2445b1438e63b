"""Reads the paper's tag protocol: the answer of a completion, and what is wrong with its format.

A completion is a row of blocks: `<think>`, the calls `<search>` and `<python>`, `<result>` and `<answer>`. A block
goes from its opening tag to the first closing tag of its name, and tags within it are text: what a web page or a
program says about tags or boxes counts for nothing. A block that is not closed goes on to the end.

Left out on purpose: comparing answers (`equality.py`, `words.py`); telling a tool's `</result>` from the
environment's, which a string cannot show.
Try it: `python -c "from appo.rewards import format_errors; print(format_errors('<answer>5</answer>'))"`.
"""

import itertools
import re
from dataclasses import dataclass

CALLS = ("search", "python")
TAG = re.compile(r"<(/?)(think|search|python|result|answer)>")
_BOX_TOKEN = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A tag's content. `name` is the tag's, "" for text outside of tags, or "/name" for a closing tag without an
    opening one."""

    name: str
    text: str
    closed: bool = True


def extract_answer(text: str) -> str | None:
    """The answer of a completion, stripped of its box.

    - The last closed `<answer>` counts: the last complete `\\boxed{}` in it, else, if there is no box at all, its text
      (for `exact_match` and `f1`; the paper's reward calls it a broken format).
    - Without any `<answer>`, as instruct models write: the last complete box outside of thoughts, calls and results.
    - A `</think>` without `<think>` ends a thought that the prompt began.

    Args:
        text: The completion, as `completion_text` gives it.

    Returns:
        None if there is no answer, if it is empty, or if its only box is incomplete.
    """
    blocks = parse_blocks(text)
    answers = [block for block in blocks if block.name == "answer"]
    if not answers:
        boxes = [box for block in blocks if not block.name for box in [last_box(block.text)] if box is not None]
        return boxes[-1] or None if boxes else None
    closed = [block.text for block in answers if block.closed]
    if not closed:
        return None
    box = last_box(closed[-1])
    if box is None:
        box = "" if "\\boxed" in closed[-1] else closed[-1].strip()
    return box or None


def format_errors(text: str) -> list[str]:
    """What breaks the paper's format, one readable reason each; empty for a good completion.

    Thoughts are present, paired and free of calls; every call is closed and followed by its result, every result
    preceded by its call; there is exactly one answer, nothing but text follows it, and it holds a complete box that is
    not empty.
    """
    blocks = [block for block in parse_blocks(text) if block.name or block.text.strip()]
    errors = [f"<{block.name}> is not closed" for block in blocks if not block.closed]
    errors += [f"<{block.name}> without an opening tag" for block in blocks if block.name.startswith("/")]
    thoughts = [block.text for block in blocks if block.name == "think"]
    if not thoughts:
        errors.append("no <think>")
    if any("<think>" in thought for thought in thoughts):
        errors.append("<think> inside <think>")
    if any(_holds_call(thought) for thought in thoughts):
        errors.append("a call inside <think>")
    nothing = Block("", "")
    for block, after in itertools.pairwise([*blocks, nothing]):
        if block.name in CALLS and block.closed and after.name != "result":
            errors.append(f"<{block.name}> without its <result>")
    for before, block in itertools.pairwise([nothing, *blocks]):
        if block.name == "result" and before.name not in CALLS:
            errors.append("<result> without its call")
    return errors + _answer_errors(blocks)


def used_tools(text: str) -> set[str]:
    """The tools that a completion called and whose result it got."""
    blocks = [block for block in parse_blocks(text) if block.name or block.text.strip()]
    return {call.name for call, result in itertools.pairwise(blocks) if call.name in CALLS and result.name == "result"}


def parse_blocks(text: str) -> list[Block]:
    """The completion in order, in time linear in its length."""
    blocks: list[Block] = []
    position, thought = 0, False
    while match := TAG.search(text, position):
        blocks.append(Block("", text[position : match.start()]))
        position = match.end()
        closing, name = match.groups()
        if closing:
            if name == "think" and not thought:  # begun by the prompt: all so far is a thought
                blocks, thought = [], True
            blocks.append(Block(f"/{name}", ""))
            continue
        thought = thought or name == "think"
        end = text.find(f"</{name}>", position)
        body = text[position:] if end < 0 else text[position:end]
        # Of two opening tags the last one counts: the first was talk about the tag.
        blocks.append(Block(name, body.rpartition("<answer>")[2] if name == "answer" else body, end >= 0))
        position = len(text) if end < 0 else end + len(name) + 3
    return [*blocks, Block("", text[position:])]


def last_box(text: str) -> str | None:
    """The content of the last complete `\\boxed{}`, stripped. Escaped braces are text.

    Of nested boxes the outer one counts, or the inner one where the outer holds nothing else.
    """
    opened: list[re.Match[str]] = []
    found, begin, end = None, 0, 0
    for match in _BOX_TOKEN.finditer(text):
        if match[0] == "{" or match[0].startswith("\\boxed"):
            opened.append(match)
        elif match[0] == "}" and opened:
            opening = opened.pop()
            if opening[0] == "{":
                continue
            start = opening.end()
            wraps = (
                found is not None and begin >= start and not (text[start:begin] + text[end : match.start()]).strip()
            )
            found = found if wraps else text[start : match.start()].strip()
            begin, end = opening.start(), match.end()
    return found


def _holds_call(thought: str) -> bool:
    """A call that is merely mentioned has no closing tag."""
    openings = [(name, thought.find(f"<{name}>")) for name in CALLS]
    return any(start >= 0 and thought.find(f"</{name}>", start) >= 0 for name, start in openings)


def _answer_errors(blocks: list[Block]) -> list[str]:
    answers = [index for index, block in enumerate(blocks) if block.name == "answer"]
    if len(answers) != 1:
        return [f"{len(answers)} <answer> blocks instead of one" if answers else "no <answer>"]
    errors = []
    if any(block.name for block in blocks[answers[0] + 1 :]):
        errors.append("tags after <answer>")
    box = last_box(blocks[answers[0]].text)
    if box is None:
        errors.append("no complete \\boxed{} in <answer>")
    elif not box:
        errors.append("an empty \\boxed{} in <answer>")
    return errors
