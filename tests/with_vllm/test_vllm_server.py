"""A vLLM server as an engine: tokens and stops, weights by files, training and evaluation."""

import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs these")

from vllm_parts import RESULT, make_agents_trainer, make_model, make_trainer

from appo.engines.base import Request, Stop
from appo.engines.vllm_server import VLLMServerEngine, check_server
from appo.engines.weight_transfer import FileTransfer
from appo.environments import kinship
from appo.protocols.tags import TagProtocol
from appo.rollout.environments import EnvironmentPool
from appo.rollout.loop import AgentLoop, Start
from appo.rollout.types import Rollout
from appo.tools.runner import ToolRunner

CLOSE = 1e-4  # nats, in float32


@pytest.fixture(scope="module")
def policy():
    model, tokenizer = make_model()
    return model.eval(), tokenizer


@pytest.fixture
def engine(url, policy):
    model, tokenizer = policy
    engine = VLLMServerEngine(
        url, eos_token_ids=[tokenizer.eos_token_id], tokenizer=tokenizer, transfer=FileTransfer(url)
    )
    engine.load(model.named_parameters())  # other tests bring other weights
    return engine


def turns_of(engine):
    turns = {}
    while engine.busy:
        turns.update({turn.id: turn for turn in engine.step()})
    return turns


def largest_mismatch(model, context, turns):
    worst = 0.0
    for turn in turns:
        ids = context + turn.token_ids
        with torch.no_grad():
            logps = torch.log_softmax(model(torch.tensor([ids])).logits[0, len(context) - 1 : -1].float(), dim=-1)
        expected = logps.gather(1, torch.tensor(turn.token_ids)[:, None])[:, 0]
        worst = max(worst, (torch.tensor(turn.logprobs) - expected).abs().max().item())
    return worst


def test_log_probabilities_are_those_of_a_plain_forward_before_and_after_new_weights(engine, policy):
    model, tokenizer = policy
    context = tokenizer("start mother friend boss e12")["input_ids"]

    def sampled():
        for number in range(8):
            engine.start(Request(number, context, 24, number))
        turns = turns_of(engine).values()
        for number in range(8):
            engine.close(number)
        return turns

    assert largest_mismatch(model, context, sampled()) < CLOSE
    other, _ = make_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * parameter.std())
    assert largest_mismatch(other.eval(), context, sampled()) > 0.1
    engine.load(other.named_parameters())
    assert largest_mismatch(other, context, sampled()) < CLOSE


def test_alternatives_are_the_likeliest_first_tokens(engine, policy):
    model, tokenizer = policy
    context = tokenizer("start mother e12")["input_ids"]
    engine.start(Request(0, context, 4, 3, top_alternatives=3))
    (turn,) = turns_of(engine).values()
    with torch.no_grad():
        best = torch.log_softmax(model(torch.tensor([context])).logits[0, -1].float(), dim=-1).topk(3)
    assert [token for token, _ in turn.alternatives] == best.indices.tolist()
    assert [logp for _, logp in turn.alternatives] == pytest.approx(best.values.tolist(), abs=CLOSE)


def test_a_closing_tag_that_began_in_the_context_ends_the_turn_and_the_rest_is_dropped(engine, policy):
    """The server looks for its stop strings in what it wrote itself: this one it cannot see."""
    tokenizer = policy[1]
    vocabulary = tokenizer.get_vocab()
    words = sorted(word for word in vocabulary if word.isalnum())[:2]
    # Words are written with a space between them; the string is two words, of which the second one is written anew.
    stop = Stop(strings=(f"{words[0]} {words[1]}",))
    context = [vocabulary[words[0]]]
    for seed in range(400):
        engine.start(Request(seed, context, 6, seed, stop, turn_tokens=1))
    turns = turns_of(engine).values()
    closed = [turn for turn in turns if turn.token_ids[0] == vocabulary[words[1]]]
    assert closed
    assert all(len(turn.token_ids) == 1 and turn.reason == "stop" for turn in closed)
    assert engine.dropped >= len(closed)


def test_greedy_rollouts_with_calls_are_those_of_the_embedded_engine(url, engine, policy):
    from appo.engines.transformers_engine import TransformersEngine

    model, tokenizer = policy
    eos = [tokenizer.eos_token_id]
    embedded = TransformersEngine(
        model, pad_token_id=tokenizer.pad_token_id, eos_token_ids=eos, tokenizer=tokenizer, top_k=1
    )
    greedy = VLLMServerEngine(url, eos_token_ids=eos, tokenizer=tokenizer, temperature=0.0)
    told = []
    for writing in (embedded, greedy):
        pool, starts = EnvironmentPool([], kinship.KinshipEnvironment), []
        for seed, row in enumerate(kinship.make_dataset(24, seed=5)):
            environment, _ = pool.open(row)
            rollout = Rollout(tokenizer(row["prompt"])["input_ids"], row["prompt"], environment=environment)
            starts.append(Start(rollout, pool.tools_of(environment), seed))
        runner = ToolRunner()
        protocol = TagProtocol(tokenizer, ["search"], RESULT)
        loop = AgentLoop(writing, protocol, runner, max_completion_length=64, context_length=512)
        told.append([(r.completion_ids, r.finish_reason, len(r.tool_calls)) for r in loop.run(starts, 0)])
        runner.close()
    assert told[0] == told[1]
    assert sum(calls for *_, calls in told[1]) >= 5


def test_training_writes_branches_with_the_present_weights(url, tmp_path):
    trainer = make_trainer(tmp_path, vllm_mode="server", vllm_server_base_url=url)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "omega/mean" in entry]
    assert len(logged) == 4
    assert max(entry["sampling/sampling_logp_difference/max"] for entry in logged) < CLOSE
    # What the last branches were written with is not what the first ones were.
    assert all(math.isfinite(entry["reward/branches"]) for entry in logged)
    tree = trainer.mini_batches[-1].trees[0]
    batch, scores = trainer.writer.score(tree.branches)
    own_BT = batch.policy_mask_BT.bool()
    for row, branch in enumerate(tree.branches):
        own_BT[row, : branch.branch_position] = False
    # Trained once more since: a large learning rate makes that a large difference.
    assert (scores.logps_BT - batch.engine_logps_BT).abs()[own_BT].max() > CLOSE


def test_an_agents_branches_are_written_with_the_present_weights(url, tmp_path):
    trainer = make_agents_trainer(tmp_path, vllm_mode="server", vllm_server_base_url=url, max_steps=2)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "omega/mean" in entry]
    assert len(logged) == 2 and logged[-1]["branches/left_out"] == 0
    told = [entry["sampling/branch_logp_difference"] for entry in logged]
    assert max(value for value in told if value is not None) < CLOSE


def test_another_dtype_than_the_trainers_is_refused(url):
    with pytest.raises(ValueError, match="computes in float32, the trainer in bfloat16"):
        check_server(url, torch.bfloat16)
    assert check_server(url, torch.float32)["model_config"]["max_model_len"] == 512


def test_a_request_that_no_try_could_help_is_an_error_with_the_servers_words(url):
    engine = VLLMServerEngine(url, eos_token_ids=[])
    engine.start(Request(0, [10**6], 3, 0))
    with pytest.raises(RuntimeError, match=r"answered 400.*vocabulary"):
        turns_of(engine)


class Failing(BaseHTTPRequestHandler):
    """Passes requests on to a server; the first of each kind that `fails` names gets a 500 on a closing connection."""

    protocol_version = "HTTP/1.1"
    target, failures = "", 0

    def do_GET(self):
        self.answer(httpx.get(self.target + self.path, trust_env=False))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if type(self).failures:
            type(self).failures -= 1
            self.send_response(500)
            self.send_header("content-length", "0")
            self.send_header("connection", "close")
            self.end_headers()
            return
        headers = {"content-type": "application/json"}
        self.answer(httpx.post(self.target + self.path, content=body, headers=headers, trust_env=False, timeout=60))

    def answer(self, response):
        self.send_response(response.status_code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(response.content)))
        self.end_headers()
        self.wfile.write(response.content)

    def log_message(self, *arguments):
        pass


def test_a_failed_request_is_sent_again_and_gives_the_same_tokens(url, engine, policy):
    tokenizer = policy[1]
    context = tokenizer("start mother e12")["input_ids"]
    engine.start(Request(0, context, 12, 5))
    expected = turns_of(engine)[0].token_ids
    Failing.target, Failing.failures = url, 2
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        flaky = VLLMServerEngine(
            f"http://127.0.0.1:{proxy.server_port}", eos_token_ids=[tokenizer.eos_token_id], tokenizer=tokenizer
        )
        flaky.start(Request(0, context, 12, 5))
        assert turns_of(flaky)[0].token_ids == expected
        assert Failing.failures == 0
    finally:
        proxy.shutdown()
