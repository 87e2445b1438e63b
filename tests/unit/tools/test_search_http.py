"""Search through a real server on this machine that plays each kind, is slow, fails, and answers nonsense."""

import json
import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from local_server import LocalServer

from appo.data.rows import DataError
from appo.tools import ToolError
from appo.tools.runner import ToolRunner
from appo.tools.search import Limits
from appo.tools.search import client as _http
from appo.tools.search import disk_cache as _disk_cache
from appo.tools.search import retries as _retries
from appo.tools.search.disk_cache import DiskCache
from appo.tools.search.http import HTTPSearch

KEY = "secret-0123456789"
FOUND = "Page 1: Accra\nThe capital."
ANSWERS = {
    "retrieval": {"result": [[{"document": {"title": "Accra", "text": "The capital."}, "score": 7.5}]]},
    "searxng": {"query": "x", "results": [{"title": "Accra", "content": "The capital.", "url": "http://a"}]},
    "serper": {"searchParameters": {}, "organic": [{"title": "Accra", "snippet": "The capital.", "link": "http://a"}]},
}


class Server(LocalServer):
    """Answers from a list of (status, headers, body), the last one again and again; remembers what it was asked.

    It waits two minutes for `gate`, which is open. With `drip` an answer takes as long: a byte now and then.
    """

    def __init__(self):
        self.answers, self.requests, self.drip = [], [], False
        self.gate = threading.Event()
        self.gate.set()
        self.closed = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                length = int(self.headers.get("Content-Length") or 0)
                sent = self.rfile.read(length).decode()
                server.requests.append((time.monotonic(), self.command, self.path, dict(self.headers), sent))
                server.gate.wait(120)
                status, headers, body = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    if server.drip:
                        for byte in body:
                            self.wfile.write(bytes([byte]))
                            server.closed.wait(0.01)
                    else:
                        self.wfile.write(body)
                except OSError:
                    pass

            do_POST = do_GET

            def log_message(self, *_):
                pass

        super().__init__(Handler)

    def will(self, *answers):
        """Each is a status, a body as JSON, or (status, headers)."""
        for answer in answers:
            if isinstance(answer, int):
                answer = (answer, {}, b"")
            elif isinstance(answer, tuple):
                answer = (*answer, b"")
            elif isinstance(answer, bytes):
                answer = (200, {}, answer)
            else:
                answer = (200, {}, json.dumps(answer).encode())
            self.answers.append(answer)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SERPER_API_KEY", KEY)
    server = Server()
    yield server
    server.gate.set()
    server.closed.set()
    server.close()


@pytest.fixture
def pauses(monkeypatch):
    """The seconds for which a client meant to sleep, and slept."""
    asked = []

    def sleep(seconds):
        asked.append(seconds)
        time.sleep(seconds)

    clock = SimpleNamespace(sleep=sleep, monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr(_retries, "time", clock)
    return asked


def make(server, kind="searxng", **options):
    return HTTPSearch(kind, server.url, **{"backoff": 0.01, "timeout": 60.0, "patience": 600.0, **options})


@pytest.mark.parametrize("kind", list(ANSWERS))
def test_each_kind_of_server_is_asked_in_its_way(server, kind):
    server.will(ANSWERS[kind])
    assert make(server, kind, limits=Limits(top_k=3)).search("capital of  Ghana?") == FOUND
    ((_, method, path, headers, sent),) = server.requests
    if kind == "searxng":
        assert method == "GET" and urlsplit(path).path == "/search"
        assert parse_qs(urlsplit(path).query) == {"q": ["capital of Ghana?"], "format": ["json"]}
    else:
        expected = {"queries": ["capital of Ghana?"], "topk": 3, "return_scores": True}
        expected = expected if kind == "retrieval" else {"q": "capital of Ghana?", "num": 3}
        assert method == "POST" and path == ("/retrieve" if kind == "retrieval" else "/search")
        assert json.loads(sent) == expected and headers["Content-Type"] == "application/json"
    assert (KEY in headers.values()) == (kind == "serper")


def test_a_retrieval_server_may_leave_out_scores_and_put_the_title_into_the_contents(server):
    server.will({"result": [[{"id": "7", "contents": '"Accra"\nThe capital.'}]]})
    assert make(server, "retrieval").search("x") == FOUND


def test_an_address_with_a_path_is_taken_as_it_is(server):
    server.will(ANSWERS["retrieval"])
    assert HTTPSearch("retrieval", server.url + "/v2/find/").search("x") == FOUND
    assert server.requests[0][2] == "/v2/find"


def test_snippets_may_lack_a_part_and_no_results_are_said(server):
    results = [{"title": "A", "content": None}, {"content": "b"}, {"title": "", "content": ""}, {"title": "C"}]
    server.will({"results": results}, {"results": []})
    assert make(server).search("x") == "Page 1: A\n\nPage 2: b\n\nPage 3: C"
    assert make(server).search("x") == "No search results found."


def test_a_server_that_fails_twice_is_asked_three_times_with_longer_pauses(server, pauses):
    server.will(500, 503, ANSWERS["searxng"])
    assert make(server, backoff=0.2).search("x") == FOUND
    first, second = [seconds for seconds in pauses if seconds]
    assert 0.1 <= first <= 0.3 and 0.2 <= second <= 0.6
    assert len(server.requests) == 3


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (401, 1), (404, 1), (408, 3), (429, 3), (502, 3)])
def test_only_what_may_pass_is_tried_again(server, status, tries):
    server.will(status)
    with pytest.raises(ToolError, match=f"the search failed: the server answered {status}"):
        make(server, retries=2).search("x")
    assert len(server.requests) == tries


def test_retry_after_is_respected_by_all_threads(server):
    server.will((429, {"Retry-After": "1"}), ANSWERS["searxng"])
    searching = make(server)

    def held():
        return bool(server.requests) and searching._client._retries.turns._next > server.requests[0][0] + 0.5

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(searching.search, "x")
        while not held() and not first.done():
            time.sleep(0.01)
        assert held()
        assert [first.result(), pool.submit(searching.search, "y").result()] == [FOUND, FOUND]
    assert all(request[0] - server.requests[0][0] >= 0.9 for request in server.requests[1:])


def test_a_server_that_asks_for_more_time_than_there_is_fails_at_once(server, pauses):
    for value in ("3600", formatdate(time.time() + 3600, usegmt=True), "9" * 400):
        server.answers.clear()
        server.will((429, {"Retry-After": value}))
        searching = make(server, patience=100.0)
        with pytest.raises(ToolError, match="429 Too Many Requests"):
            searching.search("x")
        # And nobody is sent to it meanwhile.
        with pytest.raises(ToolError, match="busy"):
            searching.search("y")
    assert not any(pauses)
    assert len(server.requests) == 3


def test_an_odd_retry_after_is_ignored(server):
    server.will((503, {"Retry-After": "soon"}), (503, {"Retry-After": "-5"}), ANSWERS["searxng"])
    assert make(server).search("x") == FOUND


def test_a_slow_server_is_given_up_in_time(server):
    server.gate.clear()  # it never answers
    server.will(ANSWERS["searxng"])
    with pytest.raises(ToolError, match=r"did not answer in time \(2 tries\)"):
        make(server, timeout=0.2, retries=1).search("x")


def test_a_server_that_sends_one_byte_now_and_then_is_given_up_too(server):
    server.drip = True
    server.will({"results": [{"title": "x" * 12_000}]})
    with pytest.raises(ToolError, match=r"did not answer in time|busy"):  # the latter where this machine is
        make(server, patience=1.0).search("x")


def test_an_answer_that_breaks_off_is_asked_for_again(server):
    server.answers.append((200, {"Content-Length": "1000"}, b'{"results'))
    server.will(ANSWERS["searxng"])
    assert make(server).search("x") == FOUND
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [b"<html>", b"\xff", b"", b"[" * 100_000, [], {"results": None}, {"results": ["a"]}, {"results": {"a": 1}}, 7],
)
def test_nonsense_is_an_error_that_the_policy_can_read(server, answer):
    server.will(json.dumps(answer).encode() if answer == 7 else answer)
    outcome = ToolRunner().submit({"search": make(server).search}, "search", "x").result()
    assert (outcome.text, outcome.error) == (
        "error: the search failed: the server's answer cannot be read",
        "ToolError",
    )
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [{}, {"result": []}, {"result": [[{"document": {"id": 1}}]]}, {"result": [["a"]]}])
def test_nonsense_of_a_retrieval_server(server, answer):
    server.will(answer)
    with pytest.raises(ToolError, match="cannot be read"):
        make(server, "retrieval").search("x")


ODD = [
    (None, None),
    ({}, None),
    ([], None),
    ("a text", None),
    ({"document": None, "score": 1.0}, None),
    ({"document": {"id": 1}}, None),
    ({"document": {"title": "", "text": " \n"}}, None),
    ({"document": {"title": None, "text": None}}, None),
    ({"document": {"title": True, "text": False}}, None),
    ({"document": {"title": "Kumasi"}}, "Kumasi"),
    ({"document": {"title": 1984, "text": "A novel."}}, "1984\nA novel."),
    ({"document": {"title": "Year", "text": 1984}}, "Year\n1984"),
    ({"document": {"text": ["One.", "", None, "Two."]}}, "One.\nTwo."),
    ({"document": {"document": {"title": "Kumasi", "text": "A city."}}}, "Kumasi\nA city."),
    ({"title": "Kumasi", "document": {"contents": {"text": "A city."}}}, "Kumasi\nA city."),
    ({"document": None, "text": "A city."}, "A city."),
    ({"document": "A city."}, "A city."),
    ([{"text": "A city."}, 0.5], "A city."),
    ({"text": json.loads("[" * 400 + "]" * 400)}, None),
]


@pytest.mark.parametrize(("odd", "read"), ODD)
def test_one_odd_document_does_not_void_the_others(server, odd, read):
    good = ANSWERS["retrieval"]["result"][0][0]
    server.will({"result": [[good, odd, good]]})
    searching = make(server, "retrieval")
    texts = ["Accra\nThe capital.", *([read] if read else []), "Accra\nThe capital."]
    assert searching.search("x") == "\n\n".join(f"Page {number}: {text}" for number, text in enumerate(texts, 1))
    assert searching.left_out == (read is None)


@pytest.mark.parametrize(
    ("kind", "rows", "text"), [("searxng", "results", "content"), ("serper", "organic", "snippet")]
)
def test_one_odd_result_of_a_search_engine_does_not_void_the_others(server, kind, rows, text):
    odd = [None, "a text", 7, {"title": 1984, text: 5}, {"url": "http://a"}, {text: {"text": "nested"}}]
    server.will({**ANSWERS[kind], rows: [*odd, *ANSWERS[kind][rows]]})
    searching = make(server, kind)
    assert searching.search("x") == "Page 1: 1984\n5\n\nPage 2: nested\n\nPage 3: Accra\nThe capital."
    assert searching.left_out == 4


def test_documents_that_are_left_out_make_room_for_others_and_are_said_once(server, caplog):
    good, none = ANSWERS["retrieval"]["result"][0][0], {"document": None}
    server.will({"result": [[none, none, good]]})
    searching = make(server, "retrieval", limits=Limits(top_k=1))
    for _ in range(2):
        assert searching.search("x") == FOUND
    assert searching.left_out == 4
    assert caplog.text.count("holds no text and is left out") == 1


def test_an_endless_answer_is_refused(server, monkeypatch):
    monkeypatch.setattr(_http, "MAX_BYTES", 1000)
    server.will(b"x" * 2000)
    with pytest.raises(ToolError, match="too long"):
        make(server).search("x")


def test_a_server_that_is_not_there(server):
    server.http.server_close()
    with pytest.raises(ToolError, match=r"the connection failed \(ConnectionRefusedError\) \(3 tries\)"):
        make(server, retries=2).search("x")


def test_requests_per_second_hold_across_threads(server):
    server.will(ANSWERS["searxng"])
    searching, start = make(server, requests_per_second=20), time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(searching.search, map(str, range(8)))) == {FOUND}
    assert time.monotonic() - start >= 0.35
    slow = make(server, requests_per_second=0.001, patience=100.0)
    assert slow.search("x") == FOUND
    with pytest.raises(ToolError, match="busy"):
        slow.search("y")


def test_the_key_is_in_no_message_and_goes_to_no_other_server(server, caplog):
    other = Server()
    other.will(ANSWERS["serper"])
    echo = json.dumps({"message": f"bad key {KEY}"}).encode()
    server.answers += [(403, {}, echo), (302, {"Location": other.url}, b""), (307, {"Location": other.url}, b"")]
    server.will(echo)
    searching = make(server, "serper")
    caplog.set_level(0)
    for status in ("403 Forbidden", "302 Found", "307", "cannot be read"):
        with pytest.raises(ToolError, match=status) as caught:
            searching.search("x")
        assert KEY not in str(caught.value) and caught.value.__suppress_context__
    assert KEY not in caplog.text and KEY not in repr(vars(searching)) and not other.requests
    other.http.shutdown()
    other.http.server_close()


@pytest.mark.parametrize("key", ["", "  ", "secret\nvalue", "s\u00e9cret"])
def test_a_key_that_cannot_be_sent_is_said_without_showing_it(monkeypatch, key):
    monkeypatch.setenv("SERPER_API_KEY", key)
    with pytest.raises(ValueError, match="SERPER_API_KEY") as caught:
        HTTPSearch("serper")
    assert not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "localhost:80",
        "ftp://a",
        "http://",
        "http://u:secret@a",
        "http://a?k=secret",
        "http://a:x",
        "http://a b",
    ],
)
def test_an_address_that_cannot_be_used_is_not_shown(url):
    with pytest.raises(ValueError, match="url must read") as caught:
        HTTPSearch("searxng", url)
    assert "secret" not in str(caught.value)


def test_settings_that_make_no_sense(server):
    with pytest.raises(ValueError, match="kind must be one of retrieval, searxng, serper"):
        HTTPSearch("google")
    for name, value in {"timeout": 0, "patience": -1, "requests_per_second": 0, "retries": -1, "backoff": -1}.items():
        with pytest.raises(ValueError, match=name):
            make(server, **{name: value})


def test_a_result_is_fetched_once_and_kept_for_the_next_process(server, tmp_path):
    server.will(500, ANSWERS["searxng"], {"results": []})
    for _ in range(2):
        assert make(server, cache=tmp_path / "new" / "a.sqlite").search("x") == FOUND
    assert len(server.requests) == 2
    searching = make(server, cache=tmp_path / "new" / "a.sqlite")
    for _ in range(2):
        assert searching.search("y") == "No search results found."
    other = make(server, cache=tmp_path / "new" / "a.sqlite", limits=Limits(top_k=2))
    assert other.search("x") == "No search results found."
    assert len(server.requests) == 5


def test_a_forked_process_does_not_write_into_its_parents_connections(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ports = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections

        def do_GET(self):
            ports.append(self.client_address[1])
            body = json.dumps(ANSWERS["searxng"]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = LocalServer(Handler)
    searching = make(server)
    child = multiprocessing.get_context("fork").Process(target=searching.search, args=("b",))
    assert searching.search("a") == FOUND
    child.start()
    child.join()
    assert searching.search("c") == FOUND and child.exitcode == 0
    server.close()
    parents, childs, parents_again = ports
    assert parents == parents_again != childs


def test_a_proxy_that_cannot_be_used_is_said_without_showing_it(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "nonsense://user:secret@host")
    with pytest.raises(
        ValueError, match=r"^the proxy in the environment variable .* cannot be used; write http://host:port"
    ) as caught:
        HTTPSearch("searxng", "http://localhost:1")
    assert "secret" not in str(caught.value)


def _write(path, worker, barrier):
    barrier.wait()
    cache = DiskCache(path)
    for number in range(100):
        cache.put(f"{worker} {number}", f"text {number}")
        cache.put("shared", str(worker))
        assert cache.get("shared") is not None


def test_processes_write_one_cache_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(_disk_cache, "BUSY_SECONDS", 600.0)
    path, context = tmp_path / "a.sqlite", multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    workers = [context.Process(target=_write, args=(path, worker, barrier)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    cache = DiskCache(path)
    assert all(cache.get(f"{worker} {number}") == f"text {number}" for worker in range(4) for number in range(100))


def test_a_cache_that_fails_is_warned_about_once_and_done_without(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(_disk_cache, "BUSY_SECONDS", 0.05)
    server.will(ANSWERS["searxng"])
    searching = make(server, cache=tmp_path / "a.sqlite")
    (tmp_path / "a.sqlite").write_bytes(b"this is no database, and never was one" * 10)
    assert searching.search("x") == searching.search("y") == FOUND
    assert caplog.text.count("work goes on without it") == 1
    with pytest.raises(DataError, match="cannot be used as a cache"):
        make(server, cache=tmp_path / "a.sqlite")


def test_the_last_text_of_a_key_counts(tmp_path):
    cache = DiskCache(tmp_path / "cache.sqlite")
    cache.put("key", "old")
    cache.put("key", "new")
    assert cache.get("key") == "new"
