"""Clients that hang, die, repeat, rewrite, flood and speak nonsense: each gets an error of the API's form, and its
neighbour writes the tokens that it would have written alone."""

import copy
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import openai
import pytest
from scripted_model import save_scripted
from serve_parts import make_endpoint, serving
from transformers import AutoModelForCausalLM, AutoTokenizer

from appo.serve.bounds import Bounds

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n' }}{% endif %}"
)
ENDLESS = {"\n": ["a", "b"], "a": ["a", "b"], "b": ["a", "b"]}  # letters at random, without end
HELLO = [{"role": "user", "content": "Hello"}]
LONG = 3000
BOUNDS = Bounds(body_bytes=1024 * 1024, body_seconds=0.5, seconds=20.0, requests_per_key=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = save_scripted(tmp_path_factory.mktemp("endless"), ENDLESS, template=TEMPLATE)
    return AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)


@contextmanager
def serve(model, bounds=BOUNDS, **options):
    endpoint = make_endpoint(*model, bounds=bounds, **options)
    with serving(endpoint) as url:
        yield url, endpoint


def body(tokens=20, **fields):
    return {"model": "policy", "messages": HELLO, "max_tokens": tokens, "return_token_ids": True, **fields}


def post(url, key, **fields):
    return httpx.post(f"{url}/k/{key}/v1/chat/completions", json=body(**fields), timeout=60)


def neighbour(url):
    """Two turns of a client that behaves; token ids."""
    first = post(url, "neighbour", tokens=200, seed=1).json()["choices"][0]
    messages = [*HELLO, first["message"], *HELLO]
    second = post(url, "neighbour", tokens=200, seed=2, messages=messages).json()["choices"][0]
    return first["token_ids"], second["token_ids"]


@pytest.fixture(scope="module")
def alone(model):
    with serve(model) as (url, _):
        return neighbour(url)


@contextmanager
def connection(url, head, text=b""):
    """A connection of its own, on which these bytes were sent."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as opened:
        opened.sendall(head.replace(b"HOST", host.encode()) + text)
        yield opened


def head(length, key="odd"):
    return (
        f"POST /k/{key}/v1/chat/completions HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def answer_on(opened):
    """Status and body of the response on a connection."""
    received = b""
    while chunk := opened.recv(65536):
        received += chunk
    top, _, text = received.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(text)


def in_form(status, found):
    """The status, where the body is an error of the API's form."""
    assert set(found) == {"error"} and set(found["error"]) == {"message", "type", "param", "code"}
    assert found["error"]["message"]
    return status


def hangs_while_it_sends(url, endpoint):
    with connection(url, head(1000), b'{"model": ') as opened:
        return in_form(*answer_on(opened))


def sends_ten_megabytes(url, endpoint):
    text = json.dumps(body(messages=[{"role": "user", "content": "x" * 10_000_000}]))
    with pytest.raises(openai.APIStatusError) as caught:
        openai.OpenAI(base_url=f"{url}/k/odd/v1", api_key="x", max_retries=0).post(
            "/chat/completions", cast_to=object, body=json.loads(text)
        )
    return in_form(caught.value.status_code, {"error": caught.value.body})


def dies_while_it_waits(url, endpoint):
    text = json.dumps(body(LONG)).encode()
    with connection(url, head(len(text)), text):
        time.sleep(0.1)
    return None


def dies_in_mid_stream(url, endpoint):
    client = openai.OpenAI(base_url=f"{url}/k/odd/v1", api_key="x")
    stream = client.chat.completions.create(model="policy", messages=HELLO, max_tokens=LONG, stream=True)
    next(iter(stream)), next(iter(stream))
    stream.close()
    client.close()
    return None


def hangs_while_it_reads(url, endpoint):
    text = json.dumps(body(LONG, stream=True)).encode()
    with connection(url, head(len(text)), text) as opened:
        opened.recv(10)
        assert post(url, "another").status_code == 200  # meanwhile others are served
    return None


def speaks_no_json(url, endpoint):
    answer = httpx.post(f"{url}/k/odd/v1/chat/completions", content=b"GET me an answer")
    return in_form(answer.status_code, answer.json())


def speaks_no_http(url, endpoint):
    with connection(url, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n") as opened:
        return int(opened.recv(65536).split()[1])


def wrong(**fields):
    def send(url, endpoint):
        answer = post(url, "odd", **fields)
        return in_form(answer.status_code, answer.json())

    return send


def sends_nested_tools(url, endpoint):
    for depth in (900, 100_000):
        nested = "[" * depth + "]" * depth
        tool = f'{{"type": "function", "function": {{"name": "f", "parameters": {{"x": {nested}}}}}}}'
        text = json.dumps(body())[:-1] + f', "tools": [{tool}]}}'
        answer = httpx.post(f"{url}/k/odd/v1/chat/completions", content=text, timeout=60)
        assert in_form(answer.status_code, answer.json()) == 400
    return 400


def repeats_a_request(url, endpoint):
    answers = [post(url, "odd") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    return endpoint.keys.take("odd").book.counts["repeated"]


def rewrites_its_history(url, endpoint):
    post(url, "odd")
    told = [*HELLO, {"role": "assistant", "content": "I said something else"}, *HELLO]
    assert post(url, "odd", messages=told).status_code == 200
    return endpoint.keys.take("odd").book.counts["rewritten"]


def floods(url, endpoint):
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda n: post(url, "odd", tokens=60), range(48)))
    assert {answer.status_code for answer in answers} == {200, 429}
    return in_form(*next((one.status_code, one.json()) for one in answers if one.status_code == 429))


FAULTS = [
    (hangs_while_it_sends, 408),
    (hangs_while_it_reads, None),
    (dies_while_it_waits, None),
    (dies_in_mid_stream, None),
    (repeats_a_request, 2),  # counted
    (rewrites_its_history, 1),  # counted
    (sends_ten_megabytes, 413),
    (speaks_no_json, 400),
    (speaks_no_http, 400),
    (wrong(messages="Hello"), 400),
    (wrong(n=2), 400),
    (wrong(model="gpt-5"), 404),
    (wrong(temperature=-1), 400),
    (wrong(messages=[{"role": "user", "content": "x" * 5000}]), 400),  # longer than the context
    (sends_nested_tools, 400),
    (floods, 429),
]


@pytest.mark.parametrize(("fault", "expected"), FAULTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_fault_is_answered_and_harms_no_neighbour(model, alone, fault, expected):
    with serve(model) as (url, endpoint), ThreadPoolExecutor(1) as pool:
        happened = pool.submit(fault, url, endpoint)
        beside = [neighbour(url)]
        while not happened.done():
            beside.append(neighbour(url))
        assert happened.result() == expected
        assert beside == [alone] * len(beside)
        deadline = time.monotonic() + 30
        while endpoint.keys.open_requests and time.monotonic() < deadline:
            time.sleep(0.01)
        assert endpoint.keys.open_requests == 0
        assert endpoint.thread.call(lambda engine: engine.busy).result(30) is False
        assert endpoint.thread.failures == 0


def test_an_answer_that_takes_too_long_is_408_and_its_sequence_is_closed(model):
    with serve(model, Bounds(seconds=0.2)) as (url, endpoint):
        answer = post(url, "slow", tokens=LONG)
        assert in_form(answer.status_code, answer.json()) == 408
        assert endpoint.thread.call(lambda engine: engine.busy).result(30) is False
        assert not endpoint.keys.take("slow").book.turns


def test_an_error_within_a_stream_is_an_event_that_the_client_raises(model):
    with serve(model, Bounds(seconds=0.2)) as (url, _):
        client = openai.OpenAI(base_url=f"{url}/k/slow/v1", api_key="x", max_retries=0)
        stream = client.chat.completions.create(model="policy", messages=HELLO, max_tokens=LONG, stream=True)
        with pytest.raises(openai.APIError, match=r"took more than 0\.2 seconds"):
            list(stream)


def test_a_conversation_that_the_template_refuses_is_400(model):
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}" + TEMPLATE
    network, tokenizer = model
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = strict
    with serve((network, tokenizer)) as (url, _):
        assert post(url, "good").status_code == 200
        answer = post(url, "odd", messages=[{"role": "assistant", "content": "I begin"}])
        assert in_form(answer.status_code, answer.json()) == 400
        assert "begin with the user" in answer.json()["error"]["message"]


def test_a_key_that_a_training_has_not_opened_is_401(model):
    with serve(model, anyone=False) as (url, endpoint):
        endpoint.keys.open("known")
        assert post(url, "known").status_code == 200
        answer = post(url, "unknown")
        assert in_form(answer.status_code, answer.json()) == 401


def test_whoever_closes_an_endpoint_ends_what_is_open(model):
    with ThreadPoolExecutor(1) as pool, serve(model) as (url, endpoint):
        waiting = pool.submit(post, url, "odd", tokens=LONG)
        while not endpoint.keys.open_requests:
            time.sleep(0.01)
        endpoint.thread.close()
        answer = waiting.result(30)
        assert in_form(answer.status_code, answer.json()) == 500
        assert httpx.get(f"{url}/health").status_code == 503
