"""The endpoint as programs see it: a real server on loopback, OpenAI's client, a model that was taught a tool."""

import asyncio
import json

import httpx
import openai
import pytest
import torch
from serve_parts import make_endpoint, serving
from taught_model import THINKING, taught, turns_of
from transformers.utils import get_json_schema

from appo.serve.app import make_app
from appo.serve.bounds import Bounds

QUESTION = {"role": "user", "content": "Weather in Paris?"}


def weather(city: str) -> str:
    """Tells the weather.

    Args:
        city: The city.

    Returns:
        A sentence.
    """
    return f"It is hot in {city}."


TOOL = get_json_schema(weather)


@pytest.fixture(scope="module")
def model():
    turns = [
        turn
        for city in ("Paris", "Rome")
        for turn in turns_of(QUESTION["content"], [("weather", {"city": city})], [weather(city)], [weather])
    ]
    return taught(turns)


@pytest.fixture(scope="module")
def endpoint(model):
    return make_endpoint(*model, chat_template_kwargs=THINKING)


@pytest.fixture(scope="module")
def url(endpoint):
    with serving(endpoint) as url:
        yield url


def client_of(url, key):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


def ask(client, messages, **options):
    extra = {"return_token_ids": True, **options.pop("extra_body", {})}
    return client.chat.completions.create(model="policy", messages=messages, tools=[TOOL], extra_body=extra, **options)


def tokens_of(answer):
    return answer.prompt_token_ids, answer.choices[0].token_ids


def run_agent(client, **options):
    """A plain loop of an agent: calls are run until there are none. Returns all answers."""
    messages, answers = [QUESTION], []
    while True:
        answers.append(ask(client, messages, **options))
        message = answers[-1].choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return answers
        for call in message.tool_calls:
            result = weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def test_an_agent_of_openais_client_runs_and_its_sampled_tokens_stand(url, endpoint, model):
    first, second = run_agent(client_of(url, "agent"), temperature=0)
    assert (first.choices[0].finish_reason, second.choices[0].finish_reason) == ("tool_calls", "stop")
    call = first.choices[0].message.tool_calls[0].function
    assert call.name == "weather" and json.loads(call.arguments)["city"] in ("Paris", "Rome")
    assert second.choices[0].message.content == "Done."
    prompt, written = tokens_of(first)
    result = weather(**json.loads(call.arguments))
    after = endpoint.chat.dialect([TOOL["function"]], True).protocol.encode_results([("weather", result)])
    assert second.prompt_token_ids == prompt + written + after
    assert first.usage.prompt_tokens == len(prompt) and first.usage.completion_tokens == len(written)
    book = endpoint.keys.take("agent").book
    assert book.segments() == [[0, 1]] and dict(book.counts) == {"opened": 1, "continued": 1}


def test_logprobs_are_those_of_the_sampled_tokens_with_the_likeliest_in_their_place(url, model):
    answer = ask(client_of(url, "logprobs"), [QUESTION], logprobs=True, top_logprobs=2, temperature=0.5)
    prompt, written = tokens_of(answer)
    with torch.no_grad():
        logits = model[0](torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
    expected = torch.log_softmax(logits / 0.5, -1)
    content = answer.choices[0].logprobs.content
    assert [one.logprob for one in content] == pytest.approx(
        [float(row[token]) for row, token in zip(expected, written, strict=True)], abs=1e-4
    )
    assert [one.top_logprobs[0].logprob for one in content] == pytest.approx(
        expected.max(-1).values.tolist(), abs=1e-4
    )


def test_temperature_0_takes_the_likeliest_tokens_and_1_samples_by_the_seed(url, model):
    client = client_of(url, "temperatures")
    cold = [tokens_of(ask(client, [QUESTION], temperature=0, seed=seed)) for seed in range(2)]
    assert cold[0] == cold[1]
    prompt, written = cold[0]
    with torch.no_grad():
        logits = model[0](torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
    assert written == logits.argmax(-1).tolist()
    warm = [tokens_of(ask(client, [QUESTION], temperature=1, seed=seed))[1] for seed in [*range(8), *range(8)]]
    assert warm[:8] == warm[8:]
    assert len({tuple(ids) for ids in warm}) >= 2  # Paris and Rome were taught alike


def test_a_stream_tells_the_same_as_an_answer_that_comes_at_once(url):
    client = client_of(url, "stream")
    for seed in range(4):
        whole = ask(client, [QUESTION], seed=seed, logprobs=True)
        chunks = list(
            ask(client, [QUESTION], seed=seed, logprobs=True, stream=True, stream_options={"include_usage": True})
        )
        assert chunks[-1].usage == whole.usage
        deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
        message = whole.choices[0].message
        assert "".join(delta.content or "" for delta in deltas) == (message.content or "")
        calls = [call for delta in deltas for call in delta.tool_calls or ()]
        assert [(call.id, call.function) for call in calls] != [] or not message.tool_calls
        assert [json.loads(call.function.arguments) for call in calls] == [
            json.loads(call.function.arguments) for call in message.tool_calls or ()
        ]
        last = chunks[-2].choices[0]
        assert (last.finish_reason, last.token_ids) == (whole.choices[0].finish_reason, whole.choices[0].token_ids)
        assert last.logprobs.content == whole.choices[0].logprobs.content


def test_an_answer_is_cut_at_the_clients_stop_and_bound_and_the_sampled_tokens_are_whole(url, model):
    client = client_of(url, "stops")
    messages = run_messages()
    stopped = ask(client, messages, stop=["on"], temperature=0)
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("D", "stop")
    assert "on" in model[1].decode(stopped.choices[0].token_ids)
    short = ask(client, messages, max_tokens=1, temperature=0)
    assert short.choices[0].finish_reason == "length" and len(short.choices[0].token_ids) == 1
    streamed = ask(client, messages, stop="on", temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == "D"


def run_messages():
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    return [
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": weather("Rome")},
    ]


def test_calls_are_text_where_the_client_wants_none(url):
    answer = ask(client_of(url, "none"), [QUESTION], tool_choice="none", seed=1)
    message = answer.choices[0].message
    assert message.tool_calls is None and answer.choices[0].finish_reason == "stop"
    assert "<tool_call>" in message.content


def test_a_call_that_is_required_and_not_written_is_counted(url, endpoint):
    before = endpoint.unheeded
    ask(client_of(url, "required"), run_messages(), tool_choice="required", temperature=0)  # it says Done.
    assert endpoint.unheeded == before + 1


def test_token_ids_in_and_out_are_vllms_and_the_same_as_a_chats(url):
    chat = ask(client_of(url, "tokens"), [QUESTION], seed=3)
    prompt, written = tokens_of(chat)
    sampling = {"temperature": 1.0, "seed": 3, "max_tokens": 64, "logprobs": 1}
    body = {"token_ids": prompt, "sampling_params": sampling, "request_id": "mine"}
    answer = httpx.post(f"{url}/k/tokens-2/inference/v1/generate", json=body).json()
    (choice,) = answer["choices"]
    assert (answer["request_id"], choice["token_ids"], choice["finish_reason"]) == ("mine", written, "stop")
    assert [one["token"] for one in choice["logprobs"]["content"]] == [f"token_id:{token}" for token in written]
    assert all(one["logprob"] <= 0 for one in choice["logprobs"]["content"])
    wrong = httpx.post(f"{url}/inference/v1/generate", json={**body, "token_ids": [10**6]})
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "token_ids"


def test_a_key_in_the_path_is_another_key_and_each_has_its_own_book(url, endpoint):
    ask(client_of(url, "one"), [QUESTION])
    for _ in range(2):
        ask(openai.OpenAI(base_url=f"{url}/k/two/v1", api_key="one"), [QUESTION])
    assert len(endpoint.keys.take("one").book.turns) == 1
    assert len(endpoint.keys.take("two").book.turns) == 2


def test_a_prompt_that_fills_the_context_is_refused_and_a_bound_is_cut_to_what_is_left(url, model):
    client = client_of(url, "long")
    with pytest.raises(openai.BadRequestError, match="leaves no room for an answer in the model's 2048") as caught:
        ask(client, [{"role": "user", "content": "w " * 2100}])
    assert caught.value.code == "context_length_exceeded"
    assert ask(client, [QUESTION], max_completion_tokens=100_000).choices[0].finish_reason != "length"


def test_models_health_and_what_is_not_there(url):
    client = client_of(url, "x")
    (served,) = client.models.list().data
    assert (served.id, served.max_model_len) == ("policy", 2048)
    assert client.models.retrieve("policy").id == "policy"
    health = httpx.get(f"{url}/health").json()
    assert health["status"] == "ok" and health["open_requests"] == 0 and health["turns"]["opened"] > 0
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/v1/models/x", 404),
    ):
        answer = httpx.request(method, url + path)
        assert answer.status_code == status and answer.json()["error"]["type"] == "invalid_request_error"


def test_a_secret_is_asked_for_everywhere_but_of_health(model):
    endpoint = make_endpoint(*model, chat_template_kwargs=THINKING, bounds=Bounds())
    with serving(endpoint, api_key="s3cret") as url:
        with pytest.raises(openai.AuthenticationError, match="the API key is wrong"):
            ask(client_of(url, "guess"), [QUESTION])
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/health").status_code == 200
        assert ask(client_of(url, "s3cret"), [QUESTION]).choices
        assert ask(openai.OpenAI(base_url=f"{url}/k/rollout/v1", api_key="s3cret"), [QUESTION]).choices
        assert endpoint.keys.take("rollout").book.turns


def test_a_fault_of_the_engine_is_500_in_the_apis_form_and_the_next_request_is_answered(model):
    endpoint = make_endpoint(*model, chat_template_kwargs=THINKING)
    step, faults = endpoint.thread.engine.step, [RuntimeError("out of memory")]
    endpoint.thread.engine.step = lambda: (_ for _ in ()).throw(faults.pop()) if faults else step()
    with serving(endpoint) as url:
        with pytest.raises(openai.InternalServerError, match="out of memory"):
            ask(client_of(url, "a"), [QUESTION])
        assert ask(client_of(url, "a"), [QUESTION]).choices
        assert httpx.get(f"{url}/health").json()["failed_steps"] == 1


def test_the_application_needs_no_server(model):
    """Whoever has a server of their own mounts it."""
    endpoint = make_endpoint(*model, chat_template_kwargs=THINKING)
    transport = httpx.ASGITransport(app=make_app(endpoint))

    async def asked():
        async with httpx.AsyncClient(transport=transport, base_url="http://policy") as client:
            return (await client.get("/v1/models")).json()

    assert asyncio.run(asked())["data"][0]["id"] == "policy"
    endpoint.thread.close()
