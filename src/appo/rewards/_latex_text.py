r"""Words that are written as LaTeX, as a reader sees them: `\text{New}~\textbf{York}` is New York.

Only commands that set or space words; mathematics stays as it is written. Left out on purpose: braces, `$`, `\(`, `\&`
and dashes, which are punctuation to those who ask.
"""

import re
import unicodedata

_FONTS = "rm|bf|it|sf|tt|sc|sl|up|md|normal"
# What surrounds words and adds nothing to them; `math` has some of these fonts too.
WRAPPERS = rf"(?:text|math)(?:{_FONTS})?|emph|underline|uline|[mhf]box|boxed|boldsymbol|bm"
_BREAK = r"(?![A-Za-z])\s*"
_SWITCHES = (
    r"left|right|[bB]igg?[lrm]?|(?:display|text|script)style|rm|bf|it|sf|tt|sc|sl|em|"
    r"tiny|scriptsize|footnotesize|small|normalsize|[lL]arge|LARGE|[hH]uge|"
    r"(?:bf|rm|tt|sf|md)(?:series|family)|(?:it|sl|sc|up)shape|normalfont|text(?:quote[a-z]+|e[nm]dash)|[ld]?dots"
)
# A superscript is what it raises, as in 20th; a colour shows nothing.
_RAISED = r"text(?:super|sub)script"
_COLOUR = r"(?:text)?color\s*\{[^{}]*\}\s*"
_COMMANDS = re.compile(
    rf"(\\?)\\(?:(?:{WRAPPERS}|{_RAISED}|operatorname\*?){_BREAK}|{_COLOUR}|(?:{_SWITCHES})(?![A-Za-z])(?:\{{\}})?)"
)
_DEGREES = re.compile(r"\^? ?\{? ?\\(?:circ|degree|textdegree)(?![A-Za-z]) ?\}?")
_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,;:!]|~)(?=\d{3}(?!\d))")
_SPACES = re.compile(r"\\\\|\\newline(?![A-Za-z])|\\[,;:> ]|~|\\q?quad(?![A-Za-z])|\\(?:thin|en)?space(?![A-Za-z])")
_SIGNS = "\u0300\u0301\u0302\u0308\u0303\u0304\u0307\u0306\u030c\u030b\u0327\u0323\u030a\u0328"  # grave, acute, ..
_ACCENTS = dict(zip("`'^\"~=.uvHcdrk", _SIGNS, strict=True))
# Without braces only inside a word, and of apostrophes only before vowels: `It\'s \"odd\"` has no accents.
_ACCENT = re.compile(
    r"\\([`'^\"~=.uvHcdrk])\s*\{\s*\\?([A-Za-z])\s*\}|(?<=[^\W\d_]|\})(?:\\([`^\"~])([a-z])|\\(')([aeiouy]))"
    r"|(?<!\\)\\([uvHcdrk]) +([A-Za-z])"
)
_LETTERS = dict(zip(["ss", "o", "O", "l", "L", "ae", "AE", "oe", "OE", "aa", "AA"], "ßøØłŁæÆœŒåÅ", strict=True))
_LETTER = re.compile(rf"(?<!\\)\\({'|'.join(_LETTERS)})(?:\{{\}}| +|(?![A-Za-z]))")


def plain_words(text: str) -> str:
    """The text without commands for fonts, boxes and spaces; any text, never an error."""
    if "\\" not in text and "~" not in text:
        return text
    text = _ACCENT.sub(_accented, text)
    text = _LETTER.sub(lambda match: _LETTERS[match[1]], text)
    # Two backslashes end a line, or were escaped once more.
    text = _COMMANDS.sub(lambda match: " " if match[1] else "", text)
    return _SPACES.sub(" ", _THOUSANDS.sub("", _DEGREES.sub("°", text)))


def _accented(match: re.Match[str]) -> str:
    accent, letter = (group for group in match.groups() if group)
    letters = unicodedata.normalize("NFC", letter + _ACCENTS[accent])
    return letters if len(letters) == 1 else match[0]
