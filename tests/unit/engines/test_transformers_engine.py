"""The engine samples from the model's own distribution, whatever runs beside a sequence."""

import random

import pytest
import torch
from scripted_model import save_scripted
from transformers import AutoModelForCausalLM, AutoTokenizer

from appo.engines.base import Request, Stop
from appo.engines.transformers_engine import TransformersEngine

NEVER = -1


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
        engine.start(Request(i, context, 12, seed=i))
    turns = run(engine)
    for i, context in enumerate(contexts):
        expected = plain_logps(model, context, turns[i].token_ids)
        torch.testing.assert_close(torch.tensor(turns[i].logprobs), expected, atol=1e-4, rtol=0)


def test_logprobs_after_results_short_and_long_equal_those_of_a_plain_forward(tiny):
    model, _ = tiny
    engine = make_engine(model)
    results = {0: [20, 21], 1: list(range(20, 60)), 2: list(range(20, 45))}
    stop = Stop(frozenset(range(0, model.config.vocab_size, 3)))
    for i in results:
        engine.start(Request(i, [5, 6 + i], 40, seed=i, stop=stop))
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
        together.start(Request(i, [5 + i] * (i + 1), 10 + i, seed=i))
    alone.start(Request(4, [9] * 5, 14, seed=4))
    assert run(together)[4].token_ids == run(alone)[4].token_ids


def test_sequences_beyond_the_batch_queue_and_finish(tiny):
    model, _ = tiny
    engine = make_engine(model, max_rows=2)
    for i in range(5):
        engine.start(Request(i, [5, 6], 3 + i, seed=i))
    assert {i: len(turn.token_ids) for i, turn in run(engine).items()} == {0: 3, 1: 4, 2: 5, 3: 6, 4: 7}


def test_sampled_frequencies_follow_the_softmax_at_the_temperature(tiny):
    model, _ = tiny
    engine = make_engine(model, temperature=0.5, max_rows=4000)
    for i in range(4000):
        engine.start(Request(i, [5, 6], 1, seed=i))
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
            engine.start(Request(i, [5, 6], 1, seed=i))
        assert {turn.token_ids[0] for turn in run(engine).values()} <= set(allowed)


def test_an_end_token_ends_the_turn(tiny):
    model, _ = tiny
    engine = make_engine(model, eos_token_ids=range(model.config.vocab_size))
    engine.start(Request(0, [5], 9, seed=0))
    turn = run(engine)[0]
    assert (len(turn.token_ids), turn.reason) == (1, "eos")


@pytest.mark.parametrize("fields", [{"layer_types": ["sliding_attention", "full_attention"]}, {"sliding_window": 8}])
def test_a_model_with_sliding_windows_is_refused(tiny, fields):
    model, _ = tiny
    for name, value in fields.items():
        setattr(model.config, name, value)
    with pytest.raises(ValueError, match="full attention"):
        make_engine(model)


def test_a_row_is_refilled_before_the_longest_sequence_ends(tiny):
    model, _ = tiny
    engine = make_engine(model, max_rows=2)
    for i, budget in enumerate([30, 3, 4, 5]):
        engine.start(Request(i, [5, 6 + i], budget, seed=i))
    assert list(run(engine)) == [1, 2, 3, 0]


def write_with_results(engine, count, stop):
    """Token ids of sequences that are resumed once, with two contexts among them, by id."""
    written = {i: [] for i in range(count)}
    for i in range(count):
        engine.start(Request(i, [9] * 20 if i % 2 else [5, 6], 12 + i, seed=i, stop=stop))
    while engine.busy:
        for turn in engine.step():
            first = not written[turn.id]
            written[turn.id] += turn.token_ids
            if first:
                engine.resume(turn.id, [30 + turn.id] * (3 if turn.id % 3 else 25), 6)
            else:
                engine.close(turn.id)
    return written


def test_what_is_written_does_not_depend_on_the_number_of_rows(tiny):
    model, _ = tiny
    stop = Stop(frozenset(range(0, model.config.vocab_size, 7)))
    expected = write_with_results(make_engine(model, max_rows=12), 12, stop)
    for rows in (1, 3, 5):
        assert write_with_results(make_engine(model, max_rows=rows), 12, stop) == expected


def test_a_sequence_that_waits_gives_its_row_to_others_and_is_read_again(tiny):
    model, _ = tiny
    engine = make_engine(model, max_rows=1)
    engine.start(Request(0, [5, 6, 7], 9, seed=0, stop=Stop(frozenset(range(model.config.vocab_size)))))
    (first,) = engine.step()
    assert not engine.busy  # it waits for its tool
    engine.start(Request(1, [8, 9], 4, seed=1))
    assert engine.busy
    other = run(engine)[1]
    assert len(other.token_ids) == 4
    engine.resume(0, [20, 21], 5)
    second = run(engine)[0]
    context = [5, 6, 7, *first.token_ids, 20, 21]
    expected = plain_logps(model, context, second.token_ids)
    torch.testing.assert_close(torch.tensor(second.logprobs), expected, atol=1e-4, rtol=0)


def test_a_resumed_sequence_is_written_before_new_ones_enter(tiny):
    model, _ = tiny
    engine = make_engine(model, max_rows=1)
    engine.start(Request(0, [5], 9, seed=0, stop=Stop(frozenset(range(model.config.vocab_size)))))
    engine.step()
    for i in (1, 2):
        engine.start(Request(i, [6], 2, seed=i))
    engine.step()  # the first new one has the row now
    engine.resume(0, [7], 3)
    assert list(run(engine)) == [1, 0, 2]


def test_the_likeliest_first_tokens_are_those_of_a_plain_forward(tiny):
    """Whatever top-k leaves to sample from: they are told at the temperature, before anything is cut off."""
    model, _ = tiny
    engine = make_engine(model, temperature=0.5, top_k=2)
    engine.start(Request(0, [5, 6, 7], 4, seed=0, top_alternatives=5))
    engine.start(Request(1, [5, 6, 7], 4, seed=1))
    turns = run(engine)
    with torch.no_grad():
        best = torch.log_softmax(model(torch.tensor([[5, 6, 7]])).logits[0, -1] / 0.5, -1).topk(5)
    assert [token for token, _ in turns[0].alternatives] == best.indices.tolist()
    told = torch.tensor([logp for _, logp in turns[0].alternatives])
    torch.testing.assert_close(told, best.values, atol=1e-4, rtol=0)
    assert dict(turns[0].alternatives)[turns[0].token_ids[0]] == pytest.approx(turns[0].logprobs[0], abs=1e-6)
    assert turns[1].alternatives is None


def test_alternatives_are_told_once_and_never_more_than_there_are_tokens(tiny):
    model, _ = tiny
    engine = make_engine(model)
    every = Stop(frozenset(range(model.config.vocab_size)))
    engine.start(Request(0, [5], 9, seed=0, stop=every, top_alternatives=1000))
    (first,) = engine.step()
    engine.resume(0, [6], 9)
    (second,) = engine.step() or engine.step()
    assert len(first.alternatives) == model.config.vocab_size
    assert second.alternatives is None


@pytest.mark.parametrize(("turn_tokens", "written"), [(0, "bcd"), (1, "bc"), (2, "bc")])
def test_a_stop_string_may_begin_in_the_context_where_the_turn_does(tmp_path, turn_tokens, written):
    """The model writes the alphabet; `abc` ends the turn, and its `a` stands before what is written."""
    save_scripted(tmp_path, {"a": "b", "b": "c", "c": "d"})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    engine = make_engine(model, tokenizer=tokenizer, eos_token_ids=[tokenizer.eos_token_id], top_k=1)
    request = Request(0, tokenizer("xa")["input_ids"], 9, seed=0, stop=Stop(strings=("abc",)), turn_tokens=turn_tokens)
    engine.start(request)
    turn = run(engine)[0]
    assert tokenizer.decode(turn.token_ids, skip_special_tokens=True) == written
    assert turn.reason == ("stop" if turn_tokens else "eos")


def test_new_weights_are_used_and_refused_while_sequences_are_open(tiny):
    model, _ = tiny
    engine = make_engine(model, top_k=1)
    engine.start(Request(0, [5, 6], 3, seed=0))
    with pytest.raises(RuntimeError, match="open"):
        engine.load(model)
    before = run(engine)[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.5)
    engine.load(model)
    engine.start(Request(0, [5, 6], 3, seed=0))
    after = run(engine)[0]
    expected = plain_logps(model, [5, 6], after.token_ids)
    torch.testing.assert_close(torch.tensor(after.logprobs), expected, atol=1e-4, rtol=0)
    assert after.token_ids != before.token_ids


def test_no_memory_is_held_when_all_sequences_are_closed(tiny):
    model, _ = tiny
    engine = make_engine(model)
    engine.start(Request(0, [5, 6], 3, seed=0))
    run(engine)
    assert all(layer.keys_RKHD is None for layer in engine._cache.layers)


def check_plain(model, context, turn):
    expected = plain_logps(model, context, turn.token_ids)
    torch.testing.assert_close(torch.tensor(turn.logprobs), expected, atol=1e-4, rtol=0)


def test_a_context_is_not_copied_from_a_row_that_was_dropped_for_want_of_room(tiny):
    model, _ = tiny
    engine = make_engine(model, max_rows=8)
    known = [20, 21, 22, 23, 24, 25]
    for i, context in enumerate([[40] * 6, [50] * 6, known]):
        engine.start(Request(i, context, 1, seed=i))
    first = {turn.id: turn for turn in engine.step()}
    engine.close(2)
    engine.close(1)
    engine.resume(0, [9] * 300, 1)  # the cache grows, and its last rows are dropped
    engine.start(Request(3, known, 4, seed=7))
    turns = {0: [], 3: []}
    while not (turns[0] and turns[3]):
        for turn in engine.step():
            turns[turn.id].append(turn)
    check_plain(model, known, turns[3][0])
    check_plain(model, [40] * 6 + first[0].token_ids + [9] * 300, turns[0][0])


@pytest.mark.parametrize("seed", range(12))
def test_sequences_that_start_resume_and_end_at_any_time_are_scored_as_by_a_plain_forward(tiny, seed):
    model, _ = tiny
    draw = random.Random(seed)
    engine = make_engine(model, max_rows=draw.choice([2, 4, 9]))
    stop = Stop(frozenset(range(0, model.config.vocab_size, 4)))
    contexts, waiting, started = {}, [], 0
    while started < 24 or contexts:
        for _ in range(draw.choice([0, 0, 1, 3])):
            if started < 24:
                contexts[started] = [draw.randrange(5, 9) for _ in range(draw.choice([1, 2, 30]))]
                engine.start(Request(started, list(contexts[started]), 20, seed=started, stop=stop))
                started += 1
        for turn in engine.step() if engine.busy else []:
            check_plain(model, contexts[turn.id], turn)
            contexts[turn.id] += turn.token_ids
            waiting.append(turn.id)
        for id in [id for id in waiting if draw.random() < 0.3]:
            waiting.remove(id)
            if draw.random() < 0.6 and len(contexts[id]) < 120:
                result = [draw.randrange(5, 80) for _ in range(draw.choice([1, 3, 40]))]
                contexts[id] += result
                engine.resume(id, result, 20)
            else:
                engine.close(id)
                del contexts[id]


def test_a_turn_can_be_read_as_it_grows(tiny):
    model, _ = tiny
    engine = make_engine(model)
    engine.start(Request(0, [5, 6], 3, 0))
    grown, turns = [], []
    while not turns:
        turns = engine.step()
        grown.append(engine.so_far(0))
    written = turns[0].token_ids
    assert [part for part in grown if part] == [written[:1], written[:2]]
    assert grown[-1] == []  # the turn has been given back
    engine.resume(0, [7], 2)
    engine.step()
    assert len(engine.so_far(0)) <= 1 and engine.so_far(1) == []


def test_a_training_in_16_bits_wraps_the_forward_in_autocast(tiny, monkeypatch):
    """As accelerate does it: of what the engine calls, the model's own forward alone."""
    model, _ = tiny
    contexts = [[5, 6, 7], [8, 9, 10, 11, 12, 13], list(range(5, 25))]
    monkeypatch.setattr(model, "forward", torch.autocast("cpu", dtype=torch.bfloat16)(model.forward))
    engine = make_engine(model)
    for i, context in enumerate(contexts):
        engine.start(Request(i, context, 12, seed=i))
    turns = run(engine)
    for i, context in enumerate(contexts):
        expected = plain_logps(model, context, turns[i].token_ids)
        torch.testing.assert_close(torch.tensor(turns[i].logprobs), expected.float(), atol=0.2, rtol=0)


def test_sequences_have_temperatures_of_their_own(tiny):
    model, _ = tiny
    engine = make_engine(model, temperature=0.5)
    for i, temperature in enumerate((None, 0.0, 2.0)):
        engine.start(Request(i, [5, 6], 1, seed=i, temperature=temperature))
    turns = run(engine)
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6]])).logits[0, -1]
    assert turns[1].token_ids == [int(logits.argmax())]
    for i, temperature in enumerate((0.5, 1.0, 2.0)):  # where the likeliest is taken, log-probabilities are those at 1
        expected = torch.log_softmax(logits / temperature, -1)[turns[i].token_ids[0]]
        assert turns[i].logprobs == pytest.approx([float(expected)], abs=1e-4)


def test_a_sequence_of_another_temperature_changes_nothing_of_its_neighbours(tiny):
    model, _ = tiny
    together, alone = make_engine(model), make_engine(model)
    together.start(Request(0, [5, 6], 12, seed=3))
    together.start(Request(1, [5, 6], 12, seed=3, temperature=0.0))
    alone.start(Request(0, [5, 6], 12, seed=3))
    assert run(together)[0].token_ids == run(alone)[0].token_ids


def test_the_likeliest_tokens_are_told_in_the_place_of_each(tiny):
    model, _ = tiny
    engine = make_engine(model)
    engine.start(Request(0, [5, 6], 4, seed=1, top_logprobs=3))
    engine.start(Request(1, [5, 6], 4, seed=1))
    turns = run(engine)
    assert turns[1].top_logprobs is None and len(turns[0].top_logprobs) == 4
    context = [5, 6, *turns[0].token_ids[:2]]
    with torch.no_grad():
        logps = torch.log_softmax(model(torch.tensor([context])).logits[0, -1], -1)
    best = logps.topk(3)
    assert [token for token, _ in turns[0].top_logprobs[2]] == best.indices.tolist()
    assert [logp for _, logp in turns[0].top_logprobs[2]] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_sequences_that_are_closed_while_they_write_or_wait_write_no_more(tiny):
    model, _ = tiny
    engine, alone = make_engine(model, max_rows=2), make_engine(model)
    for i in range(4):
        engine.start(Request(i, [5, 6 + i], 20, seed=i))
    engine.step()
    engine.close(0)  # it writes
    engine.close(3)  # it waits for a row
    alone.start(Request(2, [5, 8], 20, seed=2))
    turns = run(engine)
    assert sorted(turns) == [1, 2]
    assert turns[2].token_ids == run(alone)[2].token_ids
    assert not engine.busy
