"""vLLM in this process, beside the embedded engine and plain forwards; float32 on the CPU."""

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs these")

from vllm_parts import RESULT, make_model

from appo.engines.base import Request, Stop
from appo.engines.transformers_engine import TransformersEngine
from appo.engines.vllm import VLLMEngine, make_llm
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


@pytest.fixture(scope="module")
def llm(policy):
    return make_llm(policy[0].config, torch.float32, rows=32)


def vllm_engine(llm, policy, **options):
    model, tokenizer = policy
    engine = VLLMEngine(llm, eos_token_ids=[tokenizer.eos_token_id], tokenizer=tokenizer, **options)
    engine.load(model.named_parameters())
    return engine


def embedded_engine(policy, **options):
    model, tokenizer = policy
    return TransformersEngine(
        model,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_ids=[tokenizer.eos_token_id],
        tokenizer=tokenizer,
        **options,
    )


def turns_of(engine):
    turns = {}
    while engine.busy:
        turns.update({turn.id: turn for turn in engine.step()})
    return turns


def forward_logps(model, ids):
    """Log-probability of each token but the first."""
    with torch.no_grad():
        logps = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].float(), dim=-1)
    return logps.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def starts_of(policy, rows):
    pool = EnvironmentPool([], kinship.KinshipEnvironment)
    starts = []
    for seed, row in enumerate(rows):
        environment, _ = pool.open(row)
        rollout = Rollout(policy[1](row["prompt"])["input_ids"], row["prompt"], environment=environment)
        starts.append(Start(rollout, pool.tools_of(environment), seed))
    return starts


def write(engine, policy, starts, **options):
    runner = ToolRunner()
    loop = AgentLoop(
        engine,
        TagProtocol(policy[1], ["search"], RESULT),
        runner,
        max_completion_length=64,
        context_length=512,
        **options,
    )
    rollouts = loop.run(starts, 0)
    runner.close()
    return rollouts


def told(rollouts):
    return [(r.completion_ids, r.policy_mask, r.finish_reason, len(r.tool_calls)) for r in rollouts]


def test_log_probabilities_are_those_of_a_plain_forward(llm, policy):
    model, tokenizer = policy
    engine = vllm_engine(llm, policy)
    context = tokenizer("start mother friend boss e12")["input_ids"]
    for number in range(8):
        engine.start(Request(number, context, 24, number))
    for turn in turns_of(engine).values():
        expected = forward_logps(model, context + turn.token_ids)[len(context) - 1 :]
        torch.testing.assert_close(torch.tensor(turn.logprobs), expected, rtol=0.0, atol=CLOSE)


def test_log_probabilities_are_at_the_sampling_temperature(llm, policy):
    model, tokenizer = policy
    engine = vllm_engine(llm, policy, temperature=0.5)
    context = tokenizer("start mother e12")["input_ids"]
    engine.start(Request(0, context, 1, 0))
    (turn,) = turns_of(engine).values()
    with torch.no_grad():
        logps = torch.log_softmax(model(torch.tensor([context])).logits[0, -1].float() / 0.5, dim=-1)
    assert turn.logprobs[0] == pytest.approx(logps[turn.token_ids[0]].item(), abs=CLOSE)


def test_alternatives_are_the_likeliest_first_tokens(llm, policy):
    model, tokenizer = policy
    engine = vllm_engine(llm, policy)
    context = tokenizer("start mother e12")["input_ids"]
    engine.start(Request(0, context, 4, 3, top_alternatives=3))
    (turn,) = turns_of(engine).values()
    with torch.no_grad():
        best = torch.log_softmax(model(torch.tensor([context])).logits[0, -1].float(), dim=-1).topk(3)
    assert [token for token, _ in turn.alternatives] == best.indices.tolist()
    assert [logp for _, logp in turn.alternatives] == pytest.approx(best.values.tolist(), abs=CLOSE)


def test_greedy_rollouts_with_calls_are_those_of_the_embedded_engine(llm, policy):
    rows = list(kinship.make_dataset(24, seed=5))
    ours = write(embedded_engine(policy, top_k=1), policy, starts_of(policy, rows))
    theirs = write(vllm_engine(llm, policy, temperature=0.0), policy, starts_of(policy, rows))
    assert told(theirs) == told(ours)
    assert sum(len(rollout.tool_calls) for rollout in theirs) >= 5


def test_what_is_written_does_not_depend_on_when_results_arrive(llm, policy):
    rows = list(kinship.make_dataset(24, seed=5))
    arriving = write(vllm_engine(llm, policy), policy, starts_of(policy, rows))
    joined = write(vllm_engine(llm, policy), policy, starts_of(policy, rows), deterministic=True)
    assert told(arriving) == told(joined)
    assert any(rollout.tool_calls for rollout in joined)


def test_a_greedy_branch_gives_its_parent_back(llm, policy):
    rows = list(kinship.make_dataset(12, seed=6))
    parents = write(vllm_engine(llm, policy, temperature=0.0), policy, starts_of(policy, rows))
    plain = [parent for parent in parents if not parent.tool_calls and len(parent.completion_ids) > 3]
    starts = [Start(parent.prefix(len(parent.completion_ids) // 2), {}, 99) for parent in plain]
    branches = write(vllm_engine(llm, policy, temperature=0.0), policy, starts)
    assert plain
    assert [branch.completion_ids for branch in branches] == [parent.completion_ids for parent in plain]


def test_a_continuation_draws_other_numbers_than_the_turn_before(llm, policy):
    engine = vllm_engine(llm, policy, temperature=2.0)
    context = policy[1]("start mother e12")["input_ids"]
    engine.start(Request(0, context, 12, 7))
    first = turns_of(engine)[0].token_ids
    engine.resume(0, context, 12)
    second = turns_of(engine)[0].token_ids
    engine.close(0)
    engine.start(Request(0, context + first + context, 12, 7))  # the same place with the first turn's numbers
    assert turns_of(engine)[0].token_ids != second


def test_a_closing_tag_that_began_in_the_context_ends_the_turn(llm):
    """Read character by character, as a real tokenizer may cut it: only the last one is written anew."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    alphabet = {character: index for index, character in enumerate("</>abcdefgh")}
    letters = Tokenizer(models.WordLevel(alphabet, unk_token="a"))
    letters.decoder = decoders.Fuse()  # without spaces between them
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
    model, _ = make_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[alphabet[">"]] = 8 * model.model.embed_tokens.weight[alphabet[">"]]
    context = [alphabet[c] for c in "ab</b"]
    stop = Stop(strings=("</b>",))
    sampled = {}
    for name, engine in {
        "vllm": VLLMEngine(llm, eos_token_ids=[], tokenizer=tokenizer),
        "embedded": TransformersEngine(model.eval(), pad_token_id=0, eos_token_ids=[], tokenizer=tokenizer),
    }.items():
        engine.load(model.named_parameters() if name == "vllm" else model)
        for seed in range(64):
            engine.start(Request(seed, context, 6, seed, stop, turn_tokens=4))
        sampled[name] = turns_of(engine).values()
    for turns in sampled.values():
        closed = [turn for turn in turns if turn.token_ids[0] == alphabet[">"]]
        assert closed
        assert all(turn.token_ids == [alphabet[">"]] and turn.reason == "stop" for turn in closed)


def test_new_weights_are_refused_while_a_sequence_is_open_and_welcome_after_abandoning_it(llm, policy):
    engine = vllm_engine(llm, policy)
    engine.start(Request(0, [1, 2, 3], 40, 0))
    engine.step()
    with pytest.raises(RuntimeError, match="while sequences are open"):
        engine.load(policy[0].named_parameters())
    engine.abandon()
    engine.load(policy[0].named_parameters())
    assert not engine.busy


def test_a_prefix_is_read_from_the_cache_until_new_weights_come(llm, policy):
    engine = vllm_engine(llm, policy)
    context = list(range(3, 80))
    for number in range(2):
        engine.start(Request(number, context, 1, number))
        turns_of(engine)
        engine.close(number)
    assert engine.starts.cached == 64  # two blocks of 32 of the second request
    engine.load(policy[0].named_parameters())
    engine.start(Request(2, context, 1, 2))
    turns_of(engine)
    assert (engine.starts.tokens, engine.starts.cached) == (3 * 77, 64)


def test_more_than_the_engine_takes_is_refused(llm, policy):
    engine = vllm_engine(llm, policy)
    with pytest.raises(ValueError, match="has 500 tokens and may write 13 more, but the engine takes 512"):
        engine.start(Request(0, [5] * 500, 13, 0))


def test_what_vllm_refuses_is_told_in_a_sentence(policy):
    with pytest.raises(ValueError, match=r"vLLM cannot run this model: .*max_model_len"):
        make_llm(policy[0].config, torch.float32, rows=4, context_length=4096)


def test_heads_that_vllm_has_no_kernel_for_are_refused_before_the_first_turn():
    model, _ = kinship.make_model()
    with pytest.raises(ValueError, match="head_dim = 24"):
        make_llm(model.config, torch.float32, rows=4)


def test_vllm_starts_beside_numba(policy):
    pytest.importorskip("numba")  # bm25s uses it where it is there
    assert make_llm(policy[0].config, torch.float32, rows=4) is not None


def test_many_prompts_are_read_at_once_however_many_tokens_they_have(policy):
    """More than 65,536 together: vLLM would read some of them in pieces, which seeded requests do not survive."""
    engine = vllm_engine(make_llm(policy[0].config, torch.float32, rows=176), policy)
    for number in range(176):
        engine.start(Request(number, [3 + (number * k) % 60 for k in range(1, 401)], 1, number))
    assert len(turns_of(engine)) == 176


def test_experts_are_refused_on_a_cpu():
    from transformers import MixtralConfig

    config = MixtralConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, head_dim=32
    )
    with pytest.raises(ValueError, match="does not take new weights of experts"):
        make_llm(config, torch.float32, rows=4)


def test_sleep_is_refused_on_a_cpu(policy):
    with pytest.raises(ValueError, match="vllm_enable_sleep_mode = True needs a GPU"):
        make_llm(policy[0].config, torch.float32, rows=4, sleep=True)
