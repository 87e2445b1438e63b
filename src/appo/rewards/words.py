r"""Answers in words: exact match and token F1, as SQuAD and HotpotQA define them.

Normalisation: LaTeX for words (`\text{..}`, `~`) as words, as prompts ask for a box; Unicode compatibility form, lower
case, no punctuation (SQuAD's ASCII and all of Unicode's), no English articles, single spaces. Two departures: articles
and punctuation stay where nothing else would be left, so that the choice "A" is not the empty answer, and a sign
between digits parts them (1.8 m is not 18 m), but for a separator of thousands. Left out on purpose:
numbers in words, and segmenting languages without spaces.

Try it: `python -c "from appo.rewards import f1; print(f1('the Eiffel Tower', ['Eiffel tower in Paris']))"`.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable

from appo.rewards._latex_text import plain_words

_THOUSANDS = re.compile(r"(?<![\d.,}])\d{1,3}(?:(?:,|\{,\})\d{3})+(?![,{]*\d)")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[^\w\s]+(?=\d)|(?<=\d)_+(?=\d)")
_PARTING = "\ue000\ue001"  # private characters, which no answer holds: a point, and any other sign between digits
_VERDICTS = frozenset({"yes", "no", "noanswer"})


def exact_match(prediction: str | None, truths: str | Iterable[str]) -> bool:
    """Whether the answer equals one of the aliases after normalisation; False for a missing or empty answer."""
    wanted = _normalised(prediction or "")
    return bool(wanted) and any(wanted == _normalised(truth) for truth in _aliases(truths))


def f1(prediction: str | None, truths: str | Iterable[str]) -> float:
    """HotpotQA's token F1 in [0, 1], the best over the aliases.

    Args:
        prediction: The answer; None or empty scores 0.
        truths: One reference or several aliases; none: 0.

    Returns:
        The harmonic mean of precision and recall of the words. Where either side is yes, no or noanswer, 1 if both are
        the same and 0 otherwise: "no idea" is not half of "no".
    """
    return max((_f1(_normalised(prediction or ""), _normalised(truth)) for truth in _aliases(truths)), default=0.0)


def _f1(prediction: str, truth: str) -> float:
    if {prediction, truth} & _VERDICTS:
        return float(prediction == truth)
    words, right = prediction.split(), truth.split()
    common = sum((Counter(words) & Counter(right)).values())
    return 2 * common / (len(words) + len(right)) if common else 0.0


def _normalised(text: str) -> str:
    text = unicodedata.normalize("NFKC", plain_words(text)).lower()
    text = _THOUSANDS.sub(lambda number: re.sub(r"\D", "", number[0]), text)
    parted = _BETWEEN_DIGITS.sub(lambda signs: _parting(signs[0]), text)
    bare = "".join(c for c in parted if c in _PARTING or not _is_punctuation(c))
    words = re.sub(r"\b(a|an|the)\b", " ", bare).split()
    return " ".join(words or bare.split() or text.split())


def _parting(signs: str) -> str:
    """What parts two numbers, as one sign that stays: a point, or anything else."""
    if not all(map(_is_punctuation, signs)):
        return signs
    return _PARTING[0] if signs == "." else _PARTING[1]


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _aliases(truths: str | Iterable[str]) -> list[str]:
    return [truths] if isinstance(truths, str) else list(truths)
