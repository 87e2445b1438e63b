"""accelerate's configurations of recipes/cluster: accelerate itself reads them, and our checks take them."""

import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from appo.models.sharding import check_sharding, loads_on_one_process, sharding_of

CLUSTER = Path(__file__).parents[2] / "recipes" / "cluster"
EXPECTED = {
    "ddp.yaml": ("MULTI_GPU", 1, 8),
    "fsdp2.yaml": ("FSDP", 1, 8),
    "fsdp2-2x8.yaml": ("FSDP", 2, 16),
    "zero2.yaml": ("DEEPSPEED", 1, 8),
    "zero3.yaml": ("DEEPSPEED", 1, 8),
}


def test_every_configuration_is_known():
    assert {path.name for path in CLUSTER.glob("*.yaml")} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_it(name):
    found = load_config_from_file(str(CLUSTER / name))
    assert (found.distributed_type.value, found.num_machines, found.num_processes) == EXPECTED[name]
    assert (found.mixed_precision, found.use_cpu) == ("bf16", False)
    stage = {"zero2.yaml": 2, "zero3.yaml": 3}.get(name)
    assert found.deepspeed_config.get("zero_stage") == stage


@pytest.mark.parametrize("name", ["fsdp2.yaml", "fsdp2-2x8.yaml"])
def test_what_the_launcher_makes_of_fsdp_is_a_way_that_we_take(name, monkeypatch):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    own = ["--main_process_ip", "localhost", "--main_process_port", port]  # the launcher looks whether it is free
    arguments = ["--config_file", str(CLUSTER / name), *own, "-m", "appo"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    environment = prepare_multi_gpu_env(args)
    for key, value in environment.items():
        if key.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(key, value)
    training = SimpleNamespace(
        deepspeed_plugin=None, fsdp_plugin_args=None, sync_ref_model=False, ds3_gather_for_generation=True
    )
    check_sharding(training)
    assert sharding_of(training) == "FSDP2"
    assert not loads_on_one_process(training)


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.sbatch")), ids=lambda path: path.name)
def test_a_script_is_one_that_bash_reads_and_names_files_that_are_there(path):
    subprocess.run(["bash", "-n", path], check=True)
    named = [word for word in path.read_text().split() if word.startswith("recipes/")]
    assert len(named) >= 2
    assert all((CLUSTER.parents[1] / word).exists() for word in named)
