"""What a vLLM server is asked and answers, with a server of ours in its place."""

import json
from http.server import BaseHTTPRequestHandler

import pytest
from local_server import LocalServer

from appo.engines.base import Request
from appo.engines.vllm_server import VLLMServerEngine, read_answer


class Handler(BaseHTTPRequestHandler):
    asked = []

    def do_GET(self):
        self.answer({"data": [{"id": "m", "max_model_len": 64}]})

    def do_POST(self):
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        told = {"token_id:5": -0.25, "token_id:9": -2.0}
        logprobs = {"token_logprobs": [-0.25, -1.0], "top_logprobs": [dict(reversed(told.items())), told]}
        self.answer({"choices": [{"token_ids": [5, 9], "logprobs": logprobs}], "usage": None})

    def answer(self, body):
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


@pytest.fixture
def engine():
    server = LocalServer(Handler)
    Handler.asked = []
    yield VLLMServerEngine(server.url, eos_token_ids=[9], temperature=0.7, timeout=10)
    server.close()


def written(engine):
    turns = []
    while engine.busy:
        turns += engine.step()
    return turns


def test_a_sequences_own_temperature_goes_before_the_engines_and_0_is_one(engine):
    for number, temperature in enumerate((None, 0.0, 1.5)):
        engine.start(Request(number, [1], 4, seed=1, temperature=temperature))
    written(engine)
    assert sorted(asked["temperature"] for asked in Handler.asked) == [0.0, 0.7, 1.5]


def test_the_likeliest_tokens_are_told_in_each_place_in_their_order(engine):
    engine.start(Request(0, [1], 4, seed=1, top_logprobs=2))
    engine.start(Request(1, [1], 4, seed=1, top_alternatives=1))
    first, second = sorted(written(engine), key=lambda turn: turn.id)
    assert first.top_logprobs == [[(5, -0.25), (9, -2.0)]] * 2 and first.alternatives is None
    assert second.top_logprobs is None and second.alternatives == [(5, -0.25)]
    assert sorted(asked["logprobs"] for asked in Handler.asked) == [1, 2]


def test_an_answer_without_alternatives_has_none():
    choice = {"token_ids": [5], "logprobs": {"token_logprobs": [-0.5], "top_logprobs": None}}
    answer = read_answer({"choices": [choice]})
    assert (answer.alternatives, answer.top_logprobs, answer.cached_tokens) == (None, None, None)
