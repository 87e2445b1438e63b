"""What vLLM cannot do of what a run or an evaluation asks for, told before anything is loaded.

Left out on purpose: what vLLM finds out itself of a model (`vllm.py`), and of a server (`vllm_server.py`).
"""

from typing import Any

from appo.errors import UserError

CUTS = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}  # values that cut nothing off
HOTTEST = 2.0


def check_sampling(temperature: float) -> None:
    """
    Raises:
        UserError: for a temperature that vLLM refuses.
    """
    if temperature > HOTTEST:
        raise UserError(f"temperature must be at most {HOTTEST:g} with vLLM, got {temperature}.")


def check_url(name: str, url: str | None) -> None:
    """
    Raises:
        UserError: for an address that is none.
    """
    if url is not None and not url.startswith(("http://", "https://")):
        raise UserError(f"{name} must read http://host:port, got {url!r}.")


def check_training(args: Any) -> None:
    """
    Args:
        args: An `APPOConfig` with `use_vllm`.

    Raises:
        UserError: for settings that vLLM, or the loss with its tokens, cannot take.
    """
    given = [f"{name} = {getattr(args, name)}" for name, none in CUTS.items() if (getattr(args, name) or none) != none]
    if given and args.vllm_importance_sampling_correction:
        raise UserError(
            f"{given[0]} cannot be corrected for: vLLM then samples from another distribution than the loss knows; "
            "leave it out, or set vllm_importance_sampling_correction = false."
        )
    check_url("vllm_server_base_url", args.vllm_server_base_url)
    check_sampling(args.temperature)
    if args.vllm_mode == "colocate" and args.vllm_tensor_parallel_size != 1:
        raise UserError(
            f"vllm_tensor_parallel_size = {args.vllm_tensor_parallel_size} would need all processes to write in step; "
            'use vllm_mode = "server" and give it to `vllm serve`.'
        )
    if args.vllm_mode == "server" and args.deterministic:
        raise UserError(
            "deterministic = True needs an engine with steps of its own, which a server has not; set it to false."
        )
    mode = args.vllm_importance_sampling_mode
    if args.loss_type == "vespo" and args.vllm_importance_sampling_correction and mode.startswith("sequence"):
        raise UserError(f"loss_type = vespo takes ratios of tokens, got vllm_importance_sampling_mode = {mode}.")
