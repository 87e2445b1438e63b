"""APPOConfig: the paper's defaults, and contradictions named in one sentence."""

import pytest

from appo import APPOConfig


def make(**options):
    return APPOConfig("out", bf16=False, report_to="none", **options)


def test_defaults_are_the_papers():
    args = make()
    assert (args.num_generations, args.num_initial_rollouts, args.num_branch_points, args.num_branch_rounds) == (
        16,
        4,
        3,
        1,
    )
    assert (args.future_weight, args.future_clip, args.gamma) == (0.5, [1.0, 1.2], 2 ** (-1 / 32))
    assert (args.beta, args.learning_rate, args.epsilon, args.epsilon_high) == (0.0, 1e-6, 0.2, 0.28)
    assert (args.loss_type, args.max_completion_length) == ("grpo", 4096)
    assert (args.branching, args.advantage, args.resample) == ("branching_score", "dual_group", "token")
    assert (args.discount_over, args.require_positive) == ("all", True)
    assert args.steps_per_generation == 8 * args.gradient_accumulation_steps


def test_eight_updates_per_generation_whatever_the_accumulation():
    assert make(per_device_train_batch_size=4, gradient_accumulation_steps=4).steps_per_generation == 32
    assert make(steps_per_generation=2).steps_per_generation == 2


def test_micro_batches_hold_initial_rollouts_only():
    assert make(per_device_train_batch_size=64).micro_batch_rows == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_initial_rollouts": 5},
            r"num_initial_rollouts \* \(num_branch_points \+ 1\) must equal num_generations",
        ),
        ({"num_branch_rounds": 2, "num_initial_rollouts": 16}, "num_branch_rounds = 2 needs"),
        ({"num_branch_rounds": 0}, "num_branch_rounds must be at least 1, got 0"),
        ({"per_device_train_batch_size": 24}, "must hold whole tasks of num_generations = 16"),
        (
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8},
            "must be a multiple of num_generations / num_initial_rollouts = 4",
        ),
        (
            {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "steps_per_generation": 3},
            "multiple of gradient_accumulation_steps = 2|divisible",
        ),
        ({"future_clip": [1.2, 1.0]}, "future_clip must be two bounds"),
        ({"half_life": 0}, "half_life must be a positive"),
        ({"future_weight": -1}, "future_weight must be at least 0, got -1"),
        ({"branching": "bs"}, "branching must be one of branching_score, entropy"),
        ({"advantage": "gae"}, "advantage must be one of dual_group"),
        ({"advantage": "success"}, "takes nothing from branches, got num_branch_points = 3"),
        ({"token_weight": "entropy"}, "token_weight must be one of uniform, fork"),
        ({"weight_floor": 1.5}, r"weight_floor must lie in \[0, 1\], got 1.5"),
        ({"tool_protocol": "xml"}, "tool_protocol must be one of"),
        ({"result_format": "<result>"}, "result_format must hold one {}"),
        ({"result_format": "{} {}"}, "result_format must hold one {}"),
        ({"num_iterations": 0}, "num_iterations must be at least 1, got 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1, got 0"),
        ({"steps_per_generation": 0}, "steps_per_generation must be at least 1, got 0"),
        ({"num_train_epochs": 0}, "num_train_epochs must be above 0 without max_steps, got 0"),
        ({"adam_beta1": 2}, "adam_beta1 must be at least 0 and below 1, got 2"),
        ({"adam_beta2": -1}, "adam_beta2 must be at least 0, got -1"),
        ({"top_k": -1}, "top_k must be at least 0, got -1"),
        ({"beta": -1}, "beta must be at least 0, got -1"),
        ({"max_grad_norm": -1}, "max_grad_norm must be at least 0, got -1"),
        ({"data_seed": -1}, "data_seed must be at least 0, got -1"),
        ({"data_seed": 2**32}, r"data_seed must be at least 0 and below 2\*\*32, got 4294967296"),
        ({"max_completion_length": None}, "max_completion_length must be at least 1, got None"),
        ({"log_level": "chatty"}, "log_level must be one of detail, debug, .* got 'chatty'"),
        ({"chat_template_kwargs": 3}, "chat_template_kwargs must be a mapping, got 3"),
        ({"chat_template_kwargs": "3"}, "chat_template_kwargs must be a mapping, got '3'"),
        ({"eval_on_start": True}, "eval_on_start = True needs an eval_strategy"),
        ({"tool_timeout": 0}, "tool_timeout must be a positive"),
        ({"repetition_penalty": 1.1}, "repetition_penalty = 1.1 is not supported"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "multi_objective_aggregation"),
    ],
)
def test_contradictions_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)
