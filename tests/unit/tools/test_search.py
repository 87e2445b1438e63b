"""Search tools on small corpora, on the released search cache, and through the rollouts' tool runner."""

import copy
import json
import multiprocessing
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console
from transformers.utils import get_json_schema

from appo.data.rows import DataError
from appo.tools import ToolError
from appo.tools.runner import ToolRunner
from appo.tools.search import CachedSearch, Limits, LocalSearch, Page, corpus_from_cache
from appo.tools.search import bm25 as search
from appo.tools.search.pages import show_pages
from appo.tools.search.words import words

REAL_CACHE = Path(__file__).parents[4] / "shared/data/rl/search_cache.json"
needs_real_cache = pytest.mark.skipif(
    not REAL_CACHE.is_file(), reason=f"the released search cache is not {REAL_CACHE}"
)

PAGES = [
    Page("Accra is the capital of Ghana.", "Accra"),
    Page("Maurice Yaméogo was the first president of Upper Volta.", "Maurice Yaméogo"),
    Page("加纳的首都是阿克拉。", "加纳"),
    Page("Ghana is a country; Ghana lies in West Africa.", "Ghana"),
]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def quiet():
    return Console(file=open(os.devnull, "w"))


def local(corpus, tmp_path, **options):
    return LocalSearch(corpus, tmp_path / "indices", console=quiet(), **options)


def indices(tmp_path):
    return sorted(path.name for path in (tmp_path / "indices").iterdir() if not path.name.startswith("."))


def test_pages_that_share_words_come_best_first(tmp_path):
    found = local(PAGES, tmp_path)
    assert found.search("What is the capital of Ghana?") == (
        "Page 1: Accra\nAccra is the capital of Ghana.\n\n"
        "Page 2: Ghana\nGhana is a country; Ghana lies in West Africa."
    )
    assert found.find("yameogo's") == [PAGES[1]]
    assert found.find("首都")[0] == PAGES[2]
    assert len(found) == 4


def test_a_query_without_a_known_word_has_no_result(tmp_path):
    for query in ("zebra", "of the", "?!", "''"):
        assert local(PAGES, tmp_path).search(query) == "No search results found."


def test_ties_keep_the_order_of_the_corpus(tmp_path):
    pages = [Page(f"same words {mark}") for mark in "abcdefghijkl"]
    assert local(pages, tmp_path, limits=Limits(top_k=12)).find("same") == pages


def test_words_ignore_case_accents_possessives_and_stop_words():
    assert words("The Élan of O'Connor's, and C++ in 2012") == ["elan", "o", "connor", "c", "2012"]
    assert words("iPhone手机 x") == ["iphone", "手", "机", "手机", "x"]


def test_a_corpus_file_may_use_the_usual_names(tmp_path):
    rows = [
        {"title": "Accra", "text": "It is a capital."},
        {"id": "7", "contents": '"Lagos"\nIt is a city.'},
        {"body": "A text alone, with a city."},
    ]
    expected = [Page("It is a city.", "Lagos"), Page("A text alone, with a city.")]
    assert local(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path).find("city") == expected
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:1]), tmp_path / "b.parquet")
    assert local(tmp_path / "b.parquet", tmp_path).find("capital") == [Page("It is a capital.", "Accra")]


def test_bad_rows_are_named_and_nothing_is_kept_of_the_index(tmp_path):
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"text": "good"}, {"title": "x"}, {"text": "y", "title": 3}, {"text": " "}]
    )
    with pytest.raises(DataError, match=r"a.jsonl: 3 rows .*line 2, line 4: no text.*; line 3: its title is no text"):
        local(path, tmp_path)
    assert indices(tmp_path) == []
    with pytest.raises(DataError, match="there is no file"):
        local(tmp_path / "none.jsonl", tmp_path)
    with pytest.raises(DataError, match="no page with a word"):
        local([Page("?")], tmp_path)


def test_an_index_is_opened_again_until_the_corpus_changes(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "old city"}])
    assert local(path, tmp_path).find("city") == [Page("old city")]
    before = indices(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("appo.tools.search.bm25_index.build", lambda *_: pytest.fail("built again"))
        assert local(path, tmp_path).find("city") == [Page("old city")]
    write_jsonl(path, [{"text": "new city"}])
    assert local(path, tmp_path).find("city") == [Page("new city")]
    assert len(indices(tmp_path)) == 2 and before[0] in indices(tmp_path)
    local(PAGES, tmp_path)
    assert local(PAGES[:1], tmp_path).find("ghana") == PAGES[:1]


def test_a_corpus_that_changes_while_it_is_indexed_is_refused(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    real = search.read_rows

    def read_and_change(*arguments):
        yield from real(*arguments)
        path.write_text("")

    monkeypatch.setattr(search, "read_rows", read_and_change)
    with pytest.raises(DataError, match="changed while it was indexed"):
        local(path, tmp_path)


def test_what_a_killed_build_left_does_not_matter(tmp_path):
    local(PAGES, tmp_path)
    (name,) = indices(tmp_path)
    (tmp_path / "indices" / name).rename(tmp_path / "indices" / f".{name}.building")
    (tmp_path / "indices" / f".{name}.building" / "pages.npy").write_bytes(b"half")
    assert local(PAGES, tmp_path).find("accra") == PAGES[:1]
    assert indices(tmp_path) == [name]


def _search_in_process(tmp_path, barrier, results):
    barrier.wait()
    results.put(local(tmp_path / "a.jsonl", tmp_path).search("city 7"))


def test_processes_that_start_at_once_build_one_index(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"city {number}"} for number in range(2000)])
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_search_in_process, args=(tmp_path, barrier, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    texts = {results.get(timeout=600) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(texts) == 1 and texts.pop().startswith("Page 1: city 7\n\nPage 2: ")
    assert len(indices(tmp_path)) == 1
    assert not list((tmp_path / "indices").glob("*.building"))


def test_progress_is_shown_while_indexing(tmp_path):
    with (tmp_path / "log").open("w") as log:
        LocalSearch(PAGES, tmp_path / "indices", console=Console(file=log, force_terminal=True, width=100))
    assert "4/4" in (tmp_path / "log").read_text()


def test_long_pages_and_long_results_are_cut_with_a_note():
    limits = Limits(top_k=3, page_chars=60, max_chars=175)
    shown = show_pages([Page("x" * 100, "Title"), *[Page("y" * 50)] * 3], limits)
    first, second, third = shown.split("\n\n")
    assert first == f"Page 1: Title\n{'x' * 29} ... [71 characters cut]"
    assert second == f"Page 2: {'y' * 50}"
    assert third == f"Page 3: {'y' * 13} ... [37 characters cut]"
    assert len(show_pages([Page("z" * 9000, "t" * 9000)] * 20, Limits())) <= 8192


def test_ten_full_pages_fit_the_default_limits():
    shown = show_pages([Page("z" * 800)] * 12, Limits())
    assert "cut" not in shown and "Page 10: z" in shown and "Page 11" not in shown


def test_blank_lines_only_separate_pages_and_lone_surrogates_go():
    assert show_pages([Page("a\n\n \nb\ud800"), Page("c")], Limits()) == "Page 1: a\nb?\n\nPage 2: c"


@pytest.mark.parametrize(("query", "problem"), [(" \n\x00", "empty"), ("a" * 501, "501 characters"), (7, "a text")])
def test_a_query_that_makes_no_sense_is_an_error_for_the_policy(tmp_path, query, problem):
    outcome = ToolRunner().submit({"search": local(PAGES, tmp_path).search}, "search", {"query": query}).result()
    assert outcome.error == "ToolError"
    assert outcome.text.startswith("error: the query") and problem in outcome.text


def test_the_method_is_a_documented_tool_and_a_deep_copy_is_the_same(tmp_path):
    found = local(PAGES, tmp_path)
    schema = get_json_schema(found.search)["function"]
    assert schema["name"] == "search" and schema["description"].startswith("Searches for pages")
    assert list(schema["parameters"]["properties"]) == schema["parameters"]["required"] == ["query"]
    assert copy.deepcopy(found) is found
    assert ToolRunner().submit({"search": found.search}, "search", "Accra").result().text.startswith("Page 1: Accra")


def test_threads_get_the_pages_they_asked_for(tmp_path):
    found = local([Page(f"city{number} " * (number % 7 + 1)) for number in range(300)], tmp_path)
    runner = ToolRunner(max_workers=16)
    calls = [runner.submit({"search": found.search}, "search", f"city{number}") for number in range(300)]
    for number, call in enumerate(calls):
        assert call.result().text == f"Page 1: {f'city{number} ' * (number % 7 + 1)}".strip()


@pytest.mark.parametrize(("name", "value"), [("top_k", 0), ("page_chars", 10), ("max_chars", -1), ("query_chars", 0)])
def test_limits_without_room_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        Limits(**{name: value})


CACHE = {
    "search query: Who leads  Ghana?": "Page 1: The president leads.\nPage 2: See: Page 7: of it.",
    "capital of Ghana": "Page 1: Accra. \nPage 2: the president  leads.",
    "nothing": "No search results found.",
}


def test_recorded_queries_are_answered_whatever_their_case_and_spacing(tmp_path):
    path = tmp_path / "cache.json"
    path.write_text(json.dumps(CACHE))
    cached = CachedSearch(path)
    assert cached.search("who leads ghana?") == "Page 1: The president leads.\n\nPage 2: See: Page 7: of it."
    assert cached.search("Search query:  CAPITAL of\tGhana").startswith("Page 1: Accra.\n\n")
    assert cached.search("nothing") == cached.search("other") == "No search results found."
    assert len(cached) == 2
    fallback = local(PAGES, tmp_path)
    assert CachedSearch(path, fallback).search("other country").startswith("Page 1: Ghana")
    short = CachedSearch(path, fallback, limits=Limits(top_k=1))
    assert short.search("capital of ghana") == "Page 1: Accra."


def test_the_corpus_of_a_cache_has_each_page_once(tmp_path):
    path = tmp_path / "cache.json"
    path.write_text(json.dumps(CACHE))
    assert [page.text for page in corpus_from_cache(path)] == ["The president leads.", "See: Page 7: of it.", "Accra."]


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 1}', None])
def test_a_file_that_is_no_search_cache_is_named(tmp_path, content):
    path = tmp_path / "cache.json"
    if content:
        path.write_text(content)
    with pytest.raises(DataError, match=r"cache\.json"):
        corpus_from_cache(path)


@needs_real_cache
def test_the_released_cache_as_recorded_answers_and_as_a_corpus(tmp_path):
    pages = corpus_from_cache(REAL_CACHE)
    cached = CachedSearch(REAL_CACHE, local(pages, tmp_path))
    assert len(pages) == 8294 and len(cached) == 996
    recorded = cached.search("what NATIONALITY was Yuri Ozerov and John Cromwell?")
    assert recorded.startswith("Page 1: Yuriy Ozerov was born on 26 January 1921 in Moscow")
    assert "Campfire Tales" in cached.search("film Campfire Tales with Amy Smart")
    assert all("Ozerov" in page.text for page in cached.find("Ozerov"))


def test_the_command_prints_pages_or_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a city"}])
    search.main([str(path), "city"])
    assert capsys.readouterr().out == "Page 1: a city\n"
    for arguments in ([], [str(path), " "], [str(tmp_path / "b.jsonl"), "city"]):
        with pytest.raises(SystemExit):
            search.main(arguments)


def test_an_error_is_a_tool_error():
    with pytest.raises(ToolError):
        search.Search.search(type("One", (search.Search,), {"limits": Limits()})(), "")
