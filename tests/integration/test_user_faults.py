"""A fault in a user's code keeps its traceback; a mistake in a value is one sentence with exit code 2."""

import math
import sys
import traceback
from dataclasses import fields
from importlib.util import find_spec

import pytest

from appo import APPOConfig
from appo.cli.main import main
from appo.config import UNBOUNDED
from appo.errors import UserError

RECIPE = """
task: faulty
demonstrations: 8
cold_start: {max_steps: 1, per_device_train_batch_size: 4, save_strategy: "no"}
num_generations: 2
method_args: {num_initial_rollouts: 1, num_branch_points: 1}
per_device_train_batch_size: 2
steps_per_generation: 1
max_steps: 1
max_completion_length: 8
tool_protocol: tags
eval_size: 0
train_size: 8
bf16: false
use_cpu: true
report_to: none
save_strategy: "no"
"""
# A module in which everything that this package calls works.
TASK = """
from dataclasses import replace
from appo.environments import kinship

def dataset(size, seed):
    return kinship.TASK.dataset(size, seed)

def questions(size, seed):
    return kinship.TASK.dataset(size, seed)

def demonstrations(size, seed):
    yield from kinship.TASK.demonstrations(size, seed)

def make_model():
    return kinship.make_model()

def reward(completions, **columns):
    return [0.0] * len(completions)

class Environment(kinship.KinshipEnvironment):
    def __init__(self):
        super().__init__()

    def reset(self, **row):
        return super().reset(**row)

def TASK():
    return replace(
        kinship.TASK, dataset=dataset, eval_dataset=questions, demonstrations=demonstrations, make_model=make_model,
        reward_funcs=[reward], environment_factory=Environment,
    )
"""
PLACES = {
    "dataset": "def dataset(size, seed):\n",
    "questions": "def questions(size, seed):\n",
    "demonstrations": "def demonstrations(size, seed):\n",
    "make_model": "def make_model():\n",
    "reward": "def reward(completions, **columns):\n",
    "__init__": "    def __init__(self):\n    ",
    "reset": "    def reset(self, **row):\n    ",
    "TASK": "def TASK():\n",
    "<module>": "from dataclasses import replace\n",
}
FAULTS = {
    "ValueError": "int('seven')",
    "FileNotFoundError": "open('/no/such/file')",
    "ModuleNotFoundError": "import no_such_package",
    "TypeError": "len(3)",
    "RuntimeError": "raise RuntimeError('stumbled')",
}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    (tmp_path / "faulty.py").write_text(TASK)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + f"output_dir: {tmp_path / 'run'}\n")
    return str(path)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", PLACES)
def test_a_fault_in_the_code_of_a_task_keeps_its_place(recipe, tmp_path, place, fault):
    start = PLACES[place]
    indent = "" if place == "<module>" else "    "
    head = TASK.index(start) + len(start)
    faulty = f"{TASK[:head]}{indent}{FAULTS[fault]}\n{start[start.rindex(chr(10)) + 1 :]}{TASK[head:]}"
    (tmp_path / "faulty.py").write_text(faulty)
    with pytest.raises(Exception) as error:
        main(["train", recipe, *(["--eval_size", "4"] if place == "questions" else [])])
    assert type(error.value).__name__ == fault
    frames = traceback.extract_tb(error.value.__traceback__)
    assert (str(tmp_path / "faulty.py"), place) in [(frame.filename, frame.name) for frame in frames]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--report_to", "wandb"],
            "report_to = wandb: WandbCallback requires wandb to be installed. Run `pip",
        ),
        (["--report_to", "wandbb"], "report_to: there is no logger 'wandbb'; use some of azure_ml"),
        (["--cold_start.report_to", "comet_ml"], "cold_start: report_to = comet_ml: "),
        (["--learning_rate", "nan"], "learning_rate must be a finite number, got nan."),
        (["--learning_rate", "-1"], "learning_rate must be at least 0, got -1.0."),
        (["--cold_start.learning_rate", "inf"], "cold_start: learning_rate must be a finite number, got inf."),
        (["--seed", "4294967296"], "seed must be at least 0 and below 2**32, got 4294967296."),
        (["--cold_start.seed", "4294967296"], "cold_start: seed must be at least 0 and below 2**32, got 4294967296."),
        (["--tool_timeout", "inf"], "tool_timeout must be a positive number of seconds, got inf."),
        (["--temperature", "nan"], "temperature must be a finite number, got nan."),
        (["--reward_weights", "nan"], "reward_weights must be a finite number, got nan."),
        (["--traces_min_reward", "nan", "--traces", "x.jsonl"], "traces_min_reward must be a finite number, got nan."),
        (
            ["--cold_start.gradient_accumulation_steps", "0"],
            "cold_start: gradient_accumulation_steps must be at",
        ),
        (["--cold_start.log_level", "chatty"], "cold_start: log_level must be one of detail"),
        (["--lora", "{r: '4'}"], "lora: r must be of type int, got '4'."),
        (["--lora", "{r: four}"], "lora: r must be of type int, got 'four'."),
        (["--lora", "{lora_dropout: high}"], "lora: lora_dropout must be of type float, got 'high'."),
        (["--lora", "{r: 0}"], "lora: `r` should be a positive integer value but the value passed is 0."),
        (["--lora", "{lora_dropout: 2}"], "lora: dropout probability has to be between 0 and 1, but got 2."),
        (
            ["--lr_scheduler_kwargs", "{bogus: 1}"],
            "lr_scheduler_type = linear, lr_scheduler_kwargs = {'bogus': 1}: get_linear_schedule_with_warmup() got",
        ),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "lr_scheduler_type = cosine_with_min_lr: One of min_lr or"),
        (["--optim", "adamw_bnb_8bit"], "optim = adamw_bnb_8bit: You need to install `bitsandbytes`"),
        (["--cold_start.optim", "adamw_bnb_8bit"], "cold_start: optim = adamw_bnb_8bit: You need to install"),
        (["--use_liger_kernel", "true"], "use_liger_kernel = True: You have set `use_liger_kernel` to `True` but"),
        (["--resume_from_checkpoint", "nope"], "resume_from_checkpoint = 'nope' is no directory; name one"),
    ],
)
def test_a_value_that_no_run_can_use_is_one_sentence(recipe, capsys, flags, sentence, dry):
    packages = {"adamw_bnb_8bit": "bitsandbytes", "wandb": "wandb", "comet_ml": "comet_ml"}
    package = "liger_kernel" if flags[0] == "--use_liger_kernel" else packages.get(flags[1])
    if package and find_spec(package):
        pytest.skip(f"{package} is installed")
    assert main(["train", recipe, *flags, *dry]) == 2
    shown = capsys.readouterr()
    if dry:
        assert sum(line.startswith("mistake: ") and sentence in line for line in shown.out.splitlines()) == 1
    else:
        assert sentence in shown.err
        assert shown.err.startswith("appo: ") and shown.err.count("\n") == 1


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_push_is_told_where_the_hub_is_offline(recipe, capsys, monkeypatch, dry):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["train", recipe, "--push_to_hub", "true", *dry]) == 2
    shown = capsys.readouterr()
    assert "push_to_hub = True, but HF_HUB_OFFLINE is set; unset it" in shown.out + shown.err


def test_what_a_library_says_of_a_value_is_one_sentence(recipe, capsys):
    assert main(["train", recipe, "--demonstrations", "0", "--router_aux_loss_coef", "0.1"]) == 2
    error = capsys.readouterr().err
    assert "but LlamaForCausalLM is not a Mixture-of-Experts model" in error
    assert error.count("\n") == 1


NUMBERS = [f.name for f in fields(APPOConfig) if isinstance(f.default, float)]


@pytest.mark.parametrize("name", [*NUMBERS, *UNBOUNDED, "min_p", "router_aux_loss_coef", "neftune_noise_alpha"])
def test_no_field_takes_nan_and_only_bounds_take_infinity(name):
    def make(number):
        value = [1.0, number] if name == "future_clip" else number
        return APPOConfig("out", bf16=False, use_cpu=True, report_to="none", **{name: value})

    for number in (math.nan, -math.inf, *([] if name in UNBOUNDED else [math.inf])):
        with pytest.raises(UserError, match=name):
            make(number)
    if name in UNBOUNDED:
        make(math.inf)
