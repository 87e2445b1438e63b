"""The same rollouts in `APPOTrainer`, run beside TRL in another environment than verl's.

    .venv/bin/python tests/with_verl/with_trl.py DIRECTORY

Starts from the run's model and is handed the run's rollouts in the place of its own; all else it does itself:
forwards, entropies, Omega, branch points, credit, the loss and the optimizer's steps. Writes `with_trl.pt`: for each
update the advantages, Omega, branch points and log-probabilities that it found.
"""

import copy
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from appo import APPOConfig, APPOTrainer
from appo.environments import kinship


def main(directory):
    files = sorted((directory / "watched").glob("update-*.pt"))
    written = [torch.load(file, weights_only=False)["trees"] for file in files]
    first = written[0][0]
    rollouts, tasks = len(first.rollouts), len(written[0])
    branches = (rollouts - first.num_initial) // first.num_initial
    args = APPOConfig(
        str(directory / "with_trl"),
        per_device_train_batch_size=tasks * rollouts,
        num_generations=rollouts,
        steps_per_generation=2,
        max_steps=len(written),
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        weight_decay=0.0,
        method_args={"num_initial_rollouts": first.num_initial, "num_branch_points": branches},
        tool_protocol="tags",
        result_format=" <result> {} </result> ",
        max_completion_length=64,
        save_strategy="no",
        save_records=False,
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = APPOTrainer(
        AutoModelForCausalLM.from_pretrained(directory / "policy", dtype=torch.float32),
        kinship.exact_answer,
        args,
        kinship.make_dataset(16, seed=3),
        processing_class=AutoTokenizer.from_pretrained(directory / "policy"),
        environment_factory=kinship.KinshipEnvironment,
    )
    found = hand_over(trainer, written)
    trainer.train()
    torch.save(found, directory / "with_trl.pt")


def hand_over(trainer, written):
    """Lets a trainer write the rollouts that were written; returns a list that fills with what it makes of them."""
    found, generations = [], iter(range(0, len(written), 2))
    credit = trainer.method.credit

    def write(rows, size, *others):
        start = next(generations)
        trees = [copy.deepcopy(tree) for update in written[start : start + 2] for tree in update]
        for tree in trees:
            assert tree.num_initial == size
            tree.drop_branches()
        return trees

    def branch(trees, points, stream, **others):
        chosen = [(trees.index(point.tree), point.rollout, point.position) for point in points]
        found.append({"points": chosen})
        for tree, own in zip(trees, written[len(found) - 1], strict=True):
            for one in own.branches:
                tree.add_branch(copy.deepcopy(one), one.parent, one.branch_position)

    def watched_credit(trees, scores):
        made = credit(trees, scores)
        found[-1].update(
            advantages_BT=made.advantages_BT * made.loss_mask_BT,
            omega_BT=made.measured["omega"],
            logps_BT=scores.current.logps_BT,
        )
        return made

    trainer.writer.write, trainer.writer.branch, trainer.method.credit = write, branch, watched_credit
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
