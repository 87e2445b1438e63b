"""The paper's reward: -1 for a broken format, else F1 against the truth, and a bonus for tools.

Decisions where the paper is silent. Right is a score of 1. Where truth and answer are both mathematics, equality
decides between 0 and 1, because F1 drops signs and points (-5 would be 5, and 3/4 would be 34); elsewhere
mathematical equality scores 1 and F1 scores the rest.

Left out on purpose: a penalty for length, which the paper does not have.
Try it: `python -c "from appo.rewards import paper_reward; print(paper_reward('<answer>5</answer>', ['5']))"`.
"""

from collections.abc import Iterable

from appo.rewards.answers import CALLS, extract_answer, format_errors, used_tools
from appo.rewards.equality import is_math, is_name, math_equal
from appo.rewards.words import f1

BROKEN_FORMAT = -1.0
TOOL_BONUS = 0.1


def paper_reward(text: str, truths: str | Iterable[str]) -> float:
    """-1.0 for a broken format (`format_errors`); else the best `answer_score`, plus 0.1 if it is 1 and the completion
    called both `<search>` and `<python>`.

    Args:
        text: The completion, as `completion_text` gives it.
        truths: One reference or several aliases.
    """
    if format_errors(text):
        return BROKEN_FORMAT
    answer = extract_answer(text) or ""
    aliases = [truths] if isinstance(truths, str) else truths
    score = max((answer_score(answer, truth) for truth in aliases), default=0.0)
    return score + (TOOL_BONUS if score == 1.0 and used_tools(text).issuperset(CALLS) else 0.0)


def answer_score(answer: str, truth: str) -> float:
    """1 for a mathematically equal answer; 0 for another one where both are mathematics; F1 elsewhere."""
    if math_equal(answer, truth):
        return 1.0
    if all(is_math(text) or is_name(text) for text in (truth, answer)):  # 2x is called a name, and is not -2x
        return float(answer.casefold() == truth.casefold())
    return f1(answer, truth)
