"""APPOConfig: the paper's defaults, and contradictions named in one sentence."""

import inspect

import pytest

from appo import APPOConfig
from appo.errors import UserError


def make(**options):
    return APPOConfig("out", bf16=False, report_to="none", **options)


def test_defaults_are_the_papers():
    args = make()
    assert (args.method, args.method_args) == ("appo", None)
    assert (args.num_generations, args.num_initial_rollouts) == (16, 4)
    assert (args.beta, args.learning_rate, args.epsilon, args.epsilon_high) == (0.0, 1e-6, 0.2, 0.28)
    assert (args.loss_type, args.max_completion_length) == ("grpo", 4096)
    assert args.steps_per_generation == 8 * args.gradient_accumulation_steps
    options = args.open_method().options
    assert (options.num_branch_points, options.num_branch_rounds) == (3, 1)
    assert (options.future_weight, options.future_clip, options.half_life) == (0.5, [1.0, 1.2], 32.0)


def test_eight_updates_per_generation_whatever_the_accumulation():
    assert make(per_device_train_batch_size=4, gradient_accumulation_steps=4).steps_per_generation == 32
    assert make(steps_per_generation=2).steps_per_generation == 2


@pytest.mark.parametrize(("method", "rows"), [("appo", 16), ("grpo", 64), ("arpo", 32), ("vineppo", 8)])
def test_micro_batches_hold_the_methods_initial_rollouts_only(method, rows):
    assert make(per_device_train_batch_size=64, method=method).micro_batch_rows == rows


def test_options_of_a_method_may_be_a_text_as_a_flag_gives_them():
    args = make(method="raft", method_args='{"token_weight": "fork"}')
    assert args.method_args == {"token_weight": "fork"}
    assert args.open_method().options.token_weight == "fork"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_branch_points": 3}, "the field num_branch_points is an option of a method (appo, tree_grpo, vineppo, "
         "whole_tree); write it under method_args: `method_args={'num_branch_points': 3}`."),
        ({"token_weight": "fork"}, "the field token_weight is an option of every method; write it under method_args: "
         "`method_args={'token_weight': 'fork'}`."),
        ({"max_tool_turns": 2}, "the field max_tool_turns is gone; write `max_tool_calling_iterations`, as in TRL."),
        ({"lerning_rate": 1e-4}, "unknown field lerning_rate; did you mean learning_rate?"),
        ({"xyzzy": 1}, "unknown field xyzzy; help(APPOConfig) lists them."),
        ({"learning_rate": "1e-4"}, "learning_rate must be a number, got the text '1e-4'; write it without quotation "
         "marks."),
        ({"num_generations": "16"}, "num_generations must be a number, got the text '16'; write it without quotation "
         "marks."),
        ({"deterministic": "yes"}, "deterministic must be true or false, got the text 'yes'; write it without "
         "quotation marks."),
    ],
)  # fmt: skip
def test_what_is_no_field_or_of_another_type_is_one_sentence(options, message):
    with pytest.raises(UserError) as error:
        make(**options)
    assert str(error.value) == message


def test_the_signature_still_lists_the_fields():
    assert "method_args" in inspect.signature(APPOConfig).parameters


def test_a_configuration_is_read_again_from_what_it_says_of_itself():
    args = make(method="raft", method_args={"token_weight": "fork"})
    again = make(**{name: args.to_dict()[name] for name in ("method", "method_args")})
    assert (again.method, again.method_args) == (args.method, args.method_args)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method_args": {"num_initial_rollouts": 5}},
            r"num_initial_rollouts \* \(num_branch_points \+ 1\) must equal num_generations",
        ),
        ({"method": "gpro"}, "method = 'gpro' is unknown; did you mean grpo?"),
        ({"method": "dapo"}, "method = 'dapo' means its loss too, got loss_type = 'grpo'"),
        ({"method_args": {"half_lief": 8}}, "has no option half_lief; did you mean half_life?"),
        ({"method_args": {"half_life": "8"}}, "half_life must be of type float, got '8'"),
        ({"method_args": 3}, "method_args must be a mapping, got 3"),
        ({"method_args": "[1]"}, r"method_args must be a mapping, got \[1\]"),
        ({"method_args": "{half_life: 8}"}, r"method_args must be a mapping, in a flag as JSON \(.*\), got '{half_"),
        ({"num_generations": None}, "num_generations must be given"),
        ({"num_generations": 1}, "num_generations must be at least 2, got 1"),
        ({"per_device_train_batch_size": 24}, "must hold whole tasks of num_generations = 16"),
        (
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8},
            "must be a multiple of num_generations / num_initial_rollouts = 4",
        ),
        (
            {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "steps_per_generation": 3},
            "multiple of gradient_accumulation_steps = 2|divisible",
        ),
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 3.0}, "temperature must be at most 2 with vLLM, got 3"),
        ({"top_p": 0.9}, "top_p = 0.9 cannot be corrected for"),
        ({"min_p": 0.1}, "min_p = 0.1 cannot be corrected for"),
        ({"vllm_tensor_parallel_size": 2}, 'vllm_tensor_parallel_size = 2 .*vllm_mode = "server"'),
        ({"vllm_mode": "server", "deterministic": True}, "deterministic = True needs an engine .* set it to false"),
        ({"vllm_mode": "remote"}, "vllm_mode must be one of colocate, server, got 'remote'"),
        ({"vllm_model_impl": "junk"}, "vllm_model_impl must be one of auto, vllm"),
        ({"vllm_server_base_url": "foo"}, "vllm_server_base_url must read http://host:port, got 'foo'"),
        ({"vllm_structured_outputs_regex": "a"}, "vllm_structured_outputs_regex = 'a' is not supported"),
        ({"vllm_importance_sampling_clip_max": -1.0}, "vllm_importance_sampling_clip_max must lie above 0, got -1.0"),
        (
            {"vllm_gpu_memory_utilization": 5.0},
            "vllm_gpu_memory_utilization must lie above 0 and be at most 1.0, got 5",
        ),
        ({"vllm_max_model_length": 0}, "vllm_max_model_length must be at least 1, got 0"),
        ({"loss_type": "vespo", "vllm_importance_sampling_mode": "sequence_mask"}, "vespo takes ratios of tokens"),
    ],
)
def test_what_vllm_cannot_do_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        make(use_vllm=True, **options)


def test_with_vllm_tokens_are_weighed_each_by_itself():
    args = make(use_vllm=True)
    assert (args.vllm_importance_sampling_mode, args.vllm_importance_sampling_clip_max) == ("token_truncate", 2.0)
    assert args.corrects_sampling and args.engine == "vllm"
    assert make(use_vllm=True, top_p=0.9, vllm_importance_sampling_correction=False).corrects_sampling is False


def test_the_server_is_the_one_that_trls_fields_name():
    args = make(use_vllm=True, vllm_mode="server", vllm_server_host="node7", vllm_server_port=8001)
    assert (args.engine, args.server_url) == ("vllm_server", "http://node7:8001")
    assert make(use_vllm=True, vllm_mode="server", vllm_server_base_url="http://a:1").server_url == "http://a:1"
