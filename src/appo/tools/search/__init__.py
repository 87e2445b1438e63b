"""Search: BM25 over a corpus of yours, pages found before, retrieval servers."""

from appo.tools.search.bm25 import CachedSearch, LocalSearch, corpus_from_cache
from appo.tools.search.http import HTTPSearch
from appo.tools.search.pages import Limits, Page, Search
from appo.tools.search.source import open_search

__all__ = ["CachedSearch", "HTTPSearch", "Limits", "LocalSearch", "Page", "Search", "corpus_from_cache", "open_search"]
