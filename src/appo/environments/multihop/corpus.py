"""The pages, in two forms, and their search: BM25 of `appo.tools`.

For a model that learns its words from nothing a page has a title and a text of two words each (`northernmost Kenya`,
then `Kenya Somalia`), so that an entity is one word and the last word of a page is what was asked for:

    words_corpus().search.search("capital Kenya")           # Page 1: capital Kenya \\n Kenya Nairobi

For a model that reads English there are up to three short pages on a country, one on each capital, currency and
language:

    chat_corpus().search.search("capital of Kenya")         # Page 1: Nairobi \\n Nairobi is the capital of ..

Either way the search is a real one: it compares words, and it answers a query that makes no sense, too.

Left out on purpose: facts that a search for them does not find (`Corpus.world` has the others), so that every question
can be answered.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from appo.environments.multihop.world import NEIGHBOURS, Fact, World, load_world
from appo.tools.search.bm25 import Limits, LocalSearch, Page

COUNTRIES_IN_WORDS = 60
# How a property is asked for, where that is not its own name.
PHRASES = {
    **{name: f"{name} neighbour" for name in NEIGHBOURS},
    "populous": "most populous neighbour",
    "empty": "least populous neighbour",
}


@dataclass(frozen=True)
class Corpus:
    """Pages and what they state.

    Args:
        world: The facts that a query finds.
        search: A search that shows the first page alone.
        stated: The facts on each page.
        query: How a property of an entity is asked for.
    """

    world: World
    search: LocalSearch
    stated: dict[Page, tuple[Fact, ...]]
    query: Callable[[str, str], str]

    def found(self, query: str) -> list[Fact]:
        """The facts on the pages that a query finds; none where it finds none."""
        return [fact for page in self.search.find(query) for fact in self.stated[page]]


def words_query(name: str, entity: str) -> str:
    """`capital Kenya`"""
    return f"{name} {entity}"


def chat_query(name: str, entity: str) -> str:
    """`capital of Kenya`, `northernmost neighbour of Kenya`"""
    return f"{PHRASES.get(name, name)} of {entity}"


@cache
def words_corpus() -> Corpus:
    """Of 60 countries that border on each other; entities are words."""
    world = _in_words(load_world().densest(COUNTRIES_IN_WORDS))
    facts = [fact for entity in world.kinds for fact in world.about(entity)]
    # The entity stands twice on its own page, so that pages on others that mention it come behind.
    pages = {fact: Page(f"{fact.entity} {fact.value}", f"{fact.name} {fact.entity}") for fact in facts}
    return _corpus(world, {page: (fact,) for fact, page in pages.items()}, words_query)


@cache
def chat_corpus() -> Corpus:
    """Of all countries, in English."""
    world = load_world()
    stated: dict[Page, tuple[Fact, ...]] = {}
    for entity, kind in world.kinds.items():
        stated.update(_country_pages(world, entity) if kind == "country" else _other_page(world, entity, kind))
    return _corpus(world, stated, chat_query)


def _corpus(world: World, stated: dict[Page, tuple[Fact, ...]], query: Callable[[str, str], str]) -> Corpus:
    """With the facts that are found."""
    made = Corpus(world, LocalSearch(list(stated), limits=Limits(top_k=1)), stated, query)
    facts = [fact for entity in world.kinds for fact in world.about(entity)]
    kept = {
        (fact.entity, fact.name): fact.value for fact in facts if fact in made.found(query(fact.name, fact.entity))
    }
    return Corpus(World(world.kinds, kept), made.search, stated, query)


def _in_words(world: World) -> World:
    def word(name: str) -> str:
        return name.replace(" ", "_")

    facts = {(word(entity), name): word(value) for (entity, name), value in world.facts.items()}
    return World({word(name): kind for name, kind in world.kinds.items()}, facts)


def _country_pages(world: World, country: str) -> dict[Page, tuple[Fact, ...]]:
    """One on the country itself, two on its neighbours where it has any."""
    about = world.about(country)
    own = [fact for fact in about if fact.name not in NEIGHBOURS]
    rest = [f"its {fact.name} is {fact.value}" for fact in own]
    pages = {Page(f"{country} is a country; {_list(rest)}.", country): tuple(own)}
    for topic, names in (("place", list(NEIGHBOURS)[:4]), ("size", list(NEIGHBOURS)[4:])):
        facts = [fact for fact in about if fact.name in names]
        if facts:
            said = [f"{PHRASES[fact.name].removesuffix(' neighbour')} {fact.value}" for fact in facts]
            pages[Page(f"{country}: {', '.join(said)}.", f"Neighbour of {country} by {topic}")] = tuple(facts)
    return pages


def _other_page(world: World, entity: str, kind: str) -> dict[Page, tuple[Fact, ...]]:
    """On a capital, currency or language; none on regions."""
    country = world.value(entity, "country")
    if country:
        both = (Fact(entity, "country", country), Fact(country, kind, entity))
        return {Page(f"{entity} is the {kind} of the country {country}.", entity): both}
    owners = [owner for (owner, name), value in world.facts.items() if name == kind and value == entity]
    if kind == "region":
        return {}
    return {Page(f"{entity} is the {kind} of more than one country, such as {' and '.join(owners[:2])}.", entity): ()}


def _list(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
