"""Checks of what a run needs besides task and model: its directory, processes, GPUs, batches and memory.

Left out on purpose: asking servers, and estimates of time.
"""

import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from appo.checkpoints import named_checkpoint
from appo.cli.context import Context, Finding, Note, Problem, Unavailable, Unchecked
from appo.cli.loading import precision_note
from appo.cli.memory import GB, Memory, Sizes, estimate, serving
from appo.methods.base import HalfFirstMethod
from appo.models.sharding import check_sharding, loads_on_one_process, sharding_of


def output_dir(context: Context) -> Iterator[Finding]:
    """It can be made and written to."""
    given = context.args.output_dir
    directory = Path(given).absolute()
    place = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):  # without a name, so that a kill leaves nothing
            pass
    except OSError as error:
        yield Problem(f"output_dir = {given!r} cannot be made: {error.strerror} in {place}.")
    if context.planning and not context.config.overwrite and (directory / "result.json").exists():
        yield Note(f"a run in {given} has finished; --overwrite true trains again")


def checkpoint(context: Context) -> Iterator[Finding]:
    """The one that a user names is one."""
    if context.command == "train" and (named := context.args.resume_from_checkpoint):
        named_checkpoint(named)
    yield from ()


def hub(context: Context) -> Iterator[Finding]:
    """What only the hub can tell."""
    if context.args.push_to_hub or context.sft_args.push_to_hub:
        yield Unchecked("push_to_hub: whether the hub takes the model")


def processes(context: Context) -> Iterator[Finding]:
    """As many run as the batches are made for; a plan may be for another machine."""
    if context.command == "eval":
        return
    planned, found = context.config.num_processes, context.args.world_size
    several = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys()
    if found == 1 and several and not context.planning:
        # accelerate sets the address for several processes, and starts one where it finds neither GPUs nor MPI.
        yield Problem(
            "`accelerate launch` was asked for several processes and started one, as it does without GPUs; start with "
            "`torchrun --nproc_per_node N -m appo ..` instead."
        )
    elsewhere = context.planning and found == 1
    many = max(planned or 1, found)
    if many > 1 and context.command == "train" and context.args.open_method().needs.one_process:
        yield Problem(f"method = {context.args.method!r} runs on one process, but {many} are planned; start one.")
    if planned is not None and planned != found and not elsewhere:
        yield Problem(
            f"num_processes = {planned}, but {found} run, which changes every batch; start with `accelerate launch "
            f"--num_processes {planned} -m appo ..`, or change gradient_accumulation_steps and num_processes."
        )


def sharding(context: Context) -> Iterator[Finding]:
    """A way of dividing the weights that a run can take."""
    args = context.args
    check_sharding(args)
    kind = sharding_of(args) or sharding_of(context.sft_args)
    if kind and context.config.lora is not None:
        yield Problem(f"lora is given, but {kind} divides the weights, which cannot be merged; use neither with LoRA.")
    if loads_on_one_process(args):
        yield Problem(
            "fsdp_cpu_ram_efficient_loading = true leaves all processes but one without weights until training "
            "begins, but each evaluates before; set it to false."
        )
    if kind and args.use_cpu:
        yield Note(f"{kind}: accelerate divides weights on GPUs alone; here every process holds all of them")


def engine(context: Context) -> Iterator[Finding]:
    """What writes the rollouts is installed; a plan may be for another machine."""
    if context.command != "sft" and context.args.engine == "vllm" and find_spec("vllm") is None:
        if context.planning:
            yield Unchecked("use_vllm: vLLM is not installed here")
            return
        yield Problem(
            "use_vllm = true, but vLLM is not installed here; run `pip install 'appo[vllm]'`, or set use_vllm: false "
            "(docs/gpus.md)."
        )


def gpus(context: Context) -> Iterator[Finding]:
    """Enough of them are here."""
    if context.args.use_cpu:
        return
    if not torch.accelerator.is_available():
        yield Unchecked("GPUs: there is none here, so neither bf16 nor their memory")
    elif torch.accelerator.device_count() < context.processes:
        yield Unchecked(f"GPUs: {torch.accelerator.device_count()} here, but {context.processes} are planned")


def precision(context: Context) -> Iterator[Finding]:
    """Weights of 16 bits are not trained as they are."""
    if context.command != "eval" and (note := precision_note(context.config, context.args)):
        yield Note(note)


def batches(context: Context) -> Iterator[Finding]:
    """The tasks fill a generation: TRL drops what does not; and a method that is about branches has some."""
    plan = context.plan
    if context.command == "train" and plan.tasks < plan.tasks_per_generation:
        yield Problem(
            f"data: {plan.tasks} tasks do not fill a generation of {plan.tasks_per_generation}; give more, or lower "
            "per_device_train_batch_size or steps_per_generation."
        )
    first, rollouts = context.args.num_initial_rollouts, plan.rollouts_per_task
    if context.command == "train" and isinstance(plan.method, HalfFirstMethod) and first == rollouts:
        yield Note(
            f"method = {context.args.method!r} has no branches, as num_initial_rollouts = num_generations = {rollouts}"
        )


def memory(context: Context) -> Iterator[Finding]:
    """The formula's memory is there."""
    if context.args.use_cpu or not torch.cuda.is_available():
        return
    shards = memory_shards(context)
    there = torch.cuda.get_device_properties(0).total_memory
    for name, needed in memory_of(context):
        least = min(needed.peak(shards, stage) for stage in (0, 2, 3))
        if least > there:
            yield Problem(
                f"{name} needs some {least / GB:.0f} GB on a GPU, but this one has {there / GB:.0f}; lower "
                "rollout_batch_size or the batch sizes, or use LoRA or more GPUs."
            )


def memory_shards(context: Context) -> int:
    """Over how many GPUs a model may be divided."""
    return 1 if context.config.lora is not None else context.processes


def memory_of(context: Context) -> list[tuple[str, Memory]]:
    """What each part of a run takes on each GPU, by its name."""
    args, sft_args, plan = context.args, context.sft_args, context.plan
    dtype = str((args.model_init_kwargs or {}).get("dtype", "float32"))
    total, trained = context.parameters
    sizes = Sizes.of(context.model.config, total, trained, 2 if "16" in dtype else 4)
    # Where there is no GPU, the plan is for one elsewhere, and TRL's default there is bf16.
    elsewhere = not args.use_cpu and not torch.accelerator.is_available()
    number = 2 if args.bf16 or args.fp16 or elsewhere or sizes.weight_bytes == 2 else 4
    try:
        longest = max(context.prompt_lengths, default=0)
    except Unavailable:
        longest = 0
    length = longest + (args.max_completion_length or 0)
    written = (plan.tasks_per_generation * args.num_initial_rollouts, plan.branches_at_once)
    at_once = max(*(count // context.processes for count in written), context.config.eval_size)
    found = []
    if context.command == "train":
        rows = min(args.rollout_batch_size, at_once)
        found.append(("APPO", estimate(
            sizes, rows=args.micro_batch_rows, tokens=length, bytes_per_number=number,
            checkpointing=bool(args.gradient_checkpointing), cached_rows=0 if args.use_vllm else rows,
            vllm=_vllm_bytes(context, sizes, rows, length, number), sleeps=args.vllm_enable_sleep_mode,
        )))  # fmt: skip
    if context.has_cold_start:
        found.append(("cold start", estimate(
            sizes, rows=sft_args.per_device_train_batch_size, tokens=sft_args.max_length or length,
            bytes_per_number=number, checkpointing=bool(sft_args.gradient_checkpointing), with_logits=True,
        )))  # fmt: skip
    return found


def _vllm_bytes(context: Context, sizes: Sizes, rows: int, length: int, number: int) -> float:
    """What vLLM takes of a training GPU: nothing where it is a server, or is not used."""
    args = context.args
    if not args.use_vllm or args.vllm_mode == "server":
        return 0.0
    here = torch.cuda.is_available() and not args.use_cpu
    there = torch.cuda.get_device_properties(0).total_memory if here else None
    share = args.vllm_gpu_memory_utilization
    return serving(sizes, rows=rows, tokens=length, bytes_per_number=number, share=share, gpu_bytes=there)
