"""A generation's mini-batches, in memory and on the disk.

Beside each checkpoint inside a generation lies what the behaviour policy wrote and how it scored it, so that a run
goes on with the same rollouts. JSON keeps rollouts exactly (Python writes floats with all their digits), safetensors
the scores; nothing is pickled.

Left out on purpose: states of environments. A branch of a rollout that was read back resets an environment with the
task's row and replays the calls, which is exact where an environment is a function of both.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence

from appo.errors import UserError
from appo.files import read_json, write_text
from appo.rollout.agents.run import AgentRun
from appo.rollout.further import Segment, segments_of
from appo.rollout.scoring import RolloutBatch, TokenScores
from appo.rollout.tree import RolloutTree
from appo.rollout.types import Rollout, ToolCall

# Shapes: B rollouts, T completion tokens.

NOT_STORED = ("environment", "snapshots")
FURTHER = "further."  # begins names of scores of further segments


class NotStorable(TypeError):
    """Rows or arguments hold values that JSON does not keep exactly, such as dates."""


@dataclass
class MiniBatch:
    """What one optimizer step trains on.

    Args:
        trees: Its tasks.
        batch: Their rollouts of the generation (initial ones), padded.
        behaviour: Scores under the policy that wrote them.
        written_at: `global_step` at which they were written.
        sizes: Rollouts that each tree had then: what follows are branches of a later policy.
        further: For each of the rollouts the further segments of its run; [] where no run ever has any.
    """

    trees: list[RolloutTree]
    batch: RolloutBatch
    behaviour: TokenScores
    written_at: int
    sizes: list[int]
    further: list[list[Segment]] = field(default_factory=list)


def save_mini_batches(directory: Path, process: int, mini_batches: list[MiniBatch], rest: dict[str, Any]) -> None:
    """Writes one process' mini-batches and, under `rest`, whatever else of JSON it has to know again.

    Raises:
        NotStorable: before anything is written.
    """
    stored = [
        {
            "written_at": part.written_at,
            "sizes": part.sizes,
            "trees": [_tree_as_dict(tree, size) for tree, size in zip(part.trees, part.sizes, strict=True)],
            "further": [[rollout_as_dict(segment.rollout) for segment in own] for own in part.further],
        }
        for part in mini_batches
    ]
    text = json.dumps({"mini_batches": stored, "rest": rest})
    scores = {
        f"{index}.{name}": tensor.detach().cpu().contiguous()
        for index, part in enumerate(mini_batches)
        for name, tensor in vars(part.behaviour).items()
        if tensor is not None
    }
    for index, part in enumerate(mini_batches):
        scores.update(_scores_of_segments(part.further, f"{FURTHER}{index}."))
    directory.mkdir(parents=True, exist_ok=True)
    save_file(scores, directory / f"scores-{process}.safetensors")
    write_text(directory / f"rollouts-{process}.json", text + "\n")


def load_mini_batches(
    directory: Path, process: int, trained: Callable[[RolloutTree], list[Rollout]], collate: Callable[..., Any]
) -> tuple[list[MiniBatch], dict[str, Any]] | None:
    """What `save_mini_batches` wrote; None where there is nothing.

    Args:
        trained: The rollouts of a tree that are scored.
        collate: Makes a `RolloutBatch` of rollouts, on the right device.

    Raises:
        UserError: where it cannot be read.
    """
    path = directory / f"rollouts-{process}.json"
    if not path.exists():
        return None
    found = read_json(path)
    if found is None:
        raise UserError(f"{path} is broken; go on from another checkpoint.")
    scores = load_file(directory / f"scores-{process}.safetensors")
    mini_batches = []
    for index, stored in enumerate(found["mini_batches"]):
        trees = [_tree_from_dict(tree) for tree in stored["trees"]]
        batch = collate([rollout for tree in trees for rollout in trained(tree)])
        device = batch.completion_ids_BT.device
        names = [name.partition(".")[2] for name in scores if name.startswith(f"{index}.")]
        behaviour = TokenScores(**{name: scores[f"{index}.{name}"].to(device) for name in names})
        further = _segments_from(stored.get("further", []), scores, f"{FURTHER}{index}.", device)
        mini_batches.append(MiniBatch(trees, batch, behaviour, stored["written_at"], stored["sizes"], further))
    return mini_batches, found["rest"]


def _scores_of_segments(further: list[list[Segment]], prefix: str) -> dict[str, torch.Tensor]:
    """Scores of all segments, one behind the other."""
    scores = [vars(segment.scores) for own in further for segment in own]
    names = [name for name, tensor in (scores[0] if scores else {}).items() if tensor is not None]
    return {prefix + name: torch.cat([one[name] for one in scores]).detach().cpu() for name in names}


def _segments_from(
    stored: list[list[dict[str, Any]]], scores: dict[str, torch.Tensor], prefix: str, device: torch.device
) -> list[list[Segment]]:
    rollouts = [[rollout_from_dict(fields) for fields in own] for own in stored]
    lengths = [len(rollout.completion_ids) for own in rollouts for rollout in own]
    found = {name.removeprefix(prefix): tensor for name, tensor in scores.items() if name.startswith(prefix)}
    if not lengths:
        return [[] for _ in rollouts]
    rows = {name: pad_sequence(tensor.split(lengths), batch_first=True).to(device) for name, tensor in found.items()}
    return segments_of(rollouts, TokenScores(**rows))


def _tree_as_dict(tree: RolloutTree, size: int) -> dict[str, Any]:
    return {
        "row": _exact(tree.row, "a row"),
        "id": tree.id,
        "num_initial": tree.num_initial,
        "rollouts": [rollout_as_dict(rollout) for rollout in tree.rollouts[:size]],
    }


def rollout_as_dict(rollout: Rollout) -> dict[str, Any]:
    """A rollout as JSON keeps it, without environment and snapshots; with the run of an agent that wrote it.

    Raises:
        NotStorable: for a prompt or arguments that JSON does not keep.
    """
    fields = {name: value for name, value in vars(rollout).items() if name not in NOT_STORED}
    fields["prompt"] = _exact(rollout.prompt, "a prompt")
    if isinstance(rollout.environment, AgentRun):
        fields["run"] = _exact(rollout.environment.as_dict(), "an agent's run")
    fields["tool_calls"] = [
        {**vars(call), "arguments": _exact(call.arguments, f"a call of {call.name}")} for call in rollout.tool_calls
    ]
    return fields


def _tree_from_dict(stored: dict[str, Any]) -> RolloutTree:
    rollouts = [rollout_from_dict(fields) for fields in stored["rollouts"]]
    return RolloutTree(stored["row"], stored["id"], rollouts, stored["num_initial"])


def rollout_from_dict(fields: dict[str, Any]) -> Rollout:
    """What `rollout_as_dict` was given, without environment and snapshots."""
    own = {**fields, "tool_calls": [ToolCall(**call) for call in fields["tool_calls"]]}
    run = own.pop("run", None)
    return Rollout(**own, environment=None if run is None else AgentRun.from_dict(run))


def _exact(value: Any, what: str) -> Any:
    """`value`, if JSON gives it back as it is."""
    try:
        again = json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise NotStorable(f"{what} holds a value that JSON does not keep ({error})") from None
    if not _same(value, again):
        raise NotStorable(f"{what} holds a value that JSON does not keep exactly")
    return value


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b or (a != a and b != b)  # NaN


@contextmanager
def batches_in_given_fields(args: Any) -> Iterator[None]:
    """What TRL says of a batch of its own making, in the fields that a user gives; `args` is a `GRPOConfig`."""
    of_user = args.generation_batch_size is not None
    try:
        yield
    except ValueError as error:
        if of_user or not str(error).startswith("generation_batch_size ("):
            raise
        factors = f"{args.per_device_train_batch_size} x {args.steps_per_generation}"
        processes = f" x {args.world_size} processes" if args.world_size > 1 else ""
        product = f"{factors}{processes} = {args.generation_batch_size}"
        raise UserError(
            f"per_device_train_batch_size x steps_per_generation ({product}) must be divisible by "
            f"num_generations ({args.num_generations}); change one of the three."
        ) from None
