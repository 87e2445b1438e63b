"""The model under evaluation: what it is asked, and that what is loaded is what was saved."""

import pytest
import torch
from scripted_model import byte_tokenizer, save_random
from transformers import AutoModelForCausalLM, AutoTokenizer

from appo.environments.prompts import system_prompt
from appo.evaluation import policy
from appo.evaluation.policy import load_policy, weights_mark
from appo.recipe import RecipeError

CHAT = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def weather(city: str) -> str:
    """Tells the weather.

    Args:
        city: The city.
    """
    return f"hot in {city}"


@pytest.fixture
def directory(tmp_path):
    return save_random(tmp_path / "base")


def set_template(directory, template):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)


def test_without_a_chat_template_the_prompt_is_plain(directory):
    loaded = load_policy(directory, "tags", {"python": weather})
    text, ids = loaded.prompt("Who?\ud800")
    assert text == f"{system_prompt(['python'])}\n\nWho??\n"
    assert loaded.tokenizer.decode(ids) == text


def test_tags_are_told_in_the_system_prompt(directory):
    set_template(directory, CHAT)
    text, ids = load_policy(directory, "tags", {"weather": weather}).prompt("Who?")
    assert text == f"[system]{system_prompt(['weather'])}[user]Who?[assistant]"
    assert byte_tokenizer().decode(ids) == text


def test_the_chat_template_tells_of_tools_itself(directory):
    from trl.chat_template_utils import qwen3_chat_template

    set_template(directory, qwen3_chat_template)
    text, _ = load_policy(directory, "chat_template", {"weather": weather}).prompt("Who?")
    assert "Tells the weather." in text and "<tool_call>" in text
    assert system_prompt([]) in text and "<weather>" not in text


def test_every_end_ends_a_turn(directory):
    loaded = load_policy(directory, "tags", {})
    assert loaded.eos_token_ids == set(loaded.tokenizer.convert_tokens_to_ids([*"abcdefghij", "<|end|>"]))
    assert loaded.context_length == 4096


def test_an_adapter_is_loaded_on_its_base(directory, tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = load_policy(str(tmp_path / "adapter"), "tags", {})
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected, found = adapted(ids).logits, loaded.model(ids).logits
        plain = load_policy(directory, "tags", {}).model(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_a_windowed_model_is_refused_in_one_sentence(directory, monkeypatch):
    model, tokenizer = policy._load(directory)
    model.config.layer_types = ["sliding_attention"]
    monkeypatch.setattr(policy, "_load", lambda source: (model, tokenizer))
    with pytest.raises(RecipeError, match=r"model = 'm' cannot be used: the embedded engine needs full attention"):
        load_policy("m", "tags", {})


def test_new_weights_have_a_new_mark(directory, tmp_path):
    before = weights_mark(directory)
    assert before is not None and weights_mark(directory) == before
    (tmp_path / "base" / "model.safetensors").touch()
    assert weights_mark(directory) != before
    assert weights_mark("Qwen/Qwen3-0.6B") is None
