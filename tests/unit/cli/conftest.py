"""What the tests of the commands share: a small recipe, a model's directory without weights, no network."""

import pytest
import yaml
from transformers import PreTrainedModel

from appo.environments import kinship

SMALL = {
    "task": "kinship",
    "demonstrations": 20,
    "cold_start": {"max_length": 256, "per_device_train_batch_size": 4, "num_train_epochs": 3},
    "num_generations": 4,
    "method_args": {"num_initial_rollouts": 2, "num_branch_points": 1},
    "per_device_train_batch_size": 8,
    "steps_per_generation": 2,
    "max_completion_length": 32,
    "tool_protocol": "tags",
    "result_format": " <result> {} </result> ",
    "train_size": 40,
    "save_steps": 2,
    "eval_size": 10,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
}


@pytest.fixture(autouse=True)
def _no_weights_no_network(monkeypatch):
    """Fails what loads weights from files; gives the hub no chance; takes back what a dry run permits."""

    def load(*args, **kwargs):
        raise AssertionError("a dry run loaded weights")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(load))
    monkeypatch.setattr("appo.tools.python._unisolated_allowed", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SERPER_API_KEY", "a-key")


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    """A model's directory with configuration and tokenizer, but without weights."""
    directory = tmp_path_factory.mktemp("model")
    model, tokenizer = kinship.make_model()
    model.config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe with these changes; a field that is None is left out. Returns its path."""

    def write(**changes):
        values = {**SMALL, "output_dir": str(tmp_path / "run"), **changes}
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}))
        return str(path)

    return write
