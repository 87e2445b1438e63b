"""The model under evaluation: what it is asked, and that what is loaded is what was saved."""

import pytest
import torch
from scripted_model import byte_tokenizer, save_random
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from appo.environments import kinship
from appo.environments.prompts import system_prompt
from appo.errors import UserError
from appo.evaluation import policy
from appo.evaluation.policy import file_marks, load_policy
from appo.rollout.unknown_words import UnknownWords

CHAT = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

# As Gemma's: a system message is an error.
USER_ONLY = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}[{{ message['role'] }}]{{ message['content'] }}"
    "{% endfor %}"
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


def test_words_that_a_word_level_tokenizer_does_not_know_are_told(tmp_path, caplog):
    model, tokenizer = kinship.make_model()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_policy(str(tmp_path), "tags", {}, "")
    caplog.clear()
    loaded._unknown = UnknownWords(tokenizer, "prompts of benchmarks")  # that has not told anything yet
    loaded.prompt("boss e1")
    assert not caplog.messages
    loaded.prompt("Where is e1")
    assert "prompts of benchmarks hold words that the tokenizer does not know" in caplog.text
    assert "'Where' (1)" in caplog.text


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
    assert type(loaded.model) is type(load_policy(directory, "tags", {}).model)  # merged


def test_a_windowed_model_is_refused_in_one_sentence(directory, monkeypatch):
    model, tokenizer = policy.read_model(directory)
    model.config.layer_types = ["sliding_attention"]
    monkeypatch.setattr(policy, "read_model", lambda source, **options: (model, tokenizer))
    with pytest.raises(UserError, match=r"model = 'm' cannot be used: the embedded engine needs full attention"):
        load_policy("m", "tags", {})


@pytest.mark.parametrize("protocol", ["tags", "chat_template"])
def test_a_template_that_refuses_the_system_message_is_said_with_the_remedy(directory, protocol):
    set_template(directory, USER_ONLY)
    sentence = r"its chat template cannot write the prompt \(System role not supported\); .* give --system_prompt \"\""
    with pytest.raises(UserError, match=sentence):
        load_policy(directory, protocol, {})
    assert load_policy(directory, protocol, {}, "").prompt("Who?")[0] == "[user]Who?"


def test_a_template_that_fails_without_a_system_message_too_has_another_remedy(directory):
    set_template(directory, "{{ raise_exception('no') }}")
    with pytest.raises(UserError, match=r"cannot write the prompt \(no\); mend the template"):
        load_policy(directory, "tags", {}, "")


def test_an_empty_system_prompt_leaves_the_question_alone_in_plain_text(directory):
    assert load_policy(directory, "tags", {"python": weather}, "").prompt("Who?")[0] == "Who?\n"


@pytest.mark.parametrize(("template", "starts"), [(None, "<s>"), ("{{ bos_token }}" + CHAT, "<s>[system]")])
def test_a_prompt_begins_with_one_token_of_beginning(directory, template, starts):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    loaded = load_policy(directory, "tags", {})
    _, ids = loaded.prompt("Who?")
    assert ids.count(bos) == 1 and loaded.tokenizer.decode(ids).startswith(starts)


@pytest.mark.parametrize("content", ["{}", "[]", '{"base_model_name_or_path": null}'])
def test_an_adapter_without_its_base_is_said(tmp_path, content):
    pytest.importorskip("peft")
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(UserError, match=r"adapter_config.json does not name the base model; set base_model_name"):
        load_policy(str(tmp_path), "tags", {})


def test_new_weights_have_a_new_mark(directory, tmp_path):
    before = file_marks(directory)
    assert None not in before.values() and file_marks(directory) == before
    (tmp_path / "base" / "model.safetensors").touch()
    after = file_marks(directory)
    assert after["weights"] != before["weights"]
    assert after["tokenizer_and_config"] == before["tokenizer_and_config"]
    assert file_marks("Qwen/Qwen3-0.6B") == {"weights": None, "tokenizer_and_config": None}


@pytest.mark.parametrize("name", ["generation_config.json", "chat_template.jinja", "tokenizer.model", "merges.txt"])
def test_a_new_tokenizer_template_or_config_has_a_new_mark(directory, tmp_path, name):
    (tmp_path / "base" / name).write_text("{}")
    before = file_marks(directory)
    (tmp_path / "base" / name).write_text("{ }")
    after = file_marks(directory)
    assert after["tokenizer_and_config"] != before["tokenizer_and_config"]
    assert after["weights"] == before["weights"]


@pytest.mark.parametrize("protocol", ["tags", "chat_template"])
def test_options_reach_the_template_of_prompts_and_results(directory, protocol):
    from trl.chat_template_utils import qwen3_chat_template

    set_template(directory, qwen3_chat_template)
    no_thought, empty = {"enable_thinking": False}, "<think>\n\n</think>\n\n"
    plain, told = (load_policy(directory, protocol, {"weather": weather}, None, given) for given in (None, no_thought))
    assert told.prompt("Who?")[0] == plain.prompt("Who?")[0] + empty
    if protocol == "chat_template":
        results = [
            plain.protocol.encode_results([("weather", "hot")]),
            told.protocol.encode_results([("weather", "hot")]),
        ]
        assert told.tokenizer.decode(results[1]) == told.tokenizer.decode(results[0]) + empty


def test_options_need_a_template(directory):
    with pytest.raises(UserError, match="it has no chat template, which chat_template_kwargs are for"):
        load_policy(directory, "tags", {}, None, {"enable_thinking": False})


def test_a_runs_directory_is_no_model_but_names_it(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"that is the directory of a run; give its model, .*/model"):
        load_policy(str(tmp_path), "tags", {})
