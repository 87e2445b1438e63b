"""One text names any search."""

import json

import pytest

from appo.tools.search.bm25 import NO_RESULTS, CachedSearch, LocalSearch
from appo.tools.search.http import HTTPSearch
from appo.tools.search.source import open_search, split_spec


@pytest.fixture
def cache(tmp_path):
    path = tmp_path / "cache.json"
    path.write_text(json.dumps({"accra": "Page 1: Accra is in Ghana.\nPage 2: Ghana is in Africa."}))
    return path


def test_a_cache_knows_its_queries_and_its_pages_are_searched(cache, tmp_path):
    recorded, pages = open_search(f"cache:{cache}"), open_search(f"pages:{cache}", index_dir=tmp_path)
    assert isinstance(recorded, CachedSearch) and isinstance(pages, LocalSearch)
    assert recorded.search("Africa") == NO_RESULTS
    assert pages.search("Africa") == "Page 1: Ghana is in Africa."


def test_a_corpus_and_servers(tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"text": "Accra is in Ghana."}\n')
    assert len(open_search(f"corpus:{corpus}", index_dir=tmp_path)) == 1
    retrieval = open_search("retrieval:http://localhost:8000", requests_per_second=5)
    assert isinstance(retrieval, HTTPSearch)
    assert (retrieval.kind, retrieval.url) == ("retrieval", "http://localhost:8000/retrieve")
    assert open_search("searxng:http://localhost:1").kind == "searxng"
    monkeypatch.setenv("SERPER_API_KEY", "a-key")
    assert open_search("serper").url == "https://google.serper.dev/search"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("bing", "search = 'bing' must read cache:FILE"),
        ("pages:", "search = 'pages:' names no file; write pages:FILE."),
        ("searxng", "search = 'searxng' names no url; write searxng:URL."),
        ("serper", "SERPER_API_KEY is not set"),
        ("cache:none.json", "none.json cannot be read"),
        ("retrieval:localhost", "url must read"),
    ],
)
def test_what_names_no_search_is_told(monkeypatch, spec, sentence):
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    with pytest.raises(ValueError) as error:
        open_search(spec)
    assert sentence in str(error.value)


def test_limits_may_be_a_mapping(cache, tmp_path):
    search = open_search(f"pages:{cache}", index_dir=tmp_path, limits={"top_k": 1})
    assert search.search("Ghana").count("Page ") == 1
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        open_search(f"pages:{cache}", index_dir=tmp_path, limits={"top_k": 0})


def test_unknown_options_are_told(cache):
    with pytest.raises(ValueError, match="got an unexpected keyword argument 'topk'"):
        open_search(f"cache:{cache}", topk=3)


@pytest.mark.parametrize("options", [{"limits": {"top_k": "3"}}, {"timeout": "x"}])
def test_options_of_the_wrong_type_are_told(options):
    with pytest.raises(ValueError, match="search = 'searxng:http://localhost:1': an option has the wrong type"):
        open_search("searxng:http://localhost:1", **options)


def test_colons_in_a_place_stay():
    assert split_spec("retrieval:http://host:80/a:b") == ("retrieval", "http://host:80/a:b")
