"""A search named by one text, as recipes and flags write it: `KIND:PLACE`.

    cache:FILE           the recorded results of a search cache; other queries find nothing
    corpus:FILE          BM25 over a .jsonl, .json or .parquet file with a page per row
    pages:FILE           BM25 over the pages of a search cache
    retrieval:URL        Search-R1's retrieval server
    searxng:URL          SearXNG
    serper               Serper, or serper:URL; needs SERPER_API_KEY in the environment

Left out on purpose: combinations of searches, such as a cache with a fallback; write those in Python
(`CachedSearch(path, fallback=..)`).
"""

from typing import Any

from appo.errors import UserError
from appo.tools.search.bm25 import CachedSearch, LocalSearch, corpus_from_cache
from appo.tools.search.http import HTTPSearch
from appo.tools.search.pages import Limits, Search

FILE_KINDS = ("cache", "corpus", "pages")
SERVER_KINDS = ("retrieval", "searxng", "serper")


def split_spec(spec: str) -> tuple[str, str]:
    """Kind and place of a search's text; the place of `serper` may be empty.

    Raises:
        ValueError: for an unknown kind, or one without its place.
    """
    kind, _, place = spec.partition(":")
    if kind not in (*FILE_KINDS, *SERVER_KINDS):
        forms = [f"{name}:FILE" for name in FILE_KINDS] + [f"{name}:URL" for name in SERVER_KINDS[:2]]
        raise UserError(f"search = {spec!r} must read {', '.join(forms)} or serper.")
    if not place and kind != "serper":
        what = "FILE" if kind in FILE_KINDS else "URL"
        raise UserError(f"search = {spec!r} names no {what.lower()}; write {kind}:{what}.")
    return kind, place


def open_search(spec: str, **options: Any) -> Search:
    """The search that a text names.

    Args:
        spec: As in the module's docstring.
        options: Further arguments of `CachedSearch`, `LocalSearch` or `HTTPSearch`, for example `cache` (a file) and
            `requests_per_second` for a server, `index_dir` for a corpus; `limits` also as a mapping.

    Raises:
        ValueError: for a text that names no search, a file that cannot be read, an address or key that cannot be
            used, and an option that the search does not have, or of another type.
    """
    kind, place = split_spec(spec)
    try:
        if isinstance(options.get("limits"), dict):
            options["limits"] = Limits(**options["limits"])
        if kind == "cache":
            return CachedSearch(place, **options)
        if kind in FILE_KINDS:
            return LocalSearch(corpus_from_cache(place) if kind == "pages" else place, **options)
        return HTTPSearch(kind, place or None, **options)
    except TypeError as error:
        if "keyword argument" in str(error):
            raise UserError(f"search = {spec!r}: {str(error).split(')', 1)[-1].strip()}.") from None
        raise UserError(f"search = {spec!r}: an option has the wrong type ({error}).") from None
