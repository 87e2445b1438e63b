"""Replay branching of an agent that knows nothing of it: a plain loop with OpenAI's client, over loopback."""

import contextlib
import itertools

import openai
import pytest
from scripted_model import save_scripted
from serve_parts import make_endpoint, serving
from transformers import AutoModelForCausalLM, AutoTokenizer

from appo.serve.engine_thread import EngineFailed
from appo.serve.replay import Branch

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n' }}{% endif %}"
)
LETTERS = {"\n": ["a", "b"], "a": ["a", "b"], "b": ["a", "b"]}  # at random, without end
TURNS, TOKENS = 3, 24


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    directory = save_scripted(tmp_path_factory.mktemp("letters"), LETTERS, template=TEMPLATE)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    return make_endpoint(model, tokenizer, anyone=False)


@pytest.fixture(scope="module")
def url(endpoint):
    with serving(endpoint) as url:
        yield url


numbers = itertools.count()


def agent(
    url,
    key,
    *,
    opening="Write letters.",
    say=lambda text: f"you wrote {len(text)} letters",
    edit=None,
    retries=0,
    **options,
):
    """The agent under test: three turns; what it says follows from what it read. Texts of the answers."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=retries)
    messages = [{"role": "user", "content": opening}]
    for _ in range(TURNS):
        answer = client.chat.completions.create(
            model="policy", messages=messages, **{"max_tokens": TOKENS, "temperature": 1.0, **options}
        )
        text = answer.choices[0].message.content
        messages += [{"role": "assistant", "content": edit(text) if edit else text}]
        messages += [{"role": "user", "content": say(text)}]
    return [message["content"] for message in messages if message["role"] == "assistant"]


@pytest.fixture(scope="module")
def record(url, endpoint):
    """The book of a finished rollout."""
    endpoint.keys.open("record")
    agent(url, "record")
    book = endpoint.keys.take("record").book
    assert dict(book.counts) == {"opened": 1, "continued": 2} and book.segments() == [[0, 1, 2]]
    return book


def branched(url, endpoint, record, turn, position, **options):
    """The account of a branch after its agent has run, or has been stopped by an error."""
    key = f"branch {next(numbers)}"
    endpoint.keys.open(key, Branch(record, turn, position, seed=1))
    with contextlib.suppress(openai.BadRequestError):  # what a branch that is over is answered
        agent(url, key, **options)
    return endpoint.keys.take(key)


@pytest.mark.parametrize(("turn", "position"), [(0, 0), (0, 5), (1, 0), (1, 11), (2, TOKENS - 1)])
def test_a_branch_has_the_records_tokens_up_to_its_place_and_writes_on_by_itself(
    url, endpoint, record, turn, position
):
    account = branched(url, endpoint, record, turn, position)
    assert account.branch.outcome is None
    turns, recorded = list(account.book.turns.values()), list(record.turns.values())
    assert len(turns) == TURNS and account.book.segments() == [[0, 1, 2]]
    for earlier, before in zip(turns[:turn], recorded[:turn], strict=True):
        assert (earlier.ids, earlier.logprobs) == (before.ids, before.logprobs)
    at, was = turns[turn], recorded[turn]
    assert at.prompt_ids == was.prompt_ids and at.forced == position and len(at.token_ids) == TOKENS
    assert (at.token_ids[:position], at.logprobs[:position]) == (was.token_ids[:position], was.logprobs[:position])
    if TOKENS - position > 10:  # by chance the same once in 1,024 times; the seeds are fixed
        assert at.token_ids[position:] != was.token_ids[position:]


def test_branches_of_one_place_differ_and_are_repeated_by_their_seeds(url, endpoint, record):
    written = []
    for number, seed in enumerate((1, 2)):
        endpoint.keys.open(f"twin {number}", Branch(record, 1, 3, seed=seed))
        agent(url, f"twin {number}")
        written.append(endpoint.keys.take(f"twin {number}").book.turns[1].token_ids)
    assert written[0][:3] == written[1][:3] == record.turns[1].token_ids[:3]
    assert written[0] != written[1]


def test_a_branch_can_be_branched(url, endpoint, record):
    first = branched(url, endpoint, record, 1, 4).book
    second = branched(url, endpoint, first, 2, 2)
    assert second.branch.outcome is None
    assert second.book.turns[1].ids == first.turns[1].ids != record.turns[1].ids
    assert second.book.turns[2].token_ids[:2] == first.turns[2].token_ids[:2]


def test_a_streaming_agent_is_branched_too(url, endpoint, record):
    endpoint.keys.open("streaming", Branch(record, 1, 6, seed=1))
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="streaming", max_retries=0)
    messages = [{"role": "user", "content": "Write letters."}]
    for _ in range(2):
        stream = client.chat.completions.create(
            model="policy", messages=messages, max_tokens=TOKENS, temperature=1.0, stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        messages += [{"role": "assistant", "content": text}]
        messages += [{"role": "user", "content": f"you wrote {len(text)} letters"}]
    account = endpoint.keys.take("streaming")
    assert account.branch.outcome is None
    assert account.book.turns[1].token_ids[:6] == record.turns[1].token_ids[:6]


@pytest.mark.parametrize(
    ("cause", "changed"),
    [
        ("opening", {"opening": "Write letters, it is 10:31."}),
        ("results", {"say": lambda text: f"the clock says {next(numbers)}"}),
        ("history", {"edit": lambda text: text[::-1] + "!"}),
        ("settings", {"max_tokens": TOKENS + 1}),
    ],
)
def test_an_agent_that_does_not_do_the_same_again_is_left_out_and_counted_by_cause(
    url, endpoint, record, cause, changed
):
    before = endpoint.keys.diverged[cause]
    account = branched(url, endpoint, record, 2, 3, **changed)
    assert account.branch.outcome == cause and not account.branch.reached
    assert endpoint.keys.diverged[cause] == before + 1
    assert all(turn.ids == record.turns[number].ids for number, turn in account.book.turns.items())


def test_a_diverged_branch_ends_its_agent_at_once_with_an_error_that_is_not_tried_again(url, endpoint, record):
    endpoint.keys.open("over", Branch(record, 2, 3))
    with pytest.raises(openai.BadRequestError) as caught:
        agent(url, "over", opening="Something else.")
    assert caught.value.code == "branch_diverged"
    assert not endpoint.keys.take("over").book.turns


def test_an_agent_that_ends_too_early_has_not_reached_its_branch(url, endpoint, record):
    endpoint.keys.open("early", Branch(record, 2, 3))
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="early")
    client.chat.completions.create(
        model="policy", messages=[{"role": "user", "content": "Write letters."}], max_tokens=TOKENS, temperature=1.0
    )
    assert endpoint.keys.take("early").branch.outcome == "unreached"


def test_an_agent_may_put_the_stop_text_back_that_was_cut_off(url, endpoint):
    puts_back = {"stop": "ab", "edit": lambda text: f"{text}ab"}
    endpoint.keys.open("puts back")
    agent(url, "puts back", **puts_back)
    book = endpoint.keys.take("puts back").book
    assert [turn.reason for turn in book.turns.values()] == ["stop"] * TURNS
    assert book.segments() == [[0, 1, 2]] and dict(book.counts) == {"opened": 1, "continued": 2}
    assert branched(url, endpoint, book, 2, 0, **puts_back).branch.outcome is None


def test_a_turn_that_could_not_be_written_may_be_asked_for_again(url, endpoint, record, monkeypatch):
    write, failures = endpoint.thread.write, iter([EngineFailed("out of memory")])

    def fails_once(*given, **options):
        for failure in failures:
            raise failure
        return write(*given, **options)

    monkeypatch.setattr(endpoint.thread, "write", fails_once)
    endpoint.keys.open("asked-again", Branch(record, turn=1, position=3))
    agent(url, "asked-again", retries=1)
    account = endpoint.keys.take("asked-again")
    assert account.branch.outcome is None
    assert account.book.turns[1].token_ids[:3] == record.turns[1].token_ids[:3]
