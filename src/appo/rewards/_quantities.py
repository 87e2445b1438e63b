"""Numbers as people write them, exactly: separators, decimals, fractions, mixed numbers, words, powers of ten,
percent, money and units.

Left out on purpose: conversion between units (5 cm is not 50 mm here), decimal commas, roots and other expressions,
which are math-verify's part.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

# A decimal with fewer significant digits than this is never taken for a rounded number: 0.33 is not 1/3.
ROUNDED_DIGITS = 6
_MAX_DIGITS = 400
_MAX_EXPONENT = 400

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: value for value, word in enumerate(_SMALL.split(" "))}
_WORDS |= {word: 20 + 10 * index for index, word in enumerate(_TENS.split(" "))}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}

# The canonical name first.
_UNIT_NAMES = """
mm millimeter millimetre, cm centimeter centimetre 厘米, dm decimeter decimetre, m meter metre 米,
km kilometer kilometre 千米 公里, in inch inches, ft foot feet, yd yard, mi mile, mg milligram, g gram 克,
kg kilogram 千克 公斤, lb lbs pound, oz ounce, s sec second 秒, min minute 分钟, h hr hour 小时,
day 天, week 周, month, year 年, ml milliliter millilitre, l liter litre 升, N newton, J joule, W watt, V volt,
Pa pascal, Hz hertz, mph, kph, rad radian, ° deg degree 度, °C C celsius, °F F fahrenheit,
$ dollar usd us$, € euro eur, £ gbp, ¥ yen yuan rmb cny 元, ₹ rupee inr, ¢ cent, unit
"""
_UNITS = {name: names.split()[0] for names in _UNIT_NAMES.split(",") for name in names.split()}
_MONEY = re.compile(r"([-+]?)\s*(US\$|[$€£¥₹])\s*(?=[\d.])")
# Words after a number that change it or go on with a sentence: no units.
_OTHER_WORDS = """
and or to of in more less fewer most least times plus minus than mod point half halves third thirds quarter quarters
hundred thousand million billion trillion dozen x y z pi e i
january february march april may june july august september october november december
"""
_NOT_UNITS = frozenset(_OTHER_WORDS.split())
_INTEGER = r"\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+"
_POWER = r"(?:\s*\*\s*10\s*\^\s*\{?\s*(?P<power>[-+]?\d+)(?:\s*\})?|[eE](?P<e>[-+]?\d+))?"
_DECIMAL = rf"(?P<whole>{_INTEGER})?(?:\.(?P<part>\d*)(?:\\overline\s*\{{(?P<repeat>\d+)\}})?)?{_POWER}"
_FRACTION = (
    r"(?:(?P<mixed>\d+)(?:\s+|\s*(?=\\)))?"
    r"(?:\\frac\s*\{\s*(?P<a>\d+)\s*\}\s*\{\s*(?P<b>\d+)\s*\}|(?P<c>\d+)\s*/\s*(?P<d>\d+))"
)
_NUMBER = re.compile(rf"(?P<sign>[-+]?)\s*(?:(?P<fraction>{_FRACTION})|{_DECIMAL})(?![\d.])")
_UNIT_POWER = re.compile(r"\s*\^\s*\{?\s*([-+]?\d)\s*\}?")


@dataclass(frozen=True)
class Quantity:
    """A number with what stands beside it.

    `unit` is empty or one name per unit ("km/h", "cm^2"). `last_place` is the value of a decimal's last digit, and
    `digits` counts its significant ones; both 0 for what is exact. `in_words`: "five" and not "5".
    """

    value: Fraction
    unit: str = ""
    percent: bool = False
    last_place: Fraction = Fraction(0)
    digits: int = 0
    in_words: bool = False


def parse_quantity(text: str) -> Quantity | None:
    """The quantity that a normalised text is; None for anything else, and beyond 400 digits or powers of ten."""
    if len(text) > _MAX_DIGITS:
        return None
    money = _MONEY.match(text)
    if money:
        text = money[1] + text[money.end() :]
    quantity, rest = _leading_number(text)
    if quantity is None:
        return None
    if rest.strip() == "%":
        return None if money else replace(quantity, percent=True)
    words = rest.split(maxsplit=1)
    if words and words[0].lower() in _SCALES:
        quantity = _scaled(quantity, Fraction(_SCALES[words[0].lower()]))
        rest = f" {words[1]}" if len(words) == 2 else ""
    unit = "" if not rest.strip() else parse_unit(rest, any_word=True)
    if unit is None or (money and unit and unit != _UNITS[money[2].lower()]):
        return None
    return replace(quantity, unit=unit or (_UNITS[money[2].lower()] if money else ""))


def same_quantity(a: Quantity, b: Quantity) -> bool:
    """Whether a reader takes both for the same: 5 for 5 cm but not 5 m for 5 cm, 50% for 50 and for 0.5."""
    if (a.unit and b.unit and a.unit != b.unit) or (a.percent and b.unit) or (b.percent and a.unit):
        return False
    if (a.in_words or b.in_words) and a.unit != b.unit and not {a.unit, b.unit} <= {"", *_UNITS.values()}:
        return False  # "seven samurai" is a title rather than the number 7
    if a.percent == b.percent:
        return _same_value(a, b)
    percent, bare = (a, b) if a.percent else (b, a)
    return _same_value(percent, bare) or _same_value(_scaled(percent, Fraction(1, 100)), bare)


def parse_unit(text: str, *, any_word: bool = False) -> str | None:
    """The canonical name of a unit; None if it is none. The text is what follows a number, with its leading spaces.

    One letter is a unit only behind a space: in 5m it may be a variable. With `any_word` so is a noun: 5 apples.
    """
    spaced, text = text[:1] == " ", text.strip()
    parts: list[str] = []
    for part in re.split(r"\s*/\s*|\s+per\s+", text):
        power, match = "", _UNIT_POWER.search(part)
        if match and match.end() == len(part):
            part, power = part[: match.start()], match[1].lstrip("+")
        words = part.lower().split()
        if len(words) == 2 and words[0] in ("square", "sq", "cubic", "cu"):
            part, power = part.split()[1], "2" if words[0].startswith("sq") else "3"
        name = _unit_name(part, spaced or bool(parts), any_word)
        if name is None:
            return None
        parts.append(f"{name}^{power}" if power else name)
    return "/".join(parts)


def _unit_name(word: str, spaced: bool, any_word: bool) -> str | None:
    candidates = (word, word.lower(), word.lower().removesuffix("s"), word.lower().removesuffix("es"))
    known = next((_UNITS[candidate] for candidate in candidates if candidate in _UNITS), None)
    if known is not None:
        return known if spaced or len(word) > 1 or not word.isascii() or not word.isalpha() else None
    # A capital makes it a name: "1984 Orwell".
    noun = spaced and len(word) > 1 and word.isalpha() and not word[0].isupper()
    return candidates[2] if any_word and noun and word not in _NOT_UNITS and word not in _WORDS else None


def _leading_number(text: str) -> tuple[Quantity | None, str]:
    match = _NUMBER.match(text)
    if match is None or not re.search(r"\d", match[0]):
        return _leading_words(text)
    sign = -1 if match["sign"] == "-" else 1
    rest = text[match.end() :]
    if match["fraction"]:
        below = int(match["b"] or match["d"])
        if below == 0:
            return None, text
        value = int(match["mixed"] or 0) + Fraction(int(match["a"] or match["c"]), below)
        return Quantity(sign * value), rest
    whole = re.sub("[, ]", "", match["whole"] or "")
    part, repeat = match["part"] or "", match["repeat"] or ""
    power = match["power"] or match["e"] or "0"
    exponent = int(power) if len(power) < 6 else _MAX_EXPONENT + 1
    if abs(exponent) > _MAX_EXPONENT:
        return None, text
    scale = Fraction(10) ** exponent
    value = Fraction(int(whole + part or "0"), 10 ** len(part))
    if repeat:
        value += Fraction(int(repeat), (10 ** len(repeat) - 1) * 10 ** len(part))
        return Quantity(sign * value * scale), rest
    if not part:
        return Quantity(sign * value * scale), rest
    return Quantity(
        sign * value * scale, last_place=scale / 10 ** len(part), digits=len((whole + part).lstrip("0"))
    ), rest


def _leading_words(text: str) -> tuple[Quantity | None, str]:
    """A number in English words, `minus twenty-one` or `two hundred and five`, up to the first other word."""
    tokens = re.findall(r"[A-Za-z]+|\S", text)
    negative = bool(tokens) and tokens[0].lower() in ("minus", "negative")
    total, group, seen, used = 0, 0, False, int(negative)
    for token in tokens[used:]:
        word = token.lower()
        room = 10 if group % 100 >= 20 else 100  # what fits behind twenty, and behind a hundred
        if group % room == 0 and word in _WORDS and _WORDS[word] < room:
            group, seen = group + _WORDS[word], True
        elif word in _SCALES and seen and word != "dozen":
            group = max(group, 1) * _SCALES[word]
            if word != "hundred":
                total, group = total + group, 0
        elif not (seen and word in ("-", "and")):
            break
        used += 1
    if not seen or tokens[used - 1].lower() in ("-", "and"):
        return None, text
    rest = "".join(f" {token}" for token in tokens[used:])
    return Quantity(Fraction((total + group) * (-1 if negative else 1)), in_words=True), rest


def _scaled(quantity: Quantity, factor: Fraction) -> Quantity:
    return replace(quantity, value=quantity.value * factor, last_place=quantity.last_place * factor)


def _same_value(a: Quantity, b: Quantity) -> bool:
    """Exactly, or one is a decimal of six or more significant digits to which the other rounds."""
    difference = abs(a.value - b.value)
    rounded = (quantity for quantity in (a, b) if quantity.digits >= ROUNDED_DIGITS)
    return difference == 0 or any(2 * difference <= quantity.last_place for quantity in rounded)
