"""One spelling for what reads the same: Unicode to LaTeX, and LaTeX without what only changes its looks.

`normalise` is applied to both sides before they are compared. It keeps the mathematics: nothing is evaluated, sorted
or dropped that could make a wrong answer right. Left out on purpose: numbers, units and lists (`_quantities.py`,
`equality.py`).
"""

import itertools
import re
import unicodedata

from appo.rewards._latex_text import WRAPPERS

_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUB = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-", strict=True))
_SYMBOLS = {
    **dict.fromkeys("−‐‑‒–—", "-"),
    **dict.fromkeys("×·⋅∙∗", "*"),
    **dict.fromkeys("，、", ","),
    **dict.fromkeys("“”‘’`", ""),
    **{"÷": "/", "∕": "/", "：": ":", "；": ";", "。": ".", "º": "°", "∶": ":"},
}
_COMMANDS = {
    **{"√": "sqrt", "∞": "infty", "≤": "le", "⩽": "le", "≥": "ge", "⩾": "ge", "≠": "ne", "∪": "cup", "∩": "cap"},
    **{
        "∧": "land",
        "∨": "lor",
        "∖": "setminus",
        **{sign: f"mathbb{{{letter}}}" for sign, letter in zip("ℝℤℕℚℂ", "RZNQC", strict=True)},
    },
    **{"∈": "in", "±": "pm", "∅": "emptyset", "≈": "approx", "π": "pi", "α": "alpha", "β": "beta", "γ": "gamma"},
    **{"δ": "delta", "θ": "theta", "λ": "lambda", "μ": "mu", "σ": "sigma", "φ": "phi", "ω": "omega", "ρ": "rho"},
}
_CHARACTERS = str.maketrans({**_SYMBOLS, **{symbol: f"\\{name} " for symbol, name in _COMMANDS.items()}})

# In this order. A space where two things might otherwise grow together.
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:boxed|fbox)\s*\{", "{"),
        (r"(?<!\\)\\[()\[\]]", " "),  # \( \) \[ \]
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?", ""),
        (r"(?<!\\)\\!|\\(?:displaystyle|limits)(?![A-Za-z])", ""),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])|\\(?:thin)?space(?![A-Za-z])", " "),
        (r"\{\s*,\s*\}", ","),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (rf"\\(?:{WRAPPERS})\s*(?=\{{)", ""),  # around mathematics, where braces group
        (r"^\s*\\operatorname\*?\s*(?=\{[^{}]*\}\s*$)", ""),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\(le|ge|ne)(?:q|qslant)(?![A-Za-z])", r"\\\1"),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"!=", r"\\ne "),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])", "°"),
        (r"\^\s*\{?\s*((?:\\prime\s*(?![A-Za-z]))+)\}?", lambda match: "'" * match[1].count("prime")),
        (r"\\%|\bpercent\b|\bpct\b", "%"),
        (r"\*\*", "^"),
        (r"(?<![A-Za-z\\])(sqrt|sin|cos|tan|cot|ln|log|exp|pi|infty|infinity|theta)(?![A-Za-z])", r"\\\1 "),
        (r"\\infinity(?![A-Za-z])", r"\\infty"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}"),
        (r"\^\s*(-?\d{2,}|-\d)", r"^{\1}"),  # 2^10 in plain text is not (2^1)0
        (r"\\(?:lor|vee)(?![A-Za-z])", " or "),
        (r"\\(?:land|wedge)(?![A-Za-z])", " and "),
        (r"\\mathbb\s*([A-Z])(?![A-Za-z])|\\R(?![A-Za-z])", lambda match: f"\\mathbb{{{match[1] or 'R'}}}"),
        (r"^\s*(?i:all real numbers|all reals|the real numbers)\W*$", r"\\mathbb{R}"),
        (r"^\s*(?i:no (?:real )?solutions?|(?:the )?empty set)\W*$", r"\\emptyset"),
        (r"\\varnothing", r"\\emptyset"),
        (r"\\lbrace|\\rbrace", lambda match: "\\{" if match[0] == "\\lbrace" else "\\}"),
    )
]
_WRAPPED = re.compile(rf"\\(?:{WRAPPERS})\s*\{{([^{{}}]*)\}}")
_STOPS = ".,;: "
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_QUOTED = re.compile(r"([\"'])([^\"']+)\1")


def normalise(text: str) -> str:
    """The text in one spelling, as LaTeX without `$`; any text, never an error."""
    text = re.sub(f"[{''.join(_SUPER)}]+", lambda run: "^{" + "".join(_SUPER[c] for c in run[0]) + "}", text)
    text = re.sub(f"[{''.join(_SUB)}]+", lambda run: "_{" + "".join(_SUB[c] for c in run[0]) + "}", text)
    # A space, so that 2½ becomes a mixed number and not 21/2.
    text = re.sub("[¼-¾⅐-⅞]", lambda sign: " " + unicodedata.normalize("NFKC", sign[0]).replace("⁄", "/"), text)
    text = text.replace("″", "′′").replace("′", "'")
    if "‘" not in text:  # else a quotation
        text = re.sub(r"(?<=[\w)\]}])’(?![^\W\d_])", "'", text)
    text = re.sub(r"√\s*(\d+)", r"\\sqrt{\1}", text)
    # Symbols first: compatibility forms would make a degree sign a letter.
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)
    text = _without_dollars(text).strip()
    if match := _BOLD.fullmatch(text):
        text = match[1]
    found = 1
    while found:  # the innermost first
        text, found = _WRAPPED.subn(r" \1 ", text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _unbrace(" ".join(text.split()))
    match = _QUOTED.fullmatch(text)
    return _unbrace(match[2].strip()) if match else text


def closing_brackets(text: str) -> dict[int, int]:
    """Where each bracket that is opened is closed, of `()`, `[]`, `{}` and `\\{\\}`; half-open intervals count too."""
    stack: list[tuple[str, int]] = []
    pairs = {}
    for match in re.finditer(r"\\\\|\\?[{}]|[()\[\]]", text):
        kind = {"{": "{", "}": "{", "\\{": "s", "\\}": "s"}.get(match[0], "(")
        if match[0][-1] in "([{":
            stack.append((kind, match.start()))
        elif match[0][-1] in ")]}" and stack and stack[-1][0] == kind:
            pairs[stack.pop()[1]] = match.start()
    return pairs


def bracket_depth(text: str) -> int:
    """How deep brackets are nested, closed or not."""
    steps = (1 if character in "([{" else -1 for character in text if character in "()[]{}")
    return max(itertools.accumulate(steps), default=0)


def _unbrace(text: str) -> str:
    """Without a full stop at the end, and braces around the whole, which only group."""
    text = text.rstrip(_STOPS)
    while text.startswith("{") and closing_brackets(text).get(0) == len(text) - 1:
        text = text[1:-1].strip().rstrip(_STOPS)
    return text


def _without_dollars(text: str) -> str:
    """Drops paired `$`, which delimit mathematics; `\\$` and a lone `$` are money."""
    text = text.replace("\\$", "\0")
    if text.count("$") % 2 == 0:
        text = text.replace("$", " ")
    return text.replace("\0", "$")
