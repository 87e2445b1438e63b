"""The engine samples from the model's own distribution, whatever runs beside a sequence."""

import pytest
import torch

from appo.engines.base import Request
from appo.engines.transformers_engine import TransformersEngine

NEVER = -1


def never(turn_ids):
    return False


def make_engine(model, **options):
    options = {"pad_token_id": model.config.pad_token_id, "eos_token_ids": [NEVER], **options}
    return TransformersEngine(model, **options)


def run(engine):
    turns = {}
    while engine.busy:
        for turn in engine.step():
            turns[turn.id] = turn
            engine.close(turn.id)
    return turns


def plain_logps(model, context, written):
    with torch.no_grad():
        logits = model(torch.tensor([context + written])).logits[0, len(context) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(written)[:, None])[:, 0]


def test_logprobs_equal_those_of_a_plain_forward(tiny):
    model, _ = tiny
    engine = make_engine(model)
    contexts = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15]]
    for i, context in enumerate(contexts):
        engine.start(Request(i, context, 12, seed=i, should_stop=never))
    turns = run(engine)
    for i, context in enumerate(contexts):
        expected = plain_logps(model, context, turns[i].token_ids)
        torch.testing.assert_close(torch.tensor(turns[i].logprobs), expected, atol=1e-4, rtol=0)


def test_logprobs_after_results_short_and_long_equal_those_of_a_plain_forward(tiny):
    model, _ = tiny
    engine = make_engine(model)
    results = {0: [20, 21], 1: list(range(20, 60)), 2: list(range(20, 45))}
    for i in results:
        engine.start(Request(i, [5, 6 + i], 40, seed=i, should_stop=lambda ids: len(ids) == 3 + len(ids) // 40))
    engine.stop_candidates = frozenset(range(model.config.vocab_size))
    written = {i: [] for i in results}
    resumed = set()
    while engine.busy:
        for turn in engine.step():
            written[turn.id].append(turn)
            if turn.id not in resumed:
                resumed.add(turn.id)
                engine.resume(turn.id, results[turn.id], 5)
            else:
                engine.close(turn.id)
    for i, result in results.items():
        first, second = written[i]
        context = [5, 6 + i, *first.token_ids, *result]
        expected = plain_logps(model, context, second.token_ids)
        torch.testing.assert_close(torch.tensor(second.logprobs), expected, atol=1e-4, rtol=0)


def test_a_sequence_does_not_depend_on_its_neighbours(tiny):
    model, _ = tiny
    together, alone = make_engine(model), make_engine(model)
    for i in range(6):
        together.start(Request(i, [5 + i] * (i + 1), 10 + i, seed=i, should_stop=never))
    alone.start(Request(4, [9] * 5, 14, seed=4, should_stop=never))
    assert run(together)[4].token_ids == run(alone)[4].token_ids


def test_sequences_beyond_the_batch_queue_and_finish(tiny):
    model, _ = tiny
    engine = make_engine(model, max_rows=2)
    for i in range(5):
        engine.start(Request(i, [5, 6], 3 + i, seed=i, should_stop=never))
    assert {i: len(turn.token_ids) for i, turn in run(engine).items()} == {0: 3, 1: 4, 2: 5, 3: 6, 4: 7}


def test_sampled_frequencies_follow_the_softmax_at_the_temperature(tiny):
    model, _ = tiny
    engine = make_engine(model, temperature=0.5, max_rows=4000)
    for i in range(4000):
        engine.start(Request(i, [5, 6], 1, seed=i, should_stop=never))
    counts = torch.bincount(torch.tensor([t.token_ids[0] for t in run(engine).values()]), minlength=model.vocab_size)
    with torch.no_grad():
        probs = torch.softmax(model(torch.tensor([[5, 6]])).logits[0, -1] / 0.5, -1)
    # Five standard deviations of each count.
    assert ((counts - 4000 * probs).abs() <= 5 * (4000 * probs * (1 - probs)).sqrt() + 1).all()


def test_top_k_and_top_p_keep_the_likeliest_tokens(tiny):
    model, _ = tiny
    with torch.no_grad():
        order = model(torch.tensor([[5, 6]])).logits[0, -1].argsort(descending=True).tolist()
    for options, allowed in (({"top_k": 3}, order[:3]), ({"top_p": 1e-6}, order[:1])):
        engine = make_engine(model, **options)
        for i in range(50):
            engine.start(Request(i, [5, 6], 1, seed=i, should_stop=never))
        assert {turn.token_ids[0] for turn in run(engine).values()} <= set(allowed)


def test_an_end_token_ends_the_turn(tiny):
    model, _ = tiny
    engine = make_engine(model, eos_token_ids=range(model.config.vocab_size))
    engine.start(Request(0, [5], 9, seed=0, should_stop=never))
    turn = run(engine)[0]
    assert (len(turn.token_ids), turn.reason) == (1, "eos")


@pytest.mark.parametrize("fields", [{"layer_types": ["sliding_attention", "full_attention"]}, {"sliding_window": 8}])
def test_a_model_with_sliding_windows_is_refused(tiny, fields):
    model, _ = tiny
    for name, value in fields.items():
        setattr(model.config, name, value)
    with pytest.raises(ValueError, match="full attention"):
        make_engine(model)
