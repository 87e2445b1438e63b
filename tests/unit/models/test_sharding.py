"""Which ways of dividing a model are seen, and which are refused."""

from types import SimpleNamespace

import pytest

from appo import APPOConfig
from appo.errors import UserError
from appo.models.sharding import check_sharding, loads_on_one_process, sharding_of


def config(tmp_path, **fields):
    return APPOConfig(str(tmp_path), use_cpu=True, bf16=False, **fields)


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in ("ACCELERATE_USE_FSDP", "FSDP_VERSION", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        monkeypatch.delenv(name, raising=False)


def test_one_process_divides_nothing(tmp_path):
    args = config(tmp_path)
    assert sharding_of(args) is None and not loads_on_one_process(args)
    check_sharding(args)


def test_the_launchers_environment_counts_and_its_version_is_one_by_default(tmp_path, monkeypatch):
    args = config(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding_of(args) == "FSDP1"
    with pytest.raises(UserError, match=r"fsdp_version = 1 .* use fsdp_version: 2"):
        check_sharding(args)
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert sharding_of(args) == "FSDP2" and not loads_on_one_process(args)
    check_sharding(args)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    assert loads_on_one_process(args)


def test_the_fields_of_a_recipe_count_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FSDP_VERSION", "1")
    args = config(tmp_path, fsdp=True, fsdp_config={"version": 2, "cpu_ram_efficient_loading": True})
    assert sharding_of(args) == "FSDP2" and loads_on_one_process(args)


def test_a_reference_that_follows_is_refused_where_weights_are_divided(tmp_path):
    args = config(tmp_path, fsdp=True, fsdp_config={"version": 2}, beta=0.1, sync_ref_model=True)
    with pytest.raises(UserError, match="sync_ref_model = True is not supported under FSDP2"):
        check_sharding(args)


def test_zero_3_gathers_weights_to_write_rollouts():
    plugin = SimpleNamespace(zero_stage=3)
    args = SimpleNamespace(deepspeed_plugin=plugin, ds3_gather_for_generation=True, sync_ref_model=False)
    assert sharding_of(args) == "ZeRO-3"
    check_sharding(args)
    args.ds3_gather_for_generation = False
    with pytest.raises(UserError, match="ds3_gather_for_generation = False is not supported"):
        check_sharding(args)
