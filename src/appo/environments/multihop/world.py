"""What there is to know: countries, capitals, currencies and languages, and the facts that lead from one to another.

Made from the package `countryinfo` (MIT), whose 256 entries have gaps, duplicates and contradictions. What is not
unambiguous is left out, by rules that `clean` and the functions below it state; so a question has one answer. The
facts are those of the package, some of them out of date (a currency that has been replaced), and its alone.

    world = load_world()
    world.value("Kenya", "capital")             # "Nairobi"
    world.value("Nairobi", "country")           # "Kenya"
    world.value("Kenya", "northernmost")        # "Ethiopia": its northernmost neighbour, by the country's centre

Left out on purpose: whatever needs knowledge that is not in the package, but for the names of languages, of which it
has the codes.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

from appo.errors import MissingPackage
from appo.tools.search.words import words

try:
    # The package's own functions give each entry as an object with lookups; this is the table behind them.
    from countryinfo._cache import load_countries
except ModuleNotFoundError:
    raise MissingPackage("The package countryinfo is missing: run `pip install 'appo[domains]'`.") from None

# Of a neighbour: which of all neighbours it is, as the largest or the smallest of a number of the country's.
NEIGHBOURS = {
    "northernmost": ("north", max),
    "southernmost": ("north", min),
    "easternmost": ("east", max),
    "westernmost": ("east", min),
    "largest": ("area", max),
    "smallest": ("area", min),
    "populous": ("population", max),
    "empty": ("population", min),
}
PROPERTIES = ("country", "capital", "currency", "language", "region", *NEIGHBOURS)
OBSOLETE = ("SCG",)  # Serbia and Montenegro, which the package has beside its successors
# fmt: off
LANGUAGES = {
    "am": "Amharic", "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "cnr": "Montenegrin", "da": "Danish",
    "de": "German", "dv": "Dhivehi", "dz": "Dzongkha", "el": "Greek", "en": "English", "es": "Spanish",
    "et": "Estonian", "fa": "Persian", "fo": "Faroese", "fr": "French", "hr": "Croatian", "hu": "Hungarian",
    "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "ka": "Georgian", "kl": "Greenlandic",
    "km": "Khmer", "ko": "Korean", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian",
    "mn": "Mongolian", "ms": "Malay", "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovene", "sq": "Albanian",
    "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}
# fmt: on
_NAME = re.compile(r"[A-Za-z][A-Za-z .'-]*")


@dataclass(frozen=True)
class Fact:
    """`value` is the `name` (of `PROPERTIES`) of `entity`."""

    entity: str
    name: str
    value: str


@dataclass(frozen=True)
class World:
    """Entities and the facts about them.

    Args:
        kinds: Of each entity by its name: country, capital, currency, language or region.
        facts: The value for each (entity, property) that has one; no two values for any.
    """

    kinds: dict[str, str]
    facts: dict[tuple[str, str], str]

    def value(self, entity: str, name: str) -> str | None:
        """What a property of an entity is, None where it has none."""
        return self.facts.get((entity, name))

    def about(self, entity: str) -> list[Fact]:
        """All facts about an entity, in the order of `PROPERTIES`."""
        known = ((name, self.facts.get((entity, name))) for name in PROPERTIES)
        return [Fact(entity, name, value) for name, value in known if value is not None]

    def densest(self, count: int) -> "World":
        """A part of it with that many countries, of which few neighbours are left out; its facts stay as they are.

        Args:
            count: At least 1. The country with the fewest neighbours goes, until so many are left.
        """
        pairs = {(entity, value, name) for (entity, name), value in self.facts.items() if name in NEIGHBOURS}
        kept = {entity for entity, _, _ in pairs}
        while len(kept) > count:
            links = Counter(entity for entity, value, _ in pairs if entity in kept and value in kept)
            kept.remove(min(kept, key=lambda country: (links[country], country)))
        own = {value for (entity, _), value in self.facts.items() if entity in kept and self.kinds[value] != "country"}
        kept |= own
        facts = {key: value for key, value in self.facts.items() if key[0] in kept and value in kept}
        return World({name: kind for name, kind in self.kinds.items() if name in kept}, facts)


@cache
def load_world() -> World:
    """All that is unambiguous in the package."""
    raw = [entry for entry in load_countries()["countries"].values() if entry["ISO"].get("alpha3") not in OBSOLETE]
    table = clean(raw)
    facts = [fact for entry in table.values() for fact in _own_facts(entry, raw)]
    facts = _unambiguous(facts, {entry["name"] for entry in table.values()})
    facts += _neighbour_facts(raw, table)
    kinds = {entry["name"]: "country" for entry in table.values()}
    kinds.update({fact.value: fact.name for fact in facts if fact.name not in ("country", *NEIGHBOURS)})
    kept = {(fact.entity, fact.name): fact.value for fact in facts if fact.entity in kinds}
    return World(kinds, kept)


def clean(raw: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The entries that stand for a country with all that is needed, by their code of three letters.

    Args:
        raw: The package's. Those without a code, capital, currency, language, region or population are left out, as
            are those that share their code with another, and names that are no plain name.
    """
    needed = ("currencies", "languages", "region", "population", "latlng", "area")
    full = [entry for entry in raw if all(entry.get(key) for key in needed) and isinstance(entry.get("capital"), str)]
    codes = Counter(entry["ISO"].get("alpha3") for entry in full)
    table = {}
    for entry in full:
        code, name = entry["ISO"].get("alpha3"), plain(entry["name"])
        if code and codes[code] == 1 and is_name(name):
            table[code] = {**entry, "name": name}
    return table


def plain(name: str) -> str:
    """A name without accents."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))


def is_name(name: str) -> bool:
    """Whether it is a name of letters that a search can find."""
    return bool(_NAME.fullmatch(name) and words(name))


def _own_facts(entry: dict[str, Any], raw: list[dict[str, Any]]) -> list[Fact]:
    """Those about one country but for its neighbours, and those that lead back to it."""
    country, capital = entry["name"], plain(entry["capital"])
    facts = [Fact(country, "region", entry.get("intermediateregion") or entry["subregion"])]
    # "What is the capital of Kuwait?" tells a part of its answer.
    if is_name(capital) and not set(words(capital)) & set(words(country)):
        facts += [Fact(country, "capital", capital), Fact(capital, "country", country)]
    for key, name in (("currencies", "currency"), ("languages", "language")):
        if len(entry[key]) != 1:
            continue
        (code,) = entry[key]
        value = LANGUAGES.get(code, "") if name == "language" else code
        if is_name(value):
            facts.append(Fact(country, name, value))
            if sum(code in other.get(key, []) for other in raw) == 1:
                facts.append(Fact(value, "country", country))
    return facts


def _unambiguous(facts: list[Fact], countries: set[str]) -> list[Fact]:
    """Without capitals of two countries, and names that stand for two things (Luxembourg)."""
    capitals = Counter(fact.value for fact in facts if fact.name == "capital")
    kinds: dict[str, set[str]] = {name: {"country"} for name in countries}
    for fact in facts:
        if fact.name != "country":
            kinds.setdefault(fact.value, set()).add(fact.name)
    doubtful = {name for name, found in kinds.items() if len(found) > 1}
    doubtful |= {name for name, count in capitals.items() if count > 1}
    return [fact for fact in facts if (fact.entity if fact.name == "country" else fact.value) not in doubtful]


def _neighbour_facts(raw: list[dict[str, Any]], table: dict[str, dict[str, Any]]) -> list[Fact]:
    """Of countries with two or more neighbours that all agree on being neighbours; where none ties with the first."""
    needed = ("borders", "latlng", "area", "population")
    by_code = {entry["ISO"].get("alpha3"): entry for entry in raw if all(entry.get(key) for key in needed)}
    facts = []
    for code, entry in table.items():
        codes = [other for other in entry["borders"] if other not in OBSOLETE]
        others = [other for other in by_code if code in by_code[other]["borders"]]
        if len(codes) < 2 or set(codes) != set(others):
            continue
        for name, (key, best) in NEIGHBOURS.items():
            numbers = {other: _number(by_code[other], key) for other in codes}
            first = [other for other in codes if numbers[other] == best(numbers.values())]
            if len(first) == 1 and first[0] in table:
                facts.append(Fact(entry["name"], name, table[first[0]]["name"]))
    return facts


def _number(entry: dict[str, Any], key: str) -> float:
    if key in ("north", "east"):
        return float(entry["latlng"][key == "east"])
    return float(entry[key])
