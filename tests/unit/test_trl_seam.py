"""A contract with TRL: what the seam touches is there, takes what it passes, and nothing else touches it.

A new version of TRL that renames a private method or changes its parameters fails here, by the name.
"""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trl.trainer.utils
from training_parts import make_trainer
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

import appo
from appo.environments import kinship
from appo.methods import METHODS
from appo.trl_seam import CPU_TILE, PRIVATE, PRIVATE_OF_VLLM_GENERATION, TILE, SeamTrainer, tool_suffix_ids

PACKAGE = Path(appo.__file__).parent
SEAM = PACKAGE / "trl_seam.py"


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


@pytest.fixture(scope="module")
def trls_own(tmp_path_factory):
    """TRL's trainer, as TRL makes it."""
    model, tokenizer = kinship.make_model()
    args = GRPOConfig(
        str(tmp_path_factory.mktemp("trl")),
        per_device_train_batch_size=4,
        num_generations=4,
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    rows = kinship.make_dataset(4, seed=0)
    return GRPOTrainer(
        model, lambda completions, **_: [0.0] * len(completions), args, rows, processing_class=tokenizer
    )


def assigned_in(*classes):
    """Attributes that the classes' methods set on themselves."""
    nodes = [node for kind in classes for node in ast.walk(ast.parse(inspect.getsource(kind)))]
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}


@pytest.fixture(scope="module")
def trls_names(trls_own):
    """All private names that TRL's trainer has, or sets in some settings (`_batch_environments`, `_env_tools`)."""
    names = {*dir(trls_own), *vars(trls_own), *assigned_in(GRPOTrainer, Trainer)}
    return {name for name in names if is_private(name)}


def touched_in(path):
    """(name, line) of every private attribute that a file touches, and of every private method of a class."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr, node.lineno
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                for name in names_of(part):
                    if is_private(name):
                        yield name, part.lineno
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)):
                yield name.value, node.lineno


def names_of(part):
    """What a statement of a class body names."""
    if isinstance(part, ast.FunctionDef):
        return [part.name]
    if isinstance(part, ast.Assign):
        return [target.id for target in part.targets if isinstance(target, ast.Name)]
    return []


# ---- what is there ----


@pytest.mark.parametrize("name", PRIVATE)
def test_trl_still_has_every_name_that_is_touched(trls_names, name):
    assert name in trls_names


def test_the_list_is_of_exactly_the_names_of_trl_that_the_seam_touches(trls_names):
    used = {name for name, _ in touched_in(SEAM)} & trls_names
    assert sorted(PRIVATE) == sorted(used)
    assert len(set(PRIVATE)) == len(PRIVATE)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_prepare_inputs", ["self", "generation_batch"]),
        ("_save_checkpoint", ["self", "model", "trial"]),
        ("_get_output_dir", ["self", "trial"]),
        ("_load_from_checkpoint", ["self", "resume_from_checkpoint", "model"]),
        ("_load_best_model", ["self"]),
        ("_tokenize_prompts", ["self", "prompts"]),
        ("_get_tool_suffix_ids", ["self", "tool_messages"]),
        ("_calculate_rewards", ["self", "inputs", "prompts", "completions", "completion_ids_list"]),
    ],
)
def test_methods_take_what_the_seam_passes(name, parameters):
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == parameters


@pytest.mark.parametrize("name", ["_prepare_inputs", "_save_checkpoint", "_load_from_checkpoint", "_load_best_model"])
def test_what_is_overridden_takes_as_many_as_trls(name):
    ours, trls = (inspect.signature(getattr(kind, name)).parameters for kind in (SeamTrainer, GRPOTrainer))
    assert list(ours) == list(trls)


def test_trls_walk_over_the_weights_needs_nothing_of_the_engine_that_it_belongs_to(tmp_path):
    assert {"_iter_named_params"} == {name for name in PRIVATE_OF_VLLM_GENERATION if hasattr(VLLMGeneration, name)}
    trainer = make_trainer(tmp_path)
    for _ in range(2):  # it may be gone through again
        found = dict(trainer.whole_parameters())
        assert found.keys() == dict(trainer.model.named_parameters()).keys()
        assert all(found[name].data_ptr() == p.data_ptr() for name, p in trainer.model.named_parameters())


def test_the_version_of_the_weights_changes_with_them(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    before = trainer.weights_version()
    assert trainer.weights_version() == before
    with torch.no_grad():
        next(trainer.model.parameters()).add_(1.0)
    changed = trainer.weights_version()
    assert changed != before
    trainer.save_model(str(tmp_path / "saved"))
    trainer._load_from_checkpoint(str(tmp_path / "saved"))
    assert trainer.weights_version() not in (before, changed)


def test_a_tile_of_scores_is_small_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(trl.trainer.utils, TILE, 32768)
    make_trainer(tmp_path)
    assert getattr(trl.trainer.utils, TILE) == CPU_TILE == 2048


def test_scores_are_asked_for_with_parameters_that_there_are():
    signature = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies)
    first = ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]
    assert list(signature.parameters)[:5] == first
    assert {"batch_size", "compute_entropy"} <= signature.parameters.keys()
    needed = [p.name for p in signature.parameters.values() if p.default is inspect.Parameter.empty]
    assert needed == first


def test_scores_are_three_tensors_as_the_seam_unpacks_them(trls_own):
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        found = trls_own._get_per_token_logps_and_entropies(
            trls_own.model, ids, torch.ones_like(ids), 2, batch_size=1, compute_entropy=True
        )
    assert len(found) == 3
    assert found[0].shape == found[1].shape == (1, 2)


def test_metrics_and_tables_have_the_shape_that_is_written_to(trls_own):
    trls_own._metrics["train"]["x"].append(1.0)
    assert trls_own._metrics["train"].pop("x") == [1.0]
    assert {"prompt", "completion", "rewards", "advantages"} <= trls_own._logs.keys()
    trls_own._logs["rewards"]["x"].extend([1.0])
    assert isinstance(trls_own._step, int)
    assert hasattr(trls_own._dist, "summon_full_params")


def test_a_tools_result_is_rendered_by_trls_method_without_a_trainer():
    """The stand-in has all that TRL's method reads of a trainer."""
    source = inspect.getsource(GRPOTrainer._get_tool_suffix_ids)
    read = set(re.findall(r"self\.(\w+)", source))
    given = set(re.findall(r"^        (\w+)=", inspect.getsource(tool_suffix_ids), re.MULTILINE))
    assert read <= given


# ---- and nobody else touches it ----


def test_no_other_file_touches_a_private_name_of_trl(trls_names):
    forbidden, sources = trls_names | set(PRIVATE), [path for path in PACKAGE.rglob("*.py") if path != SEAM]
    assert len(sources) > 50
    found = [(path.name, name, line) for path in sources for name, line in touched_in(path) if name in forbidden]
    assert found == []


def test_the_search_finds_what_it_looks_for(tmp_path, trls_names):
    path = tmp_path / "bad.py"
    path.write_text(
        "class A:\n    _name = 1\n    def _prepare_inputs(self): self._own = 1\n"
        "def f(t): return t._metrics, getattr(t, '_logs'), t.__class__\n"
    )
    found = {name for name, _ in touched_in(path)}
    assert found == {"_name", "_prepare_inputs", "_own", "_metrics", "_logs"}
    assert found & trls_names == {"_name", "_prepare_inputs", "_metrics", "_logs"}


# ---- methods and the trainer know nothing of each other ----


def test_the_trainer_names_no_method():
    source = (PACKAGE / "trainer.py").read_text()
    source = re.sub(r"\bappo(?=[.:\s])", "", source)  # the package, in imports
    words = {word.lower() for word in re.findall(r"\w+", source)}
    assert not words & {*METHODS, *(method.__name__.lower() for method in METHODS.values())} - {"appo"}
    assert "APPO(" not in source
    assert "import APPO" not in source


def test_methods_load_neither_trl_nor_transformers():
    code = (
        "import sys, appo.methods; print(sorted({'trl', 'transformers', 'accelerate', 'datasets'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
