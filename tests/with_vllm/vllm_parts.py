"""What tests with vLLM share: the testbed's model in a shape that vLLM's kernels for CPUs take."""

import openai
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from appo import APPOConfig, APPOTrainer
from appo.environments import kinship

RESULT = " <result> {} </result> "


def make_model():
    """As `kinship.make_model`, with heads of 32 numbers; it closes calls now and then."""
    torch.manual_seed(0)
    tokenizer = kinship.make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        initializer_range=0.1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("</search>")] *= 2
    return model, tokenizer


def parity_reward(completion_ids, **kwargs):
    """Something that a random model's rollouts differ in."""
    return [float(sum(ids) % 2) for ids in completion_ids]


def make_trainer(directory, peft_config=None, environment_factory=kinship.KinshipEnvironment, agent=None, **options):
    """Two tasks of 8 rollouts per update, half of them branches; two updates per generation, four in all."""
    defaults = {
        "per_device_train_batch_size": 16,
        "num_generations": 8,
        "method_args": {"num_initial_rollouts": 4, "num_branch_points": 1},
        "steps_per_generation": 2,
        "max_steps": 4,
        "max_completion_length": 48,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "tool_protocol": "tags",
        "result_format": RESULT,
        "use_vllm": True,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    model, tokenizer = make_model()
    return APPOTrainer(
        model,
        parity_reward,
        APPOConfig(str(directory), **{**defaults, **options}),
        kinship.make_dataset(16, seed=3),
        processing_class=tokenizer,
        environment_factory=environment_factory,
        agent=agent,
        peft_config=peft_config,
    )


TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %} {% endfor %}"
)


def asking_on(row, base_url, api_key):
    """Asks, and asks again."""
    client = openai.OpenAI(base_url=base_url, api_key=api_key)
    messages = [{"role": "user", "content": row["prompt"]}]
    for _ in range(3):
        answer = client.chat.completions.create(model="any", messages=messages, max_tokens=8)
        messages += [answer.choices[0].message, {"role": "user", "content": "start mother"}]
    return float(len(answer.choices[0].message.content) % 2)


def make_agents_trainer(directory, **options):
    """As `make_trainer`, of an agent that asks three times."""
    trainer = make_trainer(directory, environment_factory=None, agent=asking_on, **options)
    trainer.processing_class.chat_template = TEMPLATE
    return trainer
