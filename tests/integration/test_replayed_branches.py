"""Where a replay answers otherwise, a training goes on without the branches that it would have been for."""

import itertools

import pytest
import torch
from training_parts import make_config, parity_reward

from appo import APPOTrainer
from appo.environments import kinship


class Wandering:
    """It cannot be copied, and its answers go on counting from one environment to the next."""

    numbers = itertools.count()

    def __deepcopy__(self, memo):
        raise TypeError("it holds a lock")

    def reset(self, **row):
        pass

    def search(self, query: str) -> str:
        """Looks up.

        Args:
            query: What.
        """
        return f"e{next(self.numbers) % 24}"


@pytest.mark.parametrize("method", ["appo", "appo_rescue", "arpo", "tree_grpo", "vineppo"])
def test_a_training_goes_on_without_the_branches_of_replays_that_differ(tmp_path, method):
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    with torch.no_grad():  # a random model closes calls rarely; with this bias it does all the time
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("</search>")] *= 3
    trainer = APPOTrainer(
        model,
        parity_reward,
        make_config(tmp_path, method=method, max_completion_length=48),
        kinship.make_dataset(16, seed=3),
        processing_class=tokenizer,
        environment_factory=Wandering,
    )
    with pytest.warns(
        UserWarning, match=r"^a branch is left out: search\(.*\) gave 'e\d+' in a replay, and 'e\d+' before"
    ):
        trainer.train()
    assert trainer.state.global_step == trainer.args.max_steps
    assert trainer.counters.totals()["branches/left_out"] > 0
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
