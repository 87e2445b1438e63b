"""Cold start: which tokens carry loss, what is left out, and that training trains."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from trl import SFTConfig

from appo.environments.base import Demonstration, Segment
from appo.environments.kinship import TASK
from appo.sft.training import IGNORED, cold_start, make_sft_trainer, tokenize_demonstrations

PROMPT = "mother boss e12"
CALL = " <think> plan start mother </think> <search> mother e12 </search>"
RESULT = " <result> e17 </result>"
ANSWER = " <think> plan mother done </think> <answer> e17 </answer>"
BY_HAND = Demonstration(PROMPT, [Segment(CALL), Segment(RESULT, trained=False), Segment(ANSWER)])
SHORT = Demonstration("boss e1", [Segment(" <answer> e1 </answer>")])


def make_config(tmp_path, **values):
    defaults = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 2,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_length": 256,
    }
    return SFTConfig(**{**defaults, **values})


@pytest.fixture
def model_and_tokenizer():
    torch.manual_seed(0)
    return TASK.make_model()


def test_prompt_and_results_are_not_trained(model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    (row,) = tokenize_demonstrations(tokenizer, [BY_HAND])
    assert tokenizer.decode(row["input_ids"]) == f"{PROMPT}{CALL}{RESULT}{ANSWER} <eos>"
    # 3 prompt words, 9 of the first think and call, 3 of the result, 8 of the last think and answer, the end token
    assert [label != IGNORED for label in row["labels"]] == [False] * 3 + [True] * 9 + [False] * 3 + [True] * 9
    trained = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    assert tokenizer.decode(trained) == f"{CALL.strip()}{ANSWER} <eos>"


def test_the_loss_of_the_trainer_is_that_of_the_trained_tokens(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    trainer, _ = make_sft_trainer(model, tokenizer, [BY_HAND, SHORT], make_config(tmp_path))
    batch = next(iter(trainer.get_train_dataloader()))
    assert (batch["labels"] != IGNORED).sum(1).tolist() in ([18, 4], [4, 18])
    with torch.no_grad():
        loss = trainer.compute_loss(model.train(), dict(batch))
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    terms = cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="none")
    kept = batch["labels"][:, 1:].flatten() != IGNORED
    assert int(kept.sum()) == 22
    assert float(loss) == pytest.approx(float(terms[kept].mean()), rel=1e-4)
    # The whole text has another mean, so this loss really is masked.
    everything = cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten(), reduction="none")
    assert abs(float(loss) - float(everything[batch["attention_mask"][:, 1:].flatten() == 1].mean())) > 1e-3


def test_pieces_are_tokenised_apart(model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    # Joined first, the two pieces would read as the one word `e17`.
    pieces = Demonstration("boss e1", [Segment("e1"), Segment("e7", trained=False)])
    (row,) = tokenize_demonstrations(tokenizer, [pieces])
    assert tokenizer.decode(row["input_ids"]) == "boss e1 e1 e7 <eos>"


def test_messages_go_through_the_chat_template(model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}start{% endif %}"
    )
    chat = Demonstration([{"role": "user", "content": "boss e1"}], SHORT.segments)
    rows = tokenize_demonstrations(tokenizer, [chat, SHORT])
    assert tokenizer.decode(rows[0]["input_ids"]) == "boss e1 start <answer> e1 </answer> <eos>"
    assert rows[0]["labels"][:3] == [IGNORED] * 3
    assert tokenizer.decode(rows[1]["input_ids"]) == "boss e1 <answer> e1 </answer> <eos>"


def test_more_demonstrations_than_a_chunk_keep_their_order(model_and_tokenizer, monkeypatch):
    _, tokenizer = model_and_tokenizer
    demonstrations = list(TASK.demonstrations(7, 0))
    whole = tokenize_demonstrations(tokenizer, demonstrations)
    monkeypatch.setattr("appo.sft.training.CHUNK", 3)
    assert tokenize_demonstrations(tokenizer, iter(demonstrations)) == whole
    assert len(whole) == 7


def test_too_long_demonstrations_are_counted_and_told(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    with pytest.warns(UserWarning, match=r"1 of 3 demonstrations are longer than max_length=10 .* left out: raise"):
        trainer, counts = make_sft_trainer(
            model, tokenizer, [SHORT, BY_HAND, SHORT], make_config(tmp_path, max_length=10)
        )
    assert counts == {"demonstrations": 2, "demonstrations_too_long": 1, "demonstrations_unknown_words": 0}
    assert len(trainer.train_dataset) == 2


def test_nothing_to_train_on_is_an_error(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    with pytest.raises(ValueError, match="all 1 are longer than max_length=10"):
        make_sft_trainer(model, tokenizer, [BY_HAND], make_config(tmp_path, max_length=10))
    with pytest.raises(ValueError, match="there are none"):
        make_sft_trainer(model, tokenizer, [], make_config(tmp_path))


def test_packing_is_refused(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    with pytest.raises(ValueError, match="packing=True is not supported"):
        make_sft_trainer(model, tokenizer, [SHORT], make_config(tmp_path, packing=True))


def test_the_loss_falls(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    args = make_config(tmp_path, learning_rate=3e-3, max_steps=20, per_device_train_batch_size=8, logging_steps=1)
    trainer, _ = make_sft_trainer(model, tokenizer, TASK.demonstrations(160, 0), args)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_cold_start_trains_in_place_and_reports(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    before = model.get_input_embeddings().weight.clone()
    args = make_config(tmp_path, max_steps=1)
    metrics = cold_start(model, tokenizer, [SHORT, BY_HAND], args)
    assert metrics["demonstrations"] == 2
    assert metrics["train_loss"] > 0
    assert not torch.equal(before, model.get_input_embeddings().weight)
    assert args.dataset_kwargs is None


def test_known_tokens_are_not_encoded_again(model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    pieces = [Segment("e1", token_ids=[5, 6]), Segment("e2", False, [7]), Segment("e3")]
    (row,) = tokenize_demonstrations(tokenizer, [Demonstration("boss", pieces)])
    boss, third = tokenizer("boss e3")["input_ids"]
    assert row["input_ids"] == [boss, 5, 6, 7, third, tokenizer.eos_token_id]
    assert row["labels"] == [IGNORED, 5, 6, IGNORED, third, tokenizer.eos_token_id]


def test_an_empty_demonstration_ends_also_behind_a_prompt_that_ends_with_the_end_token(model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    (row,) = tokenize_demonstrations(tokenizer, [Demonstration("boss <eos>", [])])
    assert row["input_ids"][1:] == [tokenizer.eos_token_id] * 2
    assert row["labels"] == [IGNORED, IGNORED, tokenizer.eos_token_id]


def test_prompts_are_rendered_as_the_trainer_renders_them(model_and_tokenizer):
    _, tokenizer = model_and_tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}{{ word }}"
    chat = Demonstration([{"role": "user", "content": "boss e1"}], SHORT.segments)
    (row,) = tokenize_demonstrations(tokenizer, [chat], {"word": "start"})
    assert tokenizer.decode(row["input_ids"]) == "boss e1 start <answer> e1 </answer> <eos>"


def test_an_adapter_is_trained_alone(model_and_tokenizer, tmp_path):
    peft = pytest.importorskip("peft", reason="needs pip install 'appo[peft]'")
    model, tokenizer = model_and_tokenizer
    adapter = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    args = make_config(tmp_path, max_steps=1)
    trainer, _ = make_sft_trainer(model, tokenizer, [SHORT, BY_HAND], args, peft_config=adapter)
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name for name in trained)
