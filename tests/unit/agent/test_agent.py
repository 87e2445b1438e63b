"""An agent at work: models that write what a script says, with real tools, in both ways of writing calls."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scripted_model import save_random, save_scripted
from transformers import AutoTokenizer
from trl.chat_template_utils import qwen3_chat_template

import appo
from appo.agent.live import Listener
from appo.environments import kinship
from appo.environments.prompts import system_prompt
from appo.errors import UserError
from appo.files import write_json
from appo.models.usage import FILE

# A result ends with "|", whereas a prompt ends with a line break: the model searches once, then answers.
SEARCHING = {
    "\n": "<search>", "<search>": "x", "x": "</search>", "|": "<answer>", "<answer>": "4", "4": "</answer>",
}  # fmt: skip
AS_TRAINED = {"tool_protocol": "tags", "result_format": "<result>{}|", "tools": ["search"], "prompts": "messages"}
CHAT = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n' }}{% endif %}"
)
CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "x"}}\n</tool_call>'


def search(query: str) -> str:
    """Searches.

    Args:
        query: What for.
    """
    if query == "nothing":
        raise RuntimeError("the index is gone")
    return f"all about {query}"


def browse(page: str) -> str:
    """Opens a page.

    Args:
        page: Its address.
    """
    return page


def untold(page):
    return page


class Resetless:
    pass


@pytest.fixture(scope="module")
def searching(tmp_path_factory):
    """A model that was trained with a tool, on messages with one system message, and says so."""
    directory = save_scripted(tmp_path_factory.mktemp("searching"), SEARCHING, template=CHAT)
    write_json(tmp_path_factory.getbasetemp() / directory / FILE, {**AS_TRAINED, "system_prompt": "Search."})
    return directory


@pytest.fixture(scope="module")
def sampling(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("sampling"))


def test_a_call_runs_and_the_answer_follows_from_it(searching):
    answer = appo.Agent(searching, [search])("Who?")
    assert (answer.answer, str(answer), answer.finish_reason) == ("4", "4", "stop")
    assert answer.tokens == 6  # three of the call, three of the answer
    assert answer.text == "<search>x</search><result>all about x|<answer>4</answer>"
    (call,) = answer.calls
    assert (call.name, call.arguments, call.result, call.error) == ("search", "x", "all about x", None)
    assert [message["role"] for message in answer.messages] == ["system", "user", "assistant"]
    assert answer.messages[0]["content"] == "Search." and answer.messages[2]["content"] == answer.text


def test_a_failed_call_is_shown_with_its_error(tmp_path):
    script = {**SEARCHING, "<search>": "nothing", "nothing": "</search>"}
    directory = save_scripted(tmp_path, script, tokens=["nothing"], template=CHAT)
    write_json(tmp_path / FILE, AS_TRAINED)
    (call,) = appo.Agent(directory, [search])("Who?").calls
    assert call.error == "RuntimeError" and "the index is gone" in call.result


def test_the_models_own_settings_hold_and_those_that_are_given_win(searching):
    assert appo.Agent(searching, [search]).settings.result_format == "<result>{}|"
    agent = appo.Agent(searching, [search], result_format="({})|", system_prompt="", temperature=0)
    assert agent("Who?").text == "<search>x</search>(all about x)|<answer>4</answer>"
    assert agent("Who?").messages[0] == {"role": "user", "content": "Who?"}
    assert (agent.settings.temperature, agent.settings.top_p, agent.settings.max_completion_length) == (0, 1.0, 4096)


def test_an_answer_that_is_cut_off_is_none(searching):
    answer = appo.Agent(searching, [search], max_completion_length=2)("Who?")
    assert (answer.answer, answer.finish_reason, answer.tokens, answer.text) == (None, "length", 2, "<search>x")
    assert str(answer) == "<search>x"


def test_a_model_that_says_nothing_of_itself_is_told_of_tags(tmp_path):
    directory = save_scripted(tmp_path, {**SEARCHING, "\n": "<answer>"})
    answer = appo.Agent(directory, [search])("Who?")
    assert answer.rollout.prompt == f"{system_prompt(['search'])}\n\nWho?\n"
    assert answer.answer == "4"


def test_tools_of_the_training_that_are_not_given_are_told(searching):
    with pytest.raises(UserError, match=r"was trained with the tools search; give tools=\[\.\.\] or environment_fact"):
        appo.Agent(searching)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert appo.Agent(searching, []).tools == {}
        with pytest.raises(UserWarning, match="trained with the tools search, of which search are not given"):
            appo.Agent(searching, [browse])


def test_a_tool_that_a_model_could_not_be_told_of_is_refused(searching):
    with pytest.raises(
        UserError, match=r"tools: untold: Cannot generate JSON schema for untold because it has no doc"
    ):
        appo.Agent(searching, [untold])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temprature": 0}, "Agent has no option temprature; did you mean temperature?"),
        ({"temperature": -1.0}, "temperature must be a finite number from 0 on, got -1.0"),
        ({"tool_protocol": "xml"}, "tool_protocol must be one of tags, chat_template, got 'xml'"),
        ({"engine": "vllm_server"}, "engine vllm_server and server_url belong together"),
        ({"max_completion_length": 0}, "max_completion_length must be at least 1, got 0"),
        ({"batch_size": "3"}, "batch_size must be a whole number, got '3'"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"temperature": "0"}, "temperature must be a number, got '0'"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"system_prompt": 3}, "system_prompt must be a text, got 3"),
        ({"tools": search}, r"tools must be a list of functions, got the function search; write tools=\[search\]"),
        ({"environment_factory": Resetless()}, "environment_factory is an object of class Resetless; give what makes"),
        ({"environment_factory": Resetless}, r"environment_factory made a Resetless, which has no reset\(\)"),
    ],
)
def test_a_wrong_option_is_one_sentence_before_anything_is_loaded(options, sentence):
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        appo.Agent("nowhere", **options)


def test_tools_that_are_no_names_are_a_broken_file(tmp_path):
    write_json(tmp_path / FILE, {"tools": [1, 2]})
    with pytest.raises(UserError, match=r"appo.json: tools = \[1, 2\] is of the wrong type"):
        appo.Agent(str(tmp_path))


def test_a_batch_of_one_text_or_one_row_is_refused(searching):
    agent = appo.Agent(searching, [search])
    with pytest.raises(UserError, match=r"batch takes a list of questions, got a str; write agent.batch\(\[question"):
        agent.batch("Weather in Paris?")
    with pytest.raises(UserError, match="batch takes a list of questions, got a dict"):
        agent.batch({"prompt": "Who?"})
    with pytest.raises(UserError, match="a message alone is no question"):
        agent.batch([{"role": "user", "content": "Who?"}])


@pytest.mark.parametrize("seed", [1.5, -1, "7", True])
def test_a_wrong_seed_of_a_question_is_one_sentence(searching, seed):
    agent = appo.Agent(searching, [search])
    with pytest.raises(UserError, match="seed must be a whole number from 0 on, got "):
        agent("Who?", seed=seed)
    with pytest.raises(UserError, match="seed must be a whole number from 0 on, got "):
        agent.batch(["Who?"], seed=seed)


def test_half_a_character_in_messages_is_asked_as_a_question_mark(searching):
    answer = appo.Agent(searching, [search])([{"role": "user", "content": "Who \ud800"}])
    assert answer.messages[1] == {"role": "user", "content": "Who ?"} and answer.answer == "4"


def test_questions_of_several_threads_are_answered_as_they_are_alone(sampling):
    agent = appo.Agent(sampling, max_completion_length=16)
    alone = [agent("Who?", seed=seed).text for seed in range(12)]
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(lambda seed: agent("Who?", seed=seed).text, range(12))) == alone


def test_a_text_that_was_cut_off_is_no_answer(tmp_path):
    """By the chat template whatever the model ends with is its answer: an end is what makes it one."""
    directory = save_scripted(tmp_path, {"\n": "4", "4": "<|im_end|>"}, template=qwen3_chat_template)
    whole, cut = (
        appo.Agent(directory, tool_protocol="chat_template", max_completion_length=most)("Who?") for most in (2, 1)
    )
    assert (whole.finish_reason, whole.answer) == ("stop", "4")
    assert (cut.finish_reason, cut.answer, cut.text) == ("length", None, "4")


def test_a_tag_within_a_thought_is_not_the_answer(tmp_path):
    written = "<think><answer>5</answer></think>It is 4."
    directory = save_scripted(tmp_path, {"\n": written, written: "<|im_end|>"}, [written], qwen3_chat_template)
    answer = appo.Agent(directory, tool_protocol="chat_template")("Who?")
    assert answer.finish_reason == "stop" and answer.answer == "It is 4."


def test_a_model_that_is_nowhere_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"model = .+ cannot be used"):
        appo.Agent(str(tmp_path))


def test_a_question_without_room_is_one_sentence_and_the_next_is_answered(searching):
    agent = appo.Agent(searching, [search])
    with pytest.raises(UserError, match=r"the question has 5\d{3} tokens .* in the model's 4096"):
        agent("?" * 5000)
    assert agent("Who?").answer == "4"


def test_answers_differ_by_question_and_are_the_same_again_by_seed(sampling):
    agent, again = (appo.Agent(sampling, seed=3, max_completion_length=32) for _ in range(2))
    first, second = agent("Who?"), agent("Who?")
    assert first.rollout.completion_ids != second.rollout.completion_ids
    assert again("Who?").rollout.completion_ids == first.rollout.completion_ids
    assert agent("Who?", seed=7).text == agent("Who?", seed=7).text
    assert appo.Agent(sampling, temperature=0, max_completion_length=8)("Who?").text == (
        appo.Agent(sampling, temperature=0, max_completion_length=8, seed=9)("Who?").text
    )


def test_a_batch_is_answered_in_its_order_and_more_than_fit_at_once(sampling):
    """Long and short answers end at different times; with its seed each is what it is alone."""
    agent = appo.Agent(sampling, batch_size=2, max_completion_length=32)
    questions = ["Who?", "Where is it, and since when?", "Why?", "When?", "How?"]
    answers = agent.batch(questions, seed=5)
    assert [answer.messages[-2]["content"] for answer in answers] == [f"{question}\n" for question in questions]
    assert [a.text for a in appo.Agent(sampling, max_completion_length=32).batch(questions, seed=5)] == [
        a.text for a in answers
    ]
    assert agent.batch([]) == []


def test_an_environment_is_reset_with_the_questions_row(tiny, tmp_path):
    model, tokenizer = tiny
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    own = {"tool_protocol": "tags", "prompts": "text", "tools": ["search"], "max_completion_length": 8}
    write_json(tmp_path / FILE, own)
    seeds = []

    class Watched(kinship.KinshipEnvironment):
        def reset(self, seed: int, **row: object) -> None:
            seeds.append((seed, row["prompt"]))
            super().reset(seed)

    agent = appo.Agent(str(tmp_path), environment_factory=Watched)
    answer = agent({"prompt": "start boss e1", "seed": 7})
    assert seeds == [(7, "start boss e1")]
    assert tokenizer.decode(answer.rollout.prompt_ids) == "start boss e1"  # as it is: nothing before or behind
    with pytest.raises(UserError, match=r"reset of Watched: missing a required argument: 'seed'; ask with a row"):
        agent("start boss e1")
    with pytest.raises(UserError, match="continues plain texts; ask with a text, not with messages"):
        agent({"prompt": [{"role": "user", "content": "boss e1"}], "seed": 7})
    with pytest.raises(UserError, match="continues plain texts, which have no turns"):
        agent.conversation()


def test_a_conversation_is_read_as_a_whole_until_it_is_reset(searching):
    talk = appo.Agent(searching, [search]).conversation()
    first, second = talk("Who?"), talk("And where?")
    assert second.messages == [*first.messages, {"role": "user", "content": "And where?"}, second.messages[-1]]
    prompt = AutoTokenizer.from_pretrained(searching).decode(second.rollout.prompt_ids)
    assert prompt == f"[system]Search.[user]Who?[assistant]{first.text}[user]And where?\n"
    assert second.answer == "4"
    with pytest.raises(UserError, match="begin a new conversation"):
        talk("?" * 5000)
    assert talk.messages == second.messages  # what could not be asked was not said
    talk.reset()
    assert talk.messages == [] and talk("Who?").messages == first.messages


def test_a_conversation_keeps_its_environment(tmp_path):
    directory = save_scripted(tmp_path, {**SEARCHING, "<search>": "</search>"}, template=CHAT)
    write_json(tmp_path / FILE, {**AS_TRAINED, "tools": ["search"]})

    class Counter:
        def reset(self, **row):
            self.count = 0

        def search(self, query: str) -> str:
            """Counts.

            Args:
                query: Anything.
            """
            self.count += 1
            return str(self.count)

    talk = appo.Agent(directory, environment_factory=Counter).conversation()
    assert [talk("Who?").calls[0].result for _ in range(3)] == ["1", "2", "3"]
    talk.reset()
    assert talk("Who?").calls[0].result == "1"


def test_calls_by_the_chat_template_run_and_are_messages_of_their_own(tmp_path):
    """Behind the prompt and behind a result the model calls or answers, either with a chance of one half."""
    script = {"\n": [CALL, "4"], CALL: "<|im_end|>", "4": "<|im_end|>"}
    directory = save_scripted(tmp_path, script, tokens=[CALL], template=qwen3_chat_template)
    agent = appo.Agent(directory, [search])
    assert not agent.is_tags  # its template writes calls, which is seen
    answers = agent.batch(["Who?"] * 16, seed=0)
    assert {answer.answer for answer in answers} == {"4"}
    assert {len(answer.calls) for answer in answers} >= {0, 1}
    one = next(answer for answer in answers if len(answer.calls) == 1)
    assert [message["role"] for message in one.messages] == ["user", "assistant", "tool", "assistant"]
    assert one.messages[2] == {"role": "tool", "name": "search", "content": "all about x"}
    assert one.calls[0].arguments == {"query": "x"} and one.tokens == 4


def test_a_listener_hears_all_that_is_written_and_calls_in_their_place(searching):
    heard = []
    listener = Listener(heard.append, lambda call: heard.append(f" -> {call.result} "))
    appo.Agent(searching, [search])("Who?", listener=listener)
    assert heard == ["<search>", "x", "</search>", " -> all about x ", "<answer>", "4", "</answer>"]


def test_a_character_of_several_tokens_is_heard_once_it_is_whole(tmp_path):
    """Three bytes of the euro sign, then the end; and two of them, which are no character, at an early end."""
    script = {"\n": b"\xe2", b"\xe2": b"\x82", b"\x82": b"\xac"}
    directory = save_scripted(tmp_path, script)
    heard: list[str] = []
    appo.Agent(directory)("Price?", listener=Listener(heard.append))
    assert heard == ["€"]
    appo.Agent(directory, max_completion_length=2)("Price?", listener=Listener(heard.append))
    assert heard == ["€", "\ufffd"]


def test_an_agent_goes_on_after_it_was_stopped(searching):
    agent = appo.Agent(searching, [search])

    def stop(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        agent("Who?", listener=Listener(stop))
    assert agent("Who?").answer == "4"


def test_a_model_whose_tools_were_added_to_its_template_is_asked_so(tmp_path):
    directory = save_scripted(tmp_path / "m", SEARCHING, template=CHAT)  # the template tells of no tools
    added = {"tool_protocol": "chat_template", "prompts": "messages", "tools": ["search"], "add_tools": True}
    write_json(Path(directory) / FILE, added)
    text, _ = appo.Agent(directory, [search]).policy.prompt("Who?")
    assert '"name": "search"' in text
    with pytest.raises(UserError, match="add_tools"):
        appo.Agent(directory, [search], add_tools=False)
