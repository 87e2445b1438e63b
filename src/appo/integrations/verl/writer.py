"""What a method may ask of verl (`appo.methods.Writer`): branches by the present weights, scores, random numbers.

A branch is a row of its own in verl's queue, with the prefix of its parent; before it is written, the rollout servers
get the present weights. verl's controller is one process, so branches need no other process to keep step.

Left out on purpose: rollouts from prompts (`write`, `draw_rows`), which only methods ask for that expand generations.
"""

import json
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tensordict import NonTensorStack
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from appo.errors import UserError
from appo.integrations.verl import queue
from appo.integrations.verl.agent_loop import PREFIX, SEED
from appo.rollout.batches import rollout_as_dict
from appo.rollout.scoring import RolloutBatch, TokenScores, collate, stack_scores
from appo.rollout.tree import BranchPoint, RolloutTree
from appo.rollout.types import Rollout

if TYPE_CHECKING:
    from appo.integrations.verl.trainer import APPOTrainerSync

# Shapes: B rollouts, T completion tokens.


class VerlWriter:
    """
    Args:
        host: The trainer, whose servers write and whose workers score.
        seed: The run's.

    Attributes:
        generation: The rows of the present generation, as verl submitted them, and the place of each task there.
        keys: Where each rollout of the generation lies in the queue, by its id.
        update: Number of the optimizer step that is being prepared, from 1.
    """

    def __init__(self, host: "APPOTrainerSync", seed: int) -> None:
        self._host, self._seed = host, seed
        self.vocab_size = len(host.tokenizer)
        self.generation: tuple[Any, dict[str, int]] = (None, {})
        self.keys: dict[int, str] = {}
        self.tags: dict[str, dict[str, Any]] = {}
        self.update = 0
        self._branch_keys: list[str] = []

    # ---- what methods ask for ----

    def branch(
        self,
        trees: list[RolloutTree],
        points: list[BranchPoint],
        stream: int,
        *,
        branches_branch: bool = False,
        counted: bool = True,
    ) -> None:
        """See `appo.methods.Writer`.

        Raises:
            RuntimeError: where a branch failed; verl's log has its traceback.
        """
        if not points:
            return
        host, (rows, places) = self._host, self.generation
        names = [str(uuid.uuid4()) for _ in points]
        prefixes = [point.tree.rollouts[point.rollout].prefix(point.position) for point in points]
        seeds = self._seeds(stream, len(points))
        batch = rows[[places[point.tree.id] for point in points]].clone()
        batch["uid"] = NonTensorStack(*names)
        batch["__rollout_n__"] = NonTensorStack(*[1] * len(points))
        batch[PREFIX] = NonTensorStack(*[json.dumps(rollout_as_dict(prefix)) for prefix in prefixes])
        batch[SEED] = NonTensorStack(*seeds)
        host.checkpoint_manager.update_weights(host.global_steps)  # wakes the servers, too
        PPOTrainerSync._submit_batch_to_rollout(host, batch)
        found = host.sample(len(points))
        keys = {queue.uid_of(key): key for key in found.keys}
        if missing := len(points) - len(keys):
            raise RuntimeError(f"{missing} of {len(points)} branches failed; the agent loop's log says why.")
        self.tags.update(zip(found.keys, found.tags, strict=True))
        own = [keys[name] for name in names]
        self._branch_keys += own
        for point, key, branch in zip(points, own, queue.read_rollouts(own), strict=True):
            branch.branch_score, branch.branch_rank = point.score, point.rank
            point.tree.add_branch(branch, point.rollout, point.position)
            self.keys[id(branch)] = key

    def score(self, rollouts: list[Rollout], *, remember: bool = False) -> tuple[RolloutBatch, TokenScores]:
        """See `appo.methods.Writer`."""
        return self.collate(rollouts), self.score_keys([self.keys[id(rollout)] for rollout in rollouts])

    def generator(self, stream: int) -> torch.Generator:
        """See `appo.methods.Writer`."""
        return torch.Generator().manual_seed(self._seeds(stream, 1)[0])

    def write(self, rows: list[dict[str, Any]], size: int, stream: int = 0) -> list[RolloutTree]:
        raise UserError("a method's branch() asked for further tasks (writer.write), which verl's trainer cannot add.")

    def draw_rows(self, count: int, generator: torch.Generator) -> list[dict[str, Any]]:
        raise UserError(
            "a method's branch() asked for further rows (writer.draw_rows), which verl's trainer cannot add."
        )

    # ---- what the trainer asks for ----

    def _seeds(self, stream: int, count: int) -> list[int]:
        """Below 2**63; a function of run, update and stream."""
        entropy = [self._seed, self.update, stream]
        return [int(seed >> 1) for seed in np.random.SeedSequence(entropy).generate_state(count, np.uint64)]

    def begin(self, batch: Any) -> Any:
        """Takes the rows of a generation, and gives them the seeds of their rollouts."""
        batch[SEED] = NonTensorStack(*self._seeds(0, len(batch)))
        self.generation = (batch.clone(), {str(uid): place for place, uid in enumerate(batch["uid"])})
        self.keys, self.tags = {}, {}
        return batch

    def collate(self, rollouts: list[Rollout]) -> RolloutBatch:
        """Padded rollouts, on the CPU."""
        pad = self._host.tokenizer.pad_token_id
        return collate(rollouts, pad_token_id=0 if pad is None else pad, device="cpu")

    def score_keys(self, keys: list[str]) -> TokenScores:
        """Log-probabilities and entropies of what lies under these keys, under the present policy."""
        meta = queue.meta_of(keys, self.tags)
        self._host.compute_log_probs(meta)
        return self.scores_at(keys, "log_probs", "entropy", shifted=True)

    def scores_at(self, keys: list[str], logps: str, entropies: str, *, shifted: bool = False) -> TokenScores:
        """Scores that lie in the queue.

        Args:
            keys: One per row.
            logps, entropies: Names of the fields.
            shifted: Whether they are as verl's workers write them: of prompt and completion, each in the place of the
                token before.
        """
        found = queue.rows_of(keys, logps, entropies, "responses")
        rows = []
        for logps_S, entropies_S, response in zip(*found.values(), strict=True):
            end = len(logps_S) - shifted
            own = slice(end - len(response), end)
            rows.append(TokenScores(logps_S[own].float(), entropies_S[own].float()))
        return stack_scores(rows, max(len(row.logps_BT) for row in rows))

    def drop_branches(self) -> None:
        """Takes the branches of an update from the queue."""
        queue.clear(self._branch_keys)
        self._branch_keys = []
