"""A run that was killed goes on as if it had not been: weights, records and totals, from every checkpoint."""

import shutil
from datetime import date

import pytest
import torch
from recorded import recorded
from training_parts import make_searching_trainer, make_trainer, parity_reward
from transformers import AutoModelForCausalLM, AutoTokenizer, IntervalStrategy

from appo import APPOTrainer
from appo.checkpoints import fault_of, find_checkpoint
from appo.environments import kinship
from appo.errors import UserError
from appo.rollout.records import read_records

EACH = {"max_steps": 4, "steps_per_generation": 4, "save_strategy": "steps", "save_steps": 1}


def outcome(trainer, directory):
    """Weights, records and totals of a run that has ended."""
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    totals = {name: value for name, value in trainer.counters.totals().items() if "seconds" not in name}
    return weights, recorded(directory), totals


def check_every_checkpoint(make, tmp_path, **options):
    whole = make(tmp_path / "whole", **{**EACH, **options})
    whole.train()
    weights, records, totals = outcome(whole, tmp_path / "whole")
    for step in (1, 2, 3):
        directory = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "whole", directory)
        resumed = make(directory, **{**EACH, **options})
        resumed.train(resume_from_checkpoint=str(directory / f"checkpoint-{step}"))
        again, written, counted = outcome(resumed, directory)
        assert torch.equal(again, weights), f"weights differ after a resume at step {step}"
        assert written == records
        assert counted == totals


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_iterations": 2, "steps_per_generation": 2},
        {"method_args": {"num_branch_rounds": 2}},
        {"method": "raft", "method_args": {"token_weight": "fork"}, "num_iterations": 2, "steps_per_generation": 2},
        {"method": "whole_tree", "method_args": {"branching": "branching_score"}},
        {"logging_steps": 3},
    ],
    ids=["appo", "two passes", "two rounds", "raft", "whole tree", "between two logs"],
)
def test_a_run_goes_on_to_the_bit_from_inside_a_generation(tmp_path, options):
    check_every_checkpoint(make_trainer, tmp_path, **options)


def test_a_reference_policy_that_follows_is_kept(tmp_path):
    start = tmp_path / "start"
    for part in kinship.make_model():
        part.save_pretrained(start)

    def with_reference(directory, **options):
        pair = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
        return make_trainer(directory, pair, **options)

    follows = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5}
    check_every_checkpoint(with_reference, tmp_path, beta=0.1, **follows)


@pytest.mark.parametrize("method", ["arpo", "vineppo"])
def test_branches_of_the_behaviour_policy_are_kept(tmp_path, method):
    check_every_checkpoint(make_searching_trainer, tmp_path, method=method)


def test_a_run_that_had_ended_has_its_best_model_again(tmp_path):
    def make():
        args = make_trainer(tmp_path, **EACH, learning_rate=0.3).args
        args.eval_strategy, args.eval_steps, args.per_device_eval_batch_size = IntervalStrategy.STEPS, 1, 8
        args.load_best_model_at_end, args.metric_for_best_model, args.greater_is_better = True, "eval_reward", True
        torch.manual_seed(0)
        model, tokenizer = kinship.make_model()
        rows, questions = kinship.make_dataset(16, seed=3), kinship.make_dataset(8, seed=5)
        tools = {"processing_class": tokenizer, "environment_factory": kinship.KinshipEnvironment}
        return APPOTrainer(model, parity_reward, args, rows, eval_dataset=questions, **tools)

    whole = make()
    whole.train()
    newest = tmp_path / "checkpoint-4"
    assert whole.state.best_model_checkpoint != str(newest)
    again = make()
    again.load_finished(str(newest))
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_generation_is_not_written_again(tmp_path, monkeypatch):
    make_trainer(tmp_path, **EACH).train()
    resumed = make_trainer(tmp_path, **EACH)
    monkeypatch.setattr(type(resumed), "_write_generation", lambda *a: pytest.fail("it was written again"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_rows_that_json_does_not_keep_are_told_and_the_run_still_goes_on(tmp_path):
    def with_dates(directory):
        trainer = make_trainer(directory, **{**EACH, "max_steps": 3})
        trainer.train_dataset = trainer.train_dataset.add_column("day", [date(2026, 6, 1)] * 16)
        return trainer

    with pytest.warns(UserWarning, match="a row holds a value that JSON does not keep"):
        with_dates(tmp_path).train()
    resumed = with_dates(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert {record["step"] for record in read_records(tmp_path)} == {1, 2, 3}


def test_true_takes_the_newest_checkpoint_that_is_whole(tmp_path):
    make_trainer(tmp_path, **EACH).train()
    (tmp_path / "checkpoint-best").mkdir()
    weights = tmp_path / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "checkpoint-3" / "optimizer.pt").unlink()
    assert find_checkpoint(tmp_path)[0] == str(tmp_path / "checkpoint-2")
    resumed = make_trainer(tmp_path, **EACH)
    with pytest.warns(UserWarning, match=r"checkpoint-4 is left out: model.safetensors has 1000 bytes of"):
        resumed.train(resume_from_checkpoint=True)
    assert {record["step"] for record in read_records(tmp_path)} == {1, 2, 3, 4}


def test_true_without_a_whole_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        make_trainer(tmp_path, **EACH).train(resume_from_checkpoint=True)


def test_a_checkpoint_counts_only_once_it_is_finished_and_older_ones_stay_until_then(tmp_path, monkeypatch):
    """The kill comes while checkpoint 2 is written: with a limit of one, checkpoint 1 must still be there."""
    trainer = make_trainer(tmp_path, **EACH, save_total_limit=1)
    save = type(trainer)._save_generation

    def killed(self, directory):
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        save(self, directory)

    monkeypatch.setattr(type(trainer), "_save_generation", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert fault_of(tmp_path / "checkpoint-2") == "whole.json is missing: it was not written to its end"
    assert find_checkpoint(tmp_path)[0] == str(tmp_path / "checkpoint-1")
    monkeypatch.undo()
    resumed = make_trainer(tmp_path, **EACH, save_total_limit=1)
    resumed.train(resume_from_checkpoint=True)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]


def test_a_second_training_of_one_trainer_begins_anew(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, steps_per_generation=4)
    trainer.train()
    trainer.train()
    assert {record["step"] for record in read_records(tmp_path)} == {1}
    assert (tmp_path / "records.1").exists()
