"""The embedded engine, scoring and a training step on a GPU, in bfloat16; the testbed's tiny model.

bfloat16 has 8 bits of mantissa: a log-probability of a few nats is off by some hundredths.
"""

import math

import pytest
import torch

from appo import APPOConfig, APPOTrainer
from appo.engines.base import Request
from appo.engines.transformers_engine import TransformersEngine
from appo.environments import kinship

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")

CLOSE = 0.1  # nats, in bfloat16


@pytest.fixture
def policy():
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    return model.to("cuda", torch.bfloat16).eval(), tokenizer


def make_trainer(policy, directory, **options):
    model, tokenizer = policy
    args = APPOConfig(
        str(directory),
        num_generations=8,
        method_args={"num_initial_rollouts": 4, "num_branch_points": 1},
        per_device_train_batch_size=16,
        steps_per_generation=2,
        max_completion_length=48,
        tool_protocol="tags",
        result_format=" <result> {} </result> ",
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        **{"max_steps": 2, "learning_rate": 1e-2, "bf16": True, **options},
    )

    def parity_reward(completion_ids, **kwargs):
        return [float(sum(ids) % 2) for ids in completion_ids]

    return APPOTrainer(
        model,
        parity_reward,
        args,
        kinship.make_dataset(16, seed=3),
        processing_class=tokenizer,
        environment_factory=kinship.KinshipEnvironment,
    )


def test_the_embedded_engine_has_the_log_probabilities_of_plain_forwards(policy):
    model, tokenizer = policy
    engine = TransformersEngine(model, pad_token_id=tokenizer.pad_token_id, eos_token_ids=[])
    context = tokenizer("start mother friend boss e12")["input_ids"]
    for number in range(8):
        engine.start(Request(number, context, 24, number))
    turns = []
    while engine.busy:
        turns += engine.step()
    assert len(turns) == 8
    for turn in turns:
        ids = torch.tensor([context + turn.token_ids], device="cuda")
        with torch.no_grad():
            logps_TV = torch.log_softmax(model(ids).logits[0, len(context) - 1 : -1].float(), dim=-1)
        plain_T = logps_TV.gather(1, ids[0, len(context) :, None])[:, 0].cpu()
        torch.testing.assert_close(torch.tensor(turn.logprobs), plain_T, rtol=0.0, atol=CLOSE)


def test_scores_on_the_gpu_are_those_of_the_cpu(policy, tmp_path):
    trainer = make_trainer((policy[0].float(), policy[1]), tmp_path, bf16=False)
    trees = trainer.writer.write([trainer.train_dataset[0]], 4)
    batch, scores = trainer.writer.score(trees[0].rollouts)
    trainer.writer.release(trees)
    assert scores.logps_BT.device.type == "cuda"
    model = trainer.accelerator.unwrap_model(trainer.model).cpu().eval()
    ids = torch.cat([batch.prompt_ids_BP, batch.completion_ids_BT], dim=1).cpu()
    mask = torch.cat([batch.prompt_mask_BP, batch.completion_mask_BT], dim=1).cpu()
    length = batch.completion_ids_BT.shape[1]
    with torch.no_grad():
        logps_BTV = torch.log_softmax(model(ids, attention_mask=mask).logits[:, -length - 1 : -1], dim=-1)
    logps_BT = logps_BTV.gather(2, ids[:, -length:, None])[..., 0]
    entropies_BT = -(logps_BTV.exp() * logps_BTV).sum(dim=-1)
    own_BT = batch.policy_mask_BT.bool().cpu()
    torch.testing.assert_close(scores.logps_BT.cpu()[own_BT], logps_BT[own_BT], rtol=0.0, atol=1e-2)  # TF32
    torch.testing.assert_close(scores.entropies_BT.cpu()[own_BT], entropies_BT[own_BT], rtol=0.0, atol=1e-2)


def test_training_steps_in_bfloat16_change_the_weights(policy, tmp_path):
    model = policy[0].float()  # bf16 is the trainer's autocast, as in the recipes
    before = model.model.embed_tokens.weight.detach().clone()
    trainer = make_trainer((model, policy[1]), tmp_path)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    assert all(math.isfinite(entry["loss"]) and entry["grad_norm"] > 0 for entry in logs)
    assert (model.model.embed_tokens.weight.detach() != before.to(model.device)).any()
