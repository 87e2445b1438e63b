"""Words outside a vocabulary are told once, with their number, at every edge where text becomes tokens."""

import pytest
from scripted_model import byte_tokenizer
from trl import SFTConfig

from appo.config import APPOConfig
from appo.environments import kinship
from appo.environments.base import Demonstration, Segment
from appo.protocols.chat_template import ChatProtocol
from appo.protocols.tags import TagProtocol
from appo.rollout.unknown_words import UnknownWords
from appo.sft.training import make_sft_trainer
from appo.trainer import APPOTrainer


def looked_at(text, tokenizer):
    words = UnknownWords(tokenizer, "texts")
    words.look([text], [tokenizer(text)["input_ids"]])
    return words


def test_unknown_words_are_counted_and_known_ones_are_not(tiny):
    words = looked_at("plan zebra mother zebra <think> aunt e3", tiny[1])
    assert (words.found, words.count) == ({"zebra": 2, "aunt": 1}, 3)


def test_the_name_of_the_unknown_token_is_known(tiny):
    assert looked_at("plan <unk> mother", tiny[1]).count == 0


def test_a_tokenizer_with_tokens_for_any_text_finds_none():
    assert looked_at("zebra ~ Ω 大", byte_tokenizer()).count == 0


def test_it_is_said_once_with_the_most_frequent_words(tiny, caplog):
    words = looked_at(" ".join(["zebra"] * 3 + [f"x{i}" for i in range(9)]), tiny[1])
    words.tell()
    words.tell()
    (said,) = caplog.messages
    assert said.startswith(
        "texts hold words that the tokenizer does not know, so that the model sees <unk> for them: 'ze"
    )
    assert "'zebra' (3), 'x0' (1)" in said and "'x6' (1), and 2 more; use words" in said


def test_known_words_are_not_spoken_of(tiny, caplog):
    looked_at("plan mother", tiny[1]).tell()
    assert caplog.messages == []


def test_unknown_words_of_demonstrations_are_told_and_counted(tiny, tmp_path, caplog):
    model, tokenizer = tiny
    told = [
        Demonstration("start zebra e1", [Segment(" plan gnu"), Segment(" gnu e3", trained=False)]),
        Demonstration("start e2", [Segment(" plan", token_ids=[0])]),  # tokens are taken as they are
    ]
    args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    _, counts = make_sft_trainer(model, tokenizer, told, args)
    assert counts == {"demonstrations": 2, "demonstrations_too_long": 0, "demonstrations_unknown_words": 3}
    (said,) = [message for message in caplog.messages if "does not know" in message]
    assert said.startswith("demonstrations hold words") and "'gnu' (2), 'zebra' (1)" in said


def test_the_demonstrations_of_the_testbed_hold_none(tiny, tmp_path, caplog):
    model, tokenizer = tiny
    for task in (kinship.TASK, kinship.LOUD, kinship.QUIET, kinship.LONG, kinship.COSTLY):
        args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
        assert (
            make_sft_trainer(model, tokenizer, task.demonstrations(50, 0), args)[1]["demonstrations_unknown_words"]
            == 0
        )
    assert caplog.messages == []


@pytest.mark.parametrize(("result", "words"), [("e3 zebra", "'zebra' (1)"), ("<think> zebra</think>", "'zebra' (1)")])
def test_unknown_words_of_tool_results_are_told(tiny, caplog, result, words):
    protocol = TagProtocol(tiny[1], ["search"], " <result> {} </result> ")
    protocol.encode_results([("search", result)])
    protocol.encode_results([("search", "another gnu")])
    (said,) = caplog.messages
    assert said.startswith("tool results hold words") and f"them: {words}; use" in said


def test_a_tag_in_a_result_becomes_unknown_on_purpose(tiny, caplog):
    ids = TagProtocol(tiny[1], ["search"]).encode_results([("search", "search got <think> e3")])
    assert tiny[1].unk_token_id in ids
    assert caplog.messages == []


def test_unknown_words_of_tool_results_in_messages_are_told(tiny, caplog):
    tokenizer = tiny[1]

    def rendered(messages):
        return tokenizer(" ".join(message["content"] for message in messages))["input_ids"]

    protocol = ChatProtocol(tokenizer, [], rendered, [tokenizer.eos_token_id])
    assert protocol.encode_results([("search", "e3 zebra")]) == rendered([{"content": "e3 zebra"}])
    (said,) = caplog.messages
    assert said.startswith("tool results hold words") and "'zebra' (1)" in said


def test_unknown_words_of_prompts_are_told(tiny, tmp_path, caplog):
    model, tokenizer = tiny
    rows = kinship.make_dataset(4, seed=0).map(lambda row: {"prompt": row["prompt"] + " zebra"})
    args = APPOConfig(
        str(tmp_path), num_generations=2, method="grpo",
        per_device_train_batch_size=2, gradient_accumulation_steps=1, steps_per_generation=1, max_completion_length=4,
        tool_protocol="tags", bf16=False, use_cpu=True, report_to="none",
    )  # fmt: skip
    trainer = APPOTrainer(
        model,
        kinship.exact_answer,
        args,
        rows,
        processing_class=tokenizer,
        environment_factory=kinship.KinshipEnvironment,
    )
    for _ in range(2):
        trainer.writer.write([rows[0], rows[1]], 2)
    (said,) = [message for message in caplog.messages if message.startswith("prompts hold")]
    assert "'zebra' (4)" in said
