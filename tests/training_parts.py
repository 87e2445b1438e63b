"""What tests of training share: small trainers on the testbed's tiny model, and looks at what their loss is given."""

import statistics

import torch

from appo import APPOConfig, APPOTrainer
from appo.environments import kinship

RESULT = " <result> {} </result> "
HALVES = {"num_initial_rollouts": 4, "num_branch_points": 1}  # of 8 rollouts
WITH_BRANCHES = ("appo", "whole_tree", "tree_grpo", "vineppo")
OPTIONS = {
    "per_device_train_batch_size": 16,
    "num_generations": 8,
    "steps_per_generation": 2,
    "max_steps": 2,
    "max_completion_length": 24,
    "deterministic": True,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "tool_protocol": "tags",
    "result_format": RESULT,
    "save_report": False,  # takes a second
    "disable_tqdm": True,
}


def parity_reward(completion_ids, **kwargs):
    """Something that a random model's rollouts differ in."""
    return [float(sum(ids) % 2) for ids in completion_ids]


def make_config(directory, method="appo", method_args=None, **options):
    """Two tasks of 8 rollouts per update, two updates per generation; half of them branches, where there are any."""
    own = HALVES if method in WITH_BRANCHES or "Branching" in method or "Variance" in method else {}
    return APPOConfig(
        str(directory),
        method=method,
        method_args={**own, **(method_args or {})},
        bf16=False,
        use_cpu=True,
        report_to="none",
        **{**OPTIONS, **options},
    )


def make_trainer(directory, model_and_tokenizer=None, reward=parity_reward, kind=APPOTrainer, extra=None, **options):
    """A trainer on 16 questions; `extra` are further arguments of the trainer, `options` those of `make_config`."""
    torch.manual_seed(0)
    model, tokenizer = model_and_tokenizer or kinship.make_model()
    args = make_config(directory, **options)
    kwargs = {} if args.tool_protocol != "tags" else {"environment_factory": kinship.KinshipEnvironment}
    rows = kinship.make_dataset(16, seed=3)
    return kind(model, reward, args, rows, processing_class=tokenizer, **kwargs, **(extra or {}))


def make_searching_trainer(directory, **options):
    """As `make_trainer`, with longer rollouts by a model that calls its tool all the time; decisions are known."""
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    # A random model closes calls rarely; with this bias it does all the time.
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("</search>")] *= 3
    options = {"max_completion_length": 48, **options}
    extra = {"decision_positions": kinship.decision_positions}
    return make_trainer(directory, (model, tokenizer), extra=extra, **options)


def captured(trainer, monkeypatch):
    """(inputs of the loss, policy weights at that time) of every micro-batch."""
    seen = []
    original = type(trainer)._compute_loss

    def compute_loss(self, model, inputs):
        weights = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        seen.append(({**inputs}, weights))
        return original(self, model, inputs)

    monkeypatch.setattr(type(trainer), "_compute_loss", compute_loss)
    return seen


def watch(trainer, monkeypatch):
    """Per update (inputs of the loss, its trees, log-probabilities of the policy at that moment)."""
    seen, trees = [], []
    prepare, compute = trainer._prepare_mini_batch, trainer._compute_loss

    def prepare_mini_batch(mini_batch):
        inputs = prepare(mini_batch)
        trees.append(list(mini_batch.trees))
        return inputs

    def compute_loss(model, inputs):
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        length = inputs["completion_ids"].shape[1]
        with torch.no_grad():
            logps, _, _ = trainer._get_per_token_logps_and_entropies(model, ids, mask, length, batch_size=len(ids))
        seen.append(({**inputs}, trees[-1], logps))
        return compute(model, inputs)

    monkeypatch.setattr(trainer, "_prepare_mini_batch", prepare_mini_batch)
    monkeypatch.setattr(trainer, "_compute_loss", compute_loss)
    return seen


def trained(directory, monkeypatch, **options):
    """What `watch` saw of a run of a searching trainer."""
    trainer = make_searching_trainer(directory, **options)
    seen = watch(trainer, monkeypatch)
    trainer.train()
    assert len(seen) == trainer.args.max_steps
    return seen


def branches_written(trainer, monkeypatch):
    """(`global_step`, points) of each call that writes branches."""
    calls = []
    original = trainer.writer.branch

    def branch(trees, points, *args, **kwargs):
        calls.append((trainer.state.global_step, points))
        return original(trees, points, *args, **kwargs)

    monkeypatch.setattr(trainer.writer, "branch", branch)
    return calls


def completions(inputs):
    """Token ids of the loss's rows."""
    return [ids[m.bool()].tolist() for ids, m in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)]


def rollouts_of(trees):
    return [rollout for tree in trees for rollout in tree.rollouts]


def normalised(rewards):
    mean, std = statistics.fmean(rewards), statistics.pstdev(rewards)
    return [(reward - mean) / std if std else 0.0 for reward in rewards]


def mask_of(inputs, row, rollout):
    """The loss mask of one row, without its padding."""
    return inputs["tool_mask"][row, : len(rollout.completion_ids)].tolist()


def weights_of(trainer):
    return torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
