"""Whether a change of the code changes what runs do: records and weights of recipes/kinship.yaml and of every method.

    python benchmarks/same_records.py write BEFORE                # at the old commit: about ten minutes
    python benchmarks/same_records.py write AFTER                 # at the new one
    python benchmarks/same_records.py compare BEFORE AFTER --check

Runs: the recipe (seed 0, 12 updates), and every arm of studies/rivals.yaml on the loud testbed (4 updates of 2 tasks).
Compared, whatever the format of the records: tokens, calls, rewards and branch points of each rollout, and what they
keep of log-probabilities and advantages; and, to the bit, the final weights. Prints, last, how many runs differ.
"""

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
import transformers

from appo.cli import train as run
from appo.cli.loading import load_model, load_task
from appo.cli.recipe import make_settings, read_yaml
from appo.models.loading import read_model
from appo.rollout.records import read_records
from appo.trainer import APPOTrainer

ROOT = Path(__file__).parents[1]
COMPARED = (
    "step", "task", "rollout", "parent", "branch_position", "completion_ids", "policy_mask", "finish_reason", "reward",
    "tool_calls", "behaviour_logprobs", "advantages",
)  # fmt: skip
SMALL = {
    "task": "kinship:LOUD", "max_completion_length": 240, "per_device_train_batch_size": 32, "steps_per_generation": 2,
    "max_steps": 4, "learning_rate": 8e-4, "save_strategy": "no",
}  # fmt: skip


def write(directory: Path) -> None:
    """Does every run that is not there yet."""
    recipe = read_yaml(str(ROOT / "recipes" / "kinship.yaml"))
    cold = directory / "cold"
    if not (cold / "cold_start").exists():
        run.sft(*make_settings({**recipe, **SMALL, "demonstrations": 3000, "output_dir": str(cold)}, "cold start"))
    if not (directory / "kinship" / "weights.json").exists():
        values = {**recipe, "max_steps": 12, "eval_size": 0, "output_dir": str(directory / "kinship")}
        run.train(*make_settings(values, "kinship"))
        model, _ = read_model(str(directory / "kinship" / "model"))
        _seal(directory / "kinship", model)
    recipe = {name: value for name, value in recipe.items() if name not in ("cold_start", "method_args")}
    for name, arm in read_yaml(str(ROOT / "studies" / "rivals.yaml"))["arms"].items():
        values = {**recipe, **SMALL, **arm, "demonstrations": 0, "model": str(cold / "cold_start")}
        if "per_device_train_batch_size" in arm:
            values["per_device_train_batch_size"] = arm["per_device_train_batch_size"] // 2
        if not (directory / name / "weights.json").exists():
            _run_arm({**values, "output_dir": str(directory / name)}, directory / name)


def _run_arm(values: dict[str, Any], directory: Path) -> None:
    config, args, _ = make_settings(values, directory.name)
    args.disable_tqdm = True
    task = load_task(config)
    model, tokenizer = load_model(config, args, task, config.model)
    trainer = APPOTrainer(
        model, list(task.reward_funcs), args, train_dataset=task.dataset(64, 0), processing_class=tokenizer,
        tools=list(task.tools), environment_factory=task.environment_factory,
        decision_positions=task.decision_positions,
    )  # fmt: skip
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    _seal(directory, model)
    print(f"{directory.name} done", flush=True)


def _seal(directory: Path, model: Any) -> None:
    weights = b"".join(parameter.detach().cpu().numpy().tobytes() for parameter in model.parameters())
    (directory / "weights.json").write_text(json.dumps(hashlib.sha256(weights).hexdigest()))


def compare(before: Path, after: Path) -> int:
    """How many runs differ; says which, and in what."""
    names = [path.name for path in sorted(before.iterdir()) if (path / "weights.json").exists()]
    differing = 0
    for name in names:
        found = []
        if not (after / name / "weights.json").exists():
            found.append("missing")
        else:
            if (before / name / "weights.json").read_text() != (after / name / "weights.json").read_text():
                found.append("weights")
            found += _different(list(read_records(before / name)), list(read_records(after / name)))
        print(f"{name:20} {', '.join(found) or 'equal'}")
        differing += bool(found)
    print(f"{differing} of {len(names)} runs differ")
    return differing


def _different(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    """The keys in which two runs' records differ; what was not measured in one of them is left out."""
    if len(before) != len(after):
        return [f"{len(before)} and {len(after)} records"]
    found: dict[str, None] = {}
    for one, other in zip(before, after, strict=True):
        for key in COMPARED:
            if one.get(key) is not None and other.get(key) is not None and not _same(one[key], other[key]):
                found[key] = None
    return list(found)


def _same(one: Any, other: Any) -> bool:
    """Equal, floats up to what records keep of them: five decimal digits, or 16 binary ones."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=7e-5) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["write", "compare"])
    parser.add_argument("directories", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="exit code 1 where a run differs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.command == "write":
        write(options.directories[0])
    elif compare(*options.directories) and options.check:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
