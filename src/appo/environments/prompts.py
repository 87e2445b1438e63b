"""The paper's system prompt, and the same text for other tools than its two.

`PAPER_PROMPT` is word for word what the RL data hold (with `\\boxed` repaired, see `appo.data.rl_sets`). It asks
for the tags that `TagProtocol` and `appo.rewards` read. `system_prompt(names)` is that text, for fewer tools, and
`short_prompt(tools)` a few lines for tools of one's own.

Try it: `python -c "from appo.environments.prompts import system_prompt; print(system_prompt(['python']))"`.
Left out on purpose: examples of what a tool of yours is for; give them in a prompt of your own.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Words:
    """How the prompt speaks of a tool: its kind, what it is invoked for, what is written to it, what it answers."""

    kind: str
    purpose: str
    query: str
    result: str


_PAPER = {
    "search": _Words("wikipedia search", " to search", "search query", "search result"),
    "python": _Words(
        "python interpreter", " to calculate the math problem", "python code", "python interpreter result"
    ),
}
_THOUGHT = "<think> This is the reasoning process. </think> "


def system_prompt(tool_names: Iterable[str]) -> str:
    """The paper's prompt for the tools of these names.

    Args:
        tool_names: Any; `search` and `python` come first and in the paper's words, others in the order given. None at
            all asks for a thought and an answer only.
    """
    given = list(dict.fromkeys(tool_names))
    names = [name for name in _PAPER if name in given] + [name for name in given if name not in _PAPER]
    words = [_PAPER.get(name, _Words(name, "", f"{name} input", f"{name} result")) for name in names]
    if not names:
        by_what, invoke, enclosed = "", "", ""
    else:
        by_what = f" with the help of the {_joined(f'{tool.kind} tool' for tool in words)}"
        facts = " for fact information about specific topics" if "search" in names else ""
        invoke = f" During thinking, you can invoke the {_joined(f'{t.kind} tool{t.purpose}' for t in words)}{facts}"
        invoke += " if needed."
        # The authors name the first tool only; the example shows the others.
        enclosed = (
            f", and the {words[0].query} and result are enclosed within <{names[0]}> </{names[0]}> and "
            "<result> </result> tags respectively"
        )
    calls = "".join(
        f"{_THOUGHT}<{name}> {tool.query} here </{name}> <result> {tool.result} here </result> "
        for name, tool in zip(names, words, strict=True)
    )
    return (
        f"You are a helpful assistant that can solve the given question step by step{by_what}. Given a question, you "
        f"need to first think about the reasoning process in the mind and then provide the answer.{invoke} The "
        "reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags respectively"
        f"{enclosed}. For example, {calls}{_THOUGHT}<answer> The final answer is \\[ \\boxed{{answer here}} \\] "
        "</answer>. In the last part of the answer, the final exact answer is enclosed within \\boxed{} with latex "
        "format."
    )


def _joined(parts: Iterable[str]) -> str:
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def short_prompt(tools: Iterable[Callable[..., Any]], answers: bool = True) -> str:
    """A short prompt for tools in tags, and for an answer in `<answer>`; empty where there is nothing to say.

    Args:
        tools: Those that no chat template tells of.
        answers: Whether the answer is to stand in its tags.
    """
    lines = []
    for tool in tools:
        names = [name for name in inspect.signature(tool).parameters if name != "self"]
        written = names[0] if len(names) == 1 else "{" + ", ".join(f'"{name}": ..' for name in names) + "}"
        about = (inspect.getdoc(tool) or "").strip().partition("\n")[0]
        lines.append(f"<{tool.__name__}>{written}</{tool.__name__}>{f'  {about}' if about else ''}")
    if lines:
        lines = ["You can call a tool, and read what it gives in <result></result>:", *lines]
    return "\n".join([*lines, *(["End with the answer alone in <answer></answer>."] if answers else [])])


PAPER_PROMPT = system_prompt(("search", "python"))
