"""What `reset` returns joins the prompt as it does in TRL, and the policy reads every text of it."""

import pytest
from datasets import Dataset
from test_chat_templates import make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from appo import APPOConfig, APPOTrainer
from appo.errors import UserError
from appo.rollout.environments import as_texts, with_observation


def part(text):
    return {"type": "text", "text": text}


def user(content):
    return [{"role": "system", "content": "s"}, {"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("content", "observation", "joined"),
    [
        ("a ", None, "a "),
        ("a ", "b", "a b"),
        ("a ", [part("b"), part("c")], [part("a "), part("b"), part("c")]),
        ([part("a ")], "b", [part("a "), part("b")]),
        ([part("a ")], [part("b")], [part("a "), part("b")]),
    ],
)
def test_texts_and_parts_join(content, observation, joined):
    prompt = user(content)
    assert with_observation(prompt, observation) == user(joined)
    assert prompt == user(content)


def test_a_prompt_that_is_a_text_takes_the_texts_of_parts():
    assert with_observation("a ", [part("b"), part("c")]) == "a bc"


@pytest.mark.parametrize("observation", [{"text": "b"}, 3])
def test_an_observation_of_another_kind_is_refused(observation):
    kind = type(observation).__name__
    with pytest.raises(UserError, match=f"returned a {kind}; return None, a text or a list of parts"):
        with_observation(user("a"), observation)


@pytest.mark.parametrize("odd", [{"type": "image", "image": 1}, {"type": "text"}, "text"])
def test_a_part_that_is_no_text_is_refused(odd):
    with pytest.raises(UserError, match=r'a prompt holds the part .* take {"type": "text"'):
        as_texts(user([part("a"), odd]))


class Room:
    def reset(self, **row):
        return [part("It is "), part("dark.")]

    def look(self) -> str:
        """Looks.

        Returns:
            What is seen.
        """
        return "dark"

    def get_reward(self) -> float:
        return 1.0


@pytest.mark.parametrize("protocol", ["tags", "chat_template"])
def test_the_policy_reads_the_parts_that_a_text_models_template_would_drop(tmp_path, protocol):
    tokenizer = make_tokenizer("qwen3")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    args = APPOConfig(
        str(tmp_path), bf16=False, use_cpu=True, report_to="none", max_completion_length=2, tool_protocol=protocol
    )
    row = {"prompt": [{"role": "user", "content": "Where? "}]}
    trainer = APPOTrainer(
        LlamaForCausalLM(config),
        args=args,
        train_dataset=Dataset.from_list([row] * 16),
        processing_class=tokenizer,
        environment_factory=Room,
    )
    (tree,) = trainer.writer.write([row], 1)
    assert "user\nWhere? It is dark.<|im_end|>" in tokenizer.decode(tree.initial[0].prompt_ids)
    assert tree.initial[0].prompt[0]["content"] == [part("Where? "), part("It is "), part("dark.")]
