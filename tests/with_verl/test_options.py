"""`trainer.v1.appo` and verl's own settings: what is wrong is one sentence, before anything is loaded."""

import copy
from pathlib import Path

import pytest
import verl.trainer
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from appo.errors import UserError
from appo.integrations.verl.options import check_config, method_of, named, options_of

CONFIGS = str(Path(verl.trainer.__file__).parent / "config")


@pytest.fixture(scope="module")
def defaults():
    """verl's own defaults, with what every run of this trainer sets."""
    with initialize_config_dir(CONFIGS, version_base=None):
        return compose(
            "ppo_trainer",
            overrides=[
                "trainer.v1.trainer_mode=appo",
                "actor_rollout_ref.rollout.agent.default_agent_loop=appo",
                "actor_rollout_ref.rollout.name=vllm",
                "actor_rollout_ref.rollout.n=4",
                "algorithm.adv_estimator=grpo",
            ],
        )


@pytest.fixture
def config(defaults):
    return copy.deepcopy(defaults)


def with_options(config, **options):
    with open_dict(config):
        config.trainer.v1.appo = options
    return config


def test_nothing_given_is_appo_with_the_papers_numbers(config):
    method = method_of(config, options_of(config))
    assert (type(method).__name__, method.num_initial, method.args.num_generations) == ("APPO", 4, 16)


def test_verls_clip_is_the_methods(config):
    config.actor_rollout_ref.actor.clip_ratio_low, config.actor_rollout_ref.actor.clip_ratio_high = 0.1, 0.3
    method = method_of(with_options(config, method="gppo"), options_of(with_options(config, method="gppo")))
    assert (method.args.epsilon, method.args.epsilon_high) == (0.1, 0.3)


def test_a_method_without_branches_takes_rollout_n(config):
    config.actor_rollout_ref.rollout.n = 7
    for name in ("grpo", "raft", "gigpo", "reinforce_pp", "gppo"):
        with_options(config, method=name)
        assert method_of(config, options_of(config)).num_initial == 7


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "whole_tree"}, "method = 'whole_tree' does not run in verl: its branches carry loss; use appo, "),
        ({"method": "arpo"}, "method = 'arpo' does not run in verl: it adds rollouts by the policy that writes; "),
        ({"method": "vineppo"}, "method = 'vineppo' does not run in verl: "),
        ({"method": "tree_grpo"}, "method = 'tree_grpo' does not run in verl: "),
        ({"method": "dapo"}, "method = 'dapo' does not run in verl: "),
        ({"method": "grpo", "method_args": {"token_weight": "fork"}}, "it needs log sum p^2 of each token "),
        ({"method": "appoo"}, "method = 'appoo' is unknown; did you mean appo?"),
        ({"method_args": {"half_lif": 3}}, "has no option half_lif; did you mean half_life?"),
        ({"num_generations": 12}, "must equal num_generations, got 4 * (3 + 1) = 16 and num_generations = 12"),
        (
            {"method_args": {"num_initial_rollouts": 8}},
            "actor_rollout_ref.rollout.n = 4 must be the number of rollouts that the method writes first, 8; set it",
        ),
    ],
)
def test_a_method_that_cannot_run_is_refused(config, options, sentence):
    with_options(config, **options)
    with pytest.raises(UserError) as error:
        method_of(config, options_of(config))
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tool": []}, "trainer.v1.appo has no option tool; did you mean tools?"),
        ({"tools": "a:b"}, "trainer.v1.appo.tools must be of type list[str], got 'a:b'."),
        ({"tool_protocol": "xml"}, "trainer.v1.appo.tool_protocol must be chat_template or tags, got 'xml'."),
        ({"tool_timeout": 0}, "trainer.v1.appo.tool_timeout must be a positive number of seconds, got 0.0."),
        ({"max_rollouts": 0}, "trainer.v1.appo.max_rollouts must be at least 1, got 0."),
        ("appo", "trainer.v1.appo must be a mapping, got 'appo'."),
    ],
)
def test_an_option_that_is_wrong_is_one_sentence(config, options, sentence):
    with open_dict(config):
        config.trainer.v1.appo = options
    with pytest.raises(UserError) as error:
        options_of(config)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("actor_rollout_ref.rollout.agent.default_agent_loop", "tool_agent", "set it to appo, the loop"),
        ("actor_rollout_ref.rollout.name", "sglang", "seeds and stops are told in vLLM's words; set it to vllm"),
        ("actor_rollout_ref.rollout.temperature", 0, "set it above 0"),
        ("actor_rollout_ref.rollout.temperature", None, "set it above 0"),
        ("algorithm.use_kl_in_reward", True, "the actor's use_kl_loss is supported"),
        ("algorithm.rollout_correction.bypass_mode", True, "Omega compares two scores of the trainer's own"),
        ("algorithm.filter_groups.enable", True, "set it to False"),
        ("critic.enable", True, "set it to False"),
        ("reward.reward_model.enable", True, "give a reward function"),
        ("distillation.enabled", True, "set it to False"),
    ],
)
def test_a_setting_of_verls_that_is_not_served_is_named(config, name, value, sentence):
    OmegaConf.update(config, name, value)
    with pytest.raises(UserError) as error:
        check_config(config)
    assert str(error.value).startswith(f"{name} = {value!r} is not supported by trainer_mode = appo: ")
    assert sentence in str(error.value)


def test_the_default_critic_of_verl_is_refused_by_its_estimator(config):
    config.algorithm.adv_estimator = "gae"
    with pytest.raises(UserError, match=r"algorithm\.adv_estimator = 'gae' is not supported"):
        check_config(config)


@pytest.mark.parametrize(("name", "value"), [("top_p", 0.5), ("top_k", 20)])
def test_sampling_that_cuts_off_cannot_be_corrected_for(config, name, value):
    OmegaConf.update(config, f"actor_rollout_ref.rollout.{name}", value)
    check_config(config)
    config.algorithm.rollout_correction.rollout_is = "token"
    with pytest.raises(UserError, match=rf"actor_rollout_ref\.rollout\.{name} = {value} cannot be corrected for"):
        check_config(config)


def test_a_generation_holds_whole_updates(config):
    config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size = 128, 48
    with pytest.raises(UserError, match=r"data\.train_batch_size = 128 must be a multiple of .* = 48"):
        check_config(config)
    config.actor_rollout_ref.actor.ppo_mini_batch_size = 16
    check_config(config)


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("nowhere", "trainer.v1.appo.tools must be written as module:name, got 'nowhere'."),
        ("no.where:x", "trainer.v1.appo.tools = 'no.where:x': there is no module no.where on PYTHONPATH."),
        ("json:nothing", "trainer.v1.appo.tools = 'json:nothing': json has no function or class nothing."),
    ],
)
def test_what_is_named_and_is_not_there_is_one_sentence(reference, sentence):
    with pytest.raises(UserError) as error:
        named("tools", reference)
    assert str(error.value) == sentence


def test_an_error_inside_a_users_module_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "broken_tools.py").write_text("import a_package_that_is_not_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_here"):
        named("tools", "broken_tools:search")
