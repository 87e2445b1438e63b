"""A judge behind a real server: what it is asked, and every way in which it can fail to answer."""

import sys
import threading

import pytest
from judge_server import JudgeServer

from appo.evaluation.judge import Judge, judge_prompt, read_verdict

SECRET = "sk-0123456789"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = JudgeServer()
    yield server
    server.close()


def make(server, tmp_path, path="/v1", **options):
    return Judge(server.url + path, "big", tmp_path / "judge.sqlite", **{"backoff": 0.01, **options})


def test_the_request_is_openais(server, tmp_path):
    prompt = judge_prompt("What is 1 + 1?", ["2", "two"], "2", "")
    verdict = make(server, tmp_path).verdicts([prompt])[prompt]
    assert verdict.correct is True and verdict.problem is None
    (request,) = server.requests
    assert request["body"] == {"model": "big", "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    assert "Authorization" not in request["headers"]


def test_the_key_is_sent_and_kept_nowhere(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server.failures = [401]
    caplog.set_level(0)
    judge = make(server, tmp_path)
    with pytest.raises(ValueError) as error:
        judge.check()
    judge.verdicts(["a"])
    assert [request["headers"]["Authorization"] for request in server.requests] == [f"Bearer {SECRET}"] * 2
    assert SECRET not in str(error.value) + caplog.text + str(vars(judge))
    assert all(SECRET.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_key_that_cannot_be_sent_is_not_shown(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u00e4bc")
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds characters that no key has") as error:
        make(server, tmp_path)
    assert "bc" not in str(error.value)


def test_a_key_goes_to_no_other_server(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    other = JudgeServer()
    server.failures = [(302, {"Location": f"{other.url}/v1/chat/completions"})]
    verdict = make(server, tmp_path).verdicts(["a"])["a"]
    other.close()
    assert verdict.problem == "the judge failed: the server answered 302 Found" and not other.requests


def test_a_proxy_that_cannot_be_used_is_said_without_showing_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "nonsense://user:secret@host")
    with pytest.raises(ValueError, match="cannot be used; write http://host:port") as error:
        Judge("http://host/v1", "big", tmp_path / "judge.sqlite")
    assert "secret" not in str(error.value)


def test_the_missing_client_is_named_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match=r"^judge_url needs the package openai; run `pip install 'appo\[judge\]'`\.$"):
        Judge("http://host/v1", "big", tmp_path / "judge.sqlite")


def test_many_are_asked_at_once(server, tmp_path):
    barrier = threading.Barrier(6, timeout=600)
    server.before = barrier.wait  # nobody gets an answer before six have asked
    found = make(server, tmp_path, concurrency=6).verdicts([f"{n}" for n in range(12)])
    assert len(found) == 12 and all(verdict.correct for verdict in found.values())


def test_verdicts_are_kept_by_model_and_prompt(server, tmp_path):
    make(server, tmp_path).verdicts(["a", "b", "a"])
    assert len(server.requests) == 2
    seen = []
    found = make(server, tmp_path).verdicts(["a", "b"], lambda: seen.append(1))
    assert found["a"].correct is True and found["a"].reply == "The same.\nVerdict: correct"
    assert len(server.requests) == 2 and len(seen) == 2
    Judge(server.url + "/v1", "bigger", tmp_path / "judge.sqlite").verdicts(["a"])
    assert len(server.requests) == 3


def test_a_busy_or_broken_server_is_asked_again(server, tmp_path):
    server.failures = [429, 500, 503]
    assert make(server, tmp_path).verdicts(["a"])["a"].correct is True
    assert len(server.requests) == 4


def test_a_server_that_stays_broken_gives_no_verdict(server, tmp_path):
    server.failures = [500] * 6
    judge = make(server, tmp_path)
    verdict = judge.verdicts(["a"])["a"]
    assert verdict.correct is None
    assert verdict.problem == "the judge failed: the server answered 500 Internal Server Error (6 tries)"
    assert judge.verdicts(["a"])["a"].correct is True  # a failure is not kept


def test_a_slow_server_gives_no_verdict(server, tmp_path):
    gate = threading.Event()
    server.before = lambda: gate.wait(120)
    verdict = make(server, tmp_path, timeout=0.1).verdicts(["a"])["a"]
    gate.set()
    assert verdict.correct is None and "did not answer in time" in verdict.problem


def test_a_reply_without_a_verdict_is_asked_for_once_more(server, tmp_path):
    replies = ["Hm.", "Verdict: incorrect"]
    server.reply = lambda prompt: replies.pop(0)
    assert make(server, tmp_path).verdicts(["a"])["a"].correct is False
    assert len(server.requests) == 2


def test_nonsense_is_no_verdict_and_not_kept(server, tmp_path):
    server.reply = lambda prompt: "Verdict: correct or incorrect, who knows"
    judge = make(server, tmp_path)
    verdict = judge.verdicts(["a"])["a"]
    assert verdict.correct is None and verdict.problem == "the judge's reply holds no verdict"
    assert len(server.requests) == 2
    server.reply = lambda prompt: "Verdict: correct"
    assert judge.verdicts(["a"])["a"].correct is True


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"choices": []}', b'{"error": {"message": "no"}}', b"\xff"])
def test_what_is_no_chat_completion_is_said(server, tmp_path, body):
    server.failures = [body] * 2
    verdict = make(server, tmp_path).verdicts(["a"])["a"]
    assert verdict.correct is None and verdict.problem == "the server's answer is no chat completion"


def test_the_check_finds_the_v1_of_an_address(server, tmp_path):
    judge = make(server, tmp_path, path="")
    judge.check()
    assert judge.verdicts(["a"])["a"].correct is True


def test_an_endpoint_without_v1_is_taken_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = JudgeServer(base="")
    make(server, tmp_path, path="/").check()
    server.close()
    assert len(server.requests) == 2  # a right and a wrong answer


@pytest.mark.parametrize(
    ("reply", "asked"),
    [
        ("Verdict: correct", "whether 3 answers 1 + 1, it must end with 'Verdict: incorrect', but wrote 'Verdict: co"),
        ("Verdict: incorrect", "whether 2 answers 1 + 1, it must end with 'Verdict: correct', but wrote 'Verdict: in"),
        ("I think so.", "whether 2 answers 1 + 1, it must end with 'Verdict: correct', but wrote 'I think so.'"),
    ],
)
def test_a_judge_that_cannot_tell_right_from_wrong_is_refused(server, tmp_path, reply, asked):
    server.reply, server.honest = lambda prompt: reply, False
    with pytest.raises(ValueError, match=r"^judge_model = 'big' cannot judge: asked ") as error:
        make(server, tmp_path).check()
    assert asked in str(error.value) and "\n" not in str(error.value)


def test_an_address_is_tried_with_v1_only_if_it_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = JudgeServer(base="")
    server.failures = [401]
    with pytest.raises(ValueError, match="the server answered 401"):  # not the 404 of /v1
        make(server, tmp_path, path="").check()
    server.close()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://user:secret@host/v1", "http://host/v1?key=x"])
def test_addresses_that_cannot_be_used(tmp_path, url):
    with pytest.raises(ValueError, match="judge_url") as error:
        Judge(url, "big", tmp_path / "judge.sqlite")
    assert "secret" not in str(error.value) and "key=x" not in str(error.value)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Both are 2.\nVerdict: correct", True),
        ("**Verdict:** Incorrect.\n", False),
        ("VERDICT: CORRECT", True),
        ("Verdict: incorrect\nNo, wait.\nVerdict: correct", True),
        ("Verdict: correct\nNo, wait, it is wrong.", None),
        ("Verdict: correct|incorrect", None),
        ("The verdict: it is correct", None),
        ("Verdict: not correct", None),
        ("correct", None),
        ("", None),
    ],
)
def test_verdicts_are_read_from_the_last_line(reply, verdict):
    assert read_verdict(reply) is verdict


def test_the_prompt_holds_the_answer_or_the_end_of_the_text():
    prompt = judge_prompt("Who {was} it?", ["Ann", "A. B."], "Anna", "")
    assert "Who {was} it?" in prompt and "- Ann\n- A. B." in prompt and "The answer:\n<<<\nAnna\n>>>" in prompt
    prompt = judge_prompt("Who?", ["Ann"], None, "x" * 5000 + " it was Ann")
    assert "no answer is marked:\n<<<\nxxx" in prompt and "it was Ann\n>>>" in prompt
    assert len(prompt) < 3000
    assert "(nothing was written)" in judge_prompt("Who?", ["Ann"], None, "")


def test_a_prompt_can_be_encoded():
    judge_prompt("Who?", ["Ann"], "\ud800", "").encode()
