"""`ResumableTrainer`: a rollout trainer that goes on from a kill at any moment as if there had been none.

transformers restores weights, optimizer, scheduler and random states. A checkpoint also holds what lies between two
optimizer steps here: the generation that is being trained on, with the scores of the policy that wrote it, the totals,
and the means that wait for the next log. A checkpoint counts once it is sealed (`checkpoints.py`).

Left out on purpose: rows and arguments that JSON does not keep (a warning says so, and a run that was killed inside a
generation writes that generation anew), and transformers' own running mean of the loss since the last log.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import rotate_checkpoints

from appo.checkpoints import STATE, find_checkpoint, seal, unseal
from appo.config import APPOConfig
from appo.errors import UserError
from appo.files import fingerprint
from appo.rollout.batches import MiniBatch, NotStorable, load_mini_batches, save_mini_batches
from appo.rollout.trainer import RolloutTrainer

GENERATION = "generation"  # the folder in a checkpoint
REFERENCE = "reference"  # and that of a reference policy which follows the trained one (`sync_ref_model`)
# Besides APPOConfig's own fields: what a generation depends on, of TRL's and transformers'.
SHAPE = (
    "seed", "temperature", "top_p", "top_k", "min_p", "steps_per_generation", "gradient_accumulation_steps",
    "per_device_train_batch_size", "world_size",
)  # fmt: skip


class ResumableTrainer(RolloutTrainer):
    """Keeps the present generation beside each checkpoint; see `APPOTrainer` for the arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mini_batches: list[MiniBatch] = []
        self.evaluation_batches = 0
        self.num_records = 0  # that this process has written down
        self.begun = False
        self._resumed_from: str | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As in transformers; `True` takes the newest checkpoint of `output_dir` that is whole.

        Raises:
            UserError: for `True` where there is none.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint, notes = find_checkpoint(self.args.output_dir)
            for note in notes:
                warnings.warn(note, stacklevel=3)  # at the user's line, behind APPOTrainer's
            if resume_from_checkpoint is None:
                raise UserError(
                    f"resume_from_checkpoint = True, but {self.args.output_dir} holds no whole checkpoint; leave it "
                    "out to begin anew."
                )
        self._resumed_from = resume_from_checkpoint or None
        self.begun = False
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def load_finished(self, checkpoint: str) -> None:
        """Puts the trainer where a run was when it had ended: `train` would take one step more."""
        self.load_checkpoint(checkpoint, STATE)
        self._resumed_from = checkpoint
        self.begin()

    # ---- where a run begins or goes on ----

    def begin(self) -> None:
        """Takes up what the checkpoint holds, if the run goes on from one."""
        # The right place in the generation; TRL would count from 0 again.
        self.micro_step = self.state.global_step * self.args.gradient_accumulation_steps
        self.mini_batches, self.num_records, self.begun = [], 0, True
        self.counters.restore(self.state.log_history)
        if self._resumed_from is None:
            return
        reference = Path(self._resumed_from) / REFERENCE
        if self.args.sync_ref_model and reference.is_dir():
            model = self.accelerator.unwrap_model(self.ref_model)
            model.load_state_dict(type(model).from_pretrained(reference, dtype=model.dtype).state_dict())
        found = load_mini_batches(
            Path(self._resumed_from) / GENERATION,
            self.accelerator.process_index,
            lambda tree: tree.trained(self.method.needs.trains),
            self.writer.collate,
        )
        if self._everywhere(found is not None):
            assert found is not None
            self._take_up(*found)

    def _take_up(self, mini_batches: list[MiniBatch], rest: dict[str, Any]) -> None:
        self.counters.load_state(rest["counters"])
        self.evaluation_batches = rest["evaluation_batches"]
        self.num_records = rest["records"]
        self.restore_metrics(rest["metrics"])
        # A generation of other settings is no generation of this run.
        if rest["shape"] == self._generation_shape():
            self.mini_batches = mini_batches

    def _everywhere(self, answer: bool) -> bool:
        """Whether every process says so: all have to go the same way."""
        return bool(self.accelerator.gather(torch.tensor([answer], device=self.accelerator.device)).all())

    def _generation_shape(self) -> str:
        kinds = [kind for kind in type(self.args).__mro__ if issubclass(kind, APPOConfig)]
        names = {name for kind in kinds for name in kind.__annotations__}
        return fingerprint({name: getattr(self.args, name) for name in sorted({*names, *SHAPE})})

    # ---- checkpoints ----

    def write_checkpoint(self, model: Any, trial: Any) -> None:
        directory = Path(self.checkpoint_root(trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            unseal(directory)
        # Older checkpoints go only once this one is whole.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super().write_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self._save_generation(directory / GENERATION)
        if self.args.sync_ref_model and self.args.should_save:
            self.accelerator.unwrap_model(self.ref_model).save_pretrained(directory / REFERENCE)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(directory)
            rotate_checkpoints(
                output_dir=str(directory.parent),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _save_generation(self, directory: Path) -> None:
        step = self.state.global_step * self.args.gradient_accumulation_steps
        ended = step % (self.args.steps_per_generation * self.num_iterations) == 0
        rest = {
            "counters": self.counters.state(),
            "metrics": self.waiting_metrics(),
            "evaluation_batches": self.evaluation_batches,
            "records": self.num_records,
            "shape": self._generation_shape(),
        }
        process = self.accelerator.process_index
        try:
            save_mini_batches(directory, process, [] if ended else self.mini_batches, rest)
        except NotStorable as error:
            warnings.warn(
                f"{error}: a run that is killed inside a generation writes this generation anew.", stacklevel=2
            )
            save_mini_batches(directory, process, [], rest)
