"""What TRL's users hand to a trainer: adapters, reference models, streams, environments with rewards."""

import pytest
import torch
from datasets import Dataset
from training_parts import make_trainer, parity_reward

from appo import APPOConfig, APPOTrainer
from appo.environments import kinship
from appo.rollout.records import read_records


def test_a_reference_model_and_its_kl(tmp_path):
    model, tokenizer = kinship.make_model()
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    trainer = make_trainer(tmp_path / "run", model_and_tokenizer=(str(tmp_path / "start"), tokenizer), beta=0.1)
    trainer.train()
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[1] > 1e-4


@pytest.mark.parametrize("token_weight", ["uniform", "fork"])
def test_peft_trains_the_adapter_only(tmp_path, token_weight):
    from peft import LoraConfig

    model, tokenizer = kinship.make_model()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters()}
    args = make_trainer(tmp_path, method_args={"token_weight": token_weight}).args
    trainer = APPOTrainer(
        model,
        parity_reward,
        args,
        kinship.make_dataset(16, seed=3),
        processing_class=tokenizer,
        environment_factory=kinship.KinshipEnvironment,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1),
    )
    trainer.train()
    after = {
        n.replace("base_model.model.", "").replace(".base_layer", ""): p for n, p in trainer.model.named_parameters()
    }
    assert all((after[n] == p).all() for n, p in frozen.items())
    assert any((p != 0).any() for n, p in after.items() if "lora_B" in n)
    # Dropout must not make the policy look changed: Omega is 1 before the first update.
    assert trainer.state.log_history[0]["omega/std"] == 0


def test_environment_reward_in_the_tag_protocol(tmp_path):
    class Own(kinship.KinshipEnvironment):
        def get_reward(self) -> float:
            return 0.25

    args = make_trainer(tmp_path).args
    args.reward_weights = [2.0]
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    trainer = APPOTrainer(
        model,
        parity_reward,
        args,
        kinship.make_dataset(16, seed=3),
        processing_class=tokenizer,
        environment_factory=Own,
    )
    assert args.reward_weights == [2.0]  # the caller's configuration is not changed
    trainer.train()
    record = next(read_records(tmp_path))
    assert record["rewards"]["Own"] == 0.25
    assert record["reward"] == 2 * record["rewards"]["parity_reward"] + 0.25


def test_iterable_data(tmp_path):
    args = make_trainer(tmp_path).args
    model, tokenizer = kinship.make_model()
    rows = Dataset.from_list(list(kinship.make_dataset(16, seed=3))).to_iterable_dataset()
    trainer = APPOTrainer(
        model, parity_reward, args, rows, processing_class=tokenizer, environment_factory=kinship.KinshipEnvironment
    )
    trainer.train()
    assert trainer.state.global_step == 2


def test_unsupported_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="repetition_penalty"):
        APPOConfig(str(tmp_path), repetition_penalty=1.1, bf16=False)
    model, tokenizer = kinship.make_model()
    with pytest.raises(ValueError, match="rollout_func"):
        APPOTrainer(model, parity_reward, make_trainer(tmp_path).args, processing_class=tokenizer, rollout_func=print)


def test_too_few_rows_for_a_generation_are_refused(tmp_path):
    args = make_trainer(tmp_path).args
    model, tokenizer = kinship.make_model()
    with pytest.raises(ValueError, match="train_dataset has 3 rows, but one generation takes 4 tasks"):
        APPOTrainer(model, parity_reward, args, kinship.make_dataset(3, seed=3), processing_class=tokenizer)
