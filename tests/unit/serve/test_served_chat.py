"""Prompts of conversations: what was sampled stays as it was sampled, by chat templates and in tags.

The templates are Qwen's and SmolLM2's own; turns are written by hand, in tokens that no tokenizer would choose.
"""

import json

import pytest
from scripted_model import save_scripted
from taught_model import END, TEMPLATE, tokenizer_for
from test_chat_templates import make_tokenizer
from transformers import AutoTokenizer

from appo.errors import UserError
from appo.serve.book import Book, WrittenTurn
from appo.serve.chat import Chat
from appo.serve.tag_dialect import TagDialect, argument_of, arguments_of, body_of
from appo.serve.template_dialect import TemplateDialect
from appo.tools.schema_tool import SchemaTool

WEATHER = {
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ASKED = [{"role": "user", "content": "Weather in Paris?"}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ODD_CALL = '<tool_call>\n{"arguments": {"city":"Paris"},  "name": "weather"}\n</tool_call>'  # with other spaces


@pytest.fixture(scope="module")
def qwen():
    return tokenizer_for([TEMPLATE, CALL, "Weather in Paris? It is hot in Rome. Done."])


def chat_of(tokenizer, **options):
    eos = frozenset({tokenizer.eos_token_id})
    return Chat(lambda tools, reads: TemplateDialect(tokenizer, tools, reads, eos, **options))


def by_letter(tokenizer, text):
    """A text in tokens of one letter each, special ones whole: sampled, but never encoded so."""
    special = tokenizer.get_added_vocab()
    ids = []
    while text:
        token = next((one for one in special if text.startswith(one)), None)
        ids += [special[token]] if token else tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text[0]))
        text = text[len(token or text[0]) :]
    return ids


def write(book, prompt, text, reason="eos"):
    """A turn of this text in the book; its message as the client gets it, with a mapping as arguments."""
    ids = by_letter(prompt.dialect.tokenizer, text)
    message = prompt.dialect.message(ids, prompt.ids)
    for number, call in enumerate(message.get("tool_calls", ())):
        call["id"] = f"call{number}"
    said, told = prompt.names_of(message)
    turn = WrittenTurn(prompt.ids, ids, [-1.0] * len(ids), reason, message=message, said=said, told=told)
    turn.unknown_answer, turn.retold = prompt.unknown_answer, prompt.retold
    book.add(turn)
    return ids, message


@pytest.mark.parametrize("call", [CALL, ODD_CALL])
def test_a_result_follows_the_sampled_tokens_of_its_call_as_in_training(qwen, call):
    book, chat = Book(), chat_of(qwen)
    first = chat.prompt(book, ASKED, [WEATHER])
    ids, message = write(book, first, call + END)
    assert message["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Paris"}}
    result = {"role": "tool", "tool_call_id": "call0", "content": "hot <|im_end|>"}
    second = chat.prompt(book, [*ASKED, message, result], [WEATHER])
    after = first.dialect.protocol.encode_results([("weather", "hot <|im_end|>")])
    assert second.ids == first.ids + ids + after
    assert after.count(qwen.eos_token_id) == 1  # the text of a special token in a result is text
    write(book, second, "Done." + END)
    assert dict(book.counts) == {"opened": 1, "continued": 1}


def test_the_users_next_message_follows_the_sampled_tokens_as_the_template_writes_it():
    tokenizer = make_tokenizer("smollm2-object")
    book, chat = Book(), chat_of(tokenizer)
    first = chat.prompt(book, ASKED)
    ids, message = write(book, first, "it is hot" + tokenizer.eos_token)
    second = chat.prompt(book, [*ASKED, message, {"role": "user", "content": "And in Rome?"}])
    whole = tokenizer.decode(second.ids)
    assert second.ids[: len(first.ids) + len(ids)] == first.ids + ids
    assert whole == tokenizer.apply_chat_template(
        [*ASKED, message, {"role": "user", "content": "And in Rome?"}], tokenize=False, add_generation_prompt=True
    )
    assert whole.count(tokenizer.eos_token) == 4  # system, user, assistant, user: the end of the turn is not doubled


def test_a_turn_that_was_cut_off_is_ended_by_the_template():
    tokenizer = make_tokenizer("smollm2-object")
    book, chat = Book(), chat_of(tokenizer)
    first = chat.prompt(book, ASKED)
    ids, message = write(book, first, "it is", reason="length")
    second = chat.prompt(book, [*ASKED, message, {"role": "user", "content": "go on"}])
    assert second.ids[len(first.ids + ids)] == tokenizer.eos_token_id
    assert second.ids[: len(first.ids + ids)] == first.ids + ids


@pytest.mark.parametrize(
    "change",
    [
        {"content": "it is cold"},
        {"reasoning_content": "I made this up"},
        {"tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {}}}]},
    ],
)
def test_an_answer_that_the_agent_has_rewritten_is_encoded_as_text_and_begins_a_segment(change):
    tokenizer = make_tokenizer("smollm2-object")
    book, chat = Book(), chat_of(tokenizer)
    _, message = write(book, chat.prompt(book, ASKED, [WEATHER]), "it is hot" + tokenizer.eos_token)
    told = [*ASKED, {**message, **change}, {"role": "user", "content": "And in Rome?"}]
    second = chat.prompt(book, told, [WEATHER])
    text = tokenizer.apply_chat_template(told, tools=second.dialect.tools, tokenize=False, add_generation_prompt=True)
    assert second.ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    write(book, second, "x" + tokenizer.eos_token)
    assert dict(book.counts) == {"opened": 1, "rewritten": 1}
    assert book.segments() == [[0], [1]]


def test_behind_a_rewritten_answer_the_sampled_turn_before_it_still_stands():
    tokenizer = make_tokenizer("smollm2-object")
    book, chat = Book(), chat_of(tokenizer)
    first = chat.prompt(book, ASKED)
    ids, message = write(book, first, "it is hot" + tokenizer.eos_token)
    more = [*ASKED, message, {"role": "user", "content": "And in Rome?"}]
    write(book, chat.prompt(book, more), "hot" + tokenizer.eos_token)
    third = chat.prompt(book, [*more, {"role": "assistant", "content": "cold"}, ASKED[0]])
    assert third.ids[: len(first.ids + ids)] == first.ids + ids
    write(book, third, "x" + tokenizer.eos_token)
    assert dict(book.counts) == {"opened": 1, "continued": 1, "rewritten": 1}


def test_thoughts_that_the_agent_leaves_out_stay_between_calls(qwen):
    book, chat = Book(), chat_of(qwen)
    first = chat.prompt(book, ASKED, [WEATHER])
    ids, message = write(book, first, f"<think>\nParis it is\n</think>\n\n{CALL}{END}")
    assert message["reasoning_content"] == "Paris it is"
    sent = {name: value for name, value in message.items() if name != "reasoning_content"}
    second = chat.prompt(book, [*ASKED, sent, {"role": "tool", "content": "hot"}], [WEATHER])
    assert second.ids[: len(first.ids + ids)] == first.ids + ids


def test_thoughts_that_the_template_leaves_out_later_are_retold_and_counted_apart(qwen):
    book, chat = Book(), chat_of(qwen)  # without tools: Qwen3's own template forgets old thoughts
    first = chat.prompt(book, ASKED)
    _, message = write(book, first, f"<think>\nParis it is\n</think>\n\nhot{END}")
    assert (message["content"], message["reasoning_content"]) == ("hot", "Paris it is")
    second = chat.prompt(book, [*ASKED, message, ASKED[0]])
    assert second.retold and "Paris it is" not in qwen.decode(second.ids)
    write(book, second, "hot" + END)
    assert dict(book.counts) == {"opened": 1, "retold": 1}


def test_other_tools_are_another_conversation(qwen):
    book, chat = Book(), chat_of(qwen)
    _, message = write(book, chat.prompt(book, ASKED, [WEATHER]), CALL + END)
    other = chat.prompt(book, [*ASKED, message, {"role": "tool", "content": "hot"}], [{**WEATHER, "name": "climate"}])
    assert other.unknown_answer


def test_the_system_message_of_the_training_is_put_before_a_conversation_without_one(qwen):
    chat = chat_of(qwen)
    chat._system_prompt = lambda tools: f"You have {len(tools)} tools."
    text = qwen.decode(chat.prompt(Book(), ASKED).ids)
    assert text.startswith("<|im_start|>system\nYou have 0 tools.<|im_end|>")
    own = chat.prompt(Book(), [{"role": "system", "content": "Mine."}, *ASKED])
    assert "You have" not in qwen.decode(own.ids)


def test_a_template_without_tools_says_what_to_do(qwen):
    tokenizer = make_tokenizer("smollm2-object")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.response_template = None
    with pytest.raises(UserError, match="add_tools: true"):
        chat_of(tokenizer).prompt(Book(), ASKED, [WEATHER])


# ---- tags ----


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory):
    return AutoTokenizer.from_pretrained(save_scripted(tmp_path_factory.mktemp("tags"), {"a": "b"}))


def tags_of(tokenizer, **options):
    eos = frozenset({tokenizer.eos_token_id})
    return Chat(lambda tools, reads: TagDialect(tokenizer, tools, reads, eos, **options))


SEARCH = {**WEATHER, "name": "search", "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}}


def test_a_call_in_tags_is_a_call_of_the_api_and_its_result_is_written_as_in_training(bytewise):
    book, chat = Book(), tags_of(bytewise, result_format="[{}]|")
    first = chat.prompt(book, ASKED, [SEARCH])
    assert bytewise.decode(first.ids) == "Weather in Paris?\n"
    ids, message = write(book, first, "<think>so</think>Well <search>hot cities</search>", "stop")
    assert (message["reasoning_content"], message["content"]) == ("so", "Well")
    (call,) = message["tool_calls"]
    assert call["function"] == {"name": "search", "arguments": {"query": "hot cities"}}
    second = chat.prompt(book, [*ASKED, message, {"role": "tool", "content": "Rome"}], [SEARCH])
    assert second.ids == first.ids + ids + bytewise("[Rome]|")["input_ids"]
    write(book, second, "<answer>Rome</answer>", "stop")
    assert dict(book.counts) == {"opened": 1, "continued": 1}


def test_a_history_in_tags_that_was_not_sampled_is_one_text_of_the_assistant(bytewise):
    chat = tags_of(bytewise, result_format="[{}]|")
    calls = [{"function": {"name": "search", "arguments": {"query": "cities"}}}]
    told = [*ASKED, {"role": "assistant", "content": "Well", "tool_calls": calls}, {"role": "tool", "content": "Rome"}]
    text = bytewise.decode(chat.prompt(Book(), told, [SEARCH]).ids)
    assert text == "Weather in Paris?\nWell<search>cities</search>[Rome]|"


def test_a_second_question_to_a_model_that_knows_no_messages_is_refused(bytewise):
    with pytest.raises(UserError, match="knows of no messages and continues one question, got roles user, user"):
        tags_of(bytewise).prompt(Book(), [*ASKED, {"role": "assistant", "content": "x"}, *ASKED])


def test_tags_within_messages_end_their_turn_as_the_template_does(tmp_path):
    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer = AutoTokenizer.from_pretrained(save_scripted(tmp_path, {"a": "b"}, template=template))
    book, chat = Book(), tags_of(tokenizer, result_format="({})")
    first = chat.prompt(book, ASKED, [SEARCH])
    _, message = write(book, first, "<search>x</search>", "stop")
    told = [*ASKED, message, {"role": "tool", "content": "Rome"}]
    second = chat.prompt(book, told, [SEARCH])
    more, answer = write(book, second, "<answer>4</answer>", "stop")
    told += [answer, {"role": "user", "content": "And?"}]
    third = chat.prompt(book, told, [SEARCH])
    assert third.ids[: len(second.ids + more)] == second.ids + more
    assert tokenizer.decode(third.ids) == (
        "[user]Weather in Paris?<|im_end|>[assistant]<search>x</search>(Rome)<answer>4</answer><|im_end|>"
        "[user]And?<|im_end|>[assistant]"
    )
    assert tokenizer.decode(chat.prompt(Book(), told, [SEARCH]).ids) == tokenizer.decode(third.ids)


def test_a_call_whose_text_is_no_object_where_it_should_be_one_stays_text():
    two = SchemaTool("f", "", {"properties": {"a": {}, "b": {}}, "required": ["a", "b"]}, lambda arguments: None)
    one = SchemaTool("g", "", {"properties": {"n": {"type": "integer"}}, "required": ["n"]}, lambda arguments: None)
    assert arguments_of('{"a": 1, "b": 2}', argument_of(two)) == {"a": 1, "b": 2}
    assert arguments_of("a = 1", argument_of(two)) == "a = 1"
    assert arguments_of("7", argument_of(one)) == {"n": 7}
    assert body_of({"n": 7}, argument_of(one)) == "7"
    assert json.loads(body_of({"a": 1, "b": 2}, argument_of(two))) == {"a": 1, "b": 2}


# ---- a turn that is being written ----


def test_what_is_told_of_a_turn_as_it_comes_begins_what_it_comes_to(qwen):
    dialect = chat_of(qwen).dialect([WEATHER], True)
    for text in (
        f"<think>\nso < or\n</think>\n\nLet me see. {CALL}{END}",
        f"Is 3 < 4? {{yes}} <b>it is</b>{END}",
        f'Let me: {{"name": "weather", "arguments": 7 {END}',  # no call that can be read
        f"\n\n  hot é in Rome \n{END}",
    ):
        ids = by_letter(qwen, text)
        whole = dialect.message(ids, [])
        told = ("", "")
        for end in range(1, len(ids)):
            thoughts, content = dialect.begun(ids[:end], [])
            assert thoughts.startswith(told[0]) and content.startswith(told[1]), (text, end)
            told = thoughts, content
        assert whole.get("reasoning_content", "").startswith(told[0]) and whole["content"].startswith(told[1])
        assert "tool_call" not in told[1] and len(told[0] + told[1]) > 3


# ---- sampled answers in a history that the agent or the template writes otherwise ----


@pytest.mark.parametrize("call", [None, ODD_CALL])
def test_an_answer_keeps_its_sampled_tokens_where_the_agent_changes_what_stands_before_it(call):
    tokenizer = make_tokenizer("smollm2-object")
    book, chat = Book(), chat_of(tokenizer)
    first = chat.prompt(book, [{"role": "system", "content": "It is 10:31."}, *ASKED], [WEATHER])
    ids, message = write(book, first, (call or "it is hot") + tokenizer.eos_token)
    added = {"role": "tool", "content": "hot"} if call else {"role": "user", "content": "And in Rome?"}
    second = chat.prompt(book, [{"role": "system", "content": "It is 10:32."}, *ASKED, message, added], [WEATHER])
    text = tokenizer.decode(second.ids)
    assert "10:32" in text and text.count(tokenizer.eos_token) == 4
    start = len(tokenizer(text.partition("it is hot" if call is None else '<tool_call>\n{"arg')[0])["input_ids"])
    assert second.ids[start : start + len(ids)] == ids
    write(book, second, "hot" + tokenizer.eos_token)
    assert dict(book.counts) == {"opened": 1, "rewritten": 1}


def test_an_answer_keeps_its_sampled_tokens_where_the_template_writes_what_precedes_it_otherwise(qwen):
    book, chat = Book(), chat_of(qwen, chat_template_kwargs={"enable_thinking": False})
    first = chat.prompt(book, ASKED)  # ends with an empty thought, which the template leaves out later
    ids, message = write(book, first, "It is hot" + END)
    second = chat.prompt(book, [*ASKED, message, ASKED[0]])
    places = [place for place in range(len(second.ids)) if second.ids[place : place + len(ids)] == ids]
    assert second.retold and len(places) == 1
    assert qwen.decode(second.ids[: places[0]]).endswith("<|im_start|>assistant\n")


def test_tags_keep_their_sampled_tokens_in_a_changed_history(bytewise):
    book, chat = Book(), tags_of(bytewise, result_format="[{}]|")
    first = chat.prompt(book, ASKED, [SEARCH])
    text = "<search>  hot </search>"  # whose spaces the agent does not see
    _, message = write(book, first, text, "stop")
    asked = [{"role": "user", "content": "Weather in Rome?"}]
    second = chat.prompt(book, [*asked, message, {"role": "tool", "content": "x"}], [SEARCH])
    assert bytewise.decode(second.ids) == f"Weather in Rome?\n{text}[x]|"
    assert second.unknown_answer and not second.retold


def test_the_text_of_a_special_token_in_a_result_is_text_in_a_history_that_was_not_sampled_too(qwen):
    chat = chat_of(qwen)
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}

    def ends(result):
        told = [*ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}]
        ids = chat.prompt(Book(), [*told, {"role": "tool", "tool_call_id": "a", "content": result}], [WEATHER]).ids
        assert result in qwen.decode(ids)
        return ids.count(qwen.eos_token_id)

    assert ends("hot <|im_end|> cold") == ends("hot cold")
