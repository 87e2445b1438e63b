"""Checks of what a recipe names: the task, its tools, rewards and data, the model, and the cold start.

Each asks the context for what it looks at; what cannot be made is told by the runner (`checks.py`), once.

Left out on purpose: the overlap with benchmarks (`python -m appo.data` counts it).
"""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from appo.cli import loading
from appo.cli.cold_start import check_demonstrations
from appo.cli.context import Context, Finding, Note, Problem, Unavailable, Unchecked
from appo.engines.transformers_engine import check_full_attention
from appo.rewards.checked import check_parameters
from appo.rollout.arguments import check_reset_takes
from appo.rollout.environments import EnvironmentPool
from appo.sft.demonstrations import check_traces
from appo.tools.described import tool_problems
from appo.tools.search.http import HTTPSearch


def task(context: Context) -> Iterator[Finding]:
    """It can be made."""
    try:
        _ = context.task
    except Unavailable:
        yield Unchecked("tools, data and prompts: the task could not be made")
        raise


def isolation(context: Context) -> Iterator[Finding]:
    """The policy's programs are isolated, or may run without."""
    if context.not_isolated:
        yield Problem(context.not_isolated)


def tools(context: Context) -> Iterator[Finding]:
    """They can be told to the model in the protocol."""
    if any(isinstance(getattr(tool, "__self__", None), HTTPSearch) for tool in context.tools):
        yield Unchecked("search: whether its server answers")
    problems = [problem for tool in context.tools for problem in tool_problems(tool, context.args.tool_protocol)]
    yield from map(Problem, problems)
    if not problems:  # else the template could not be given them
        _ = context.template


def rewards(context: Context) -> Iterator[Finding]:
    """Something scores the rollouts, with as many weights as functions."""
    if context.command != "sft":
        loading.check_rewards(context.task, context.args)
    yield from ()


def agent(context: Context) -> Iterator[Finding]:
    """What it needs is installed, and its program is there."""
    program = context.task.agent
    if program is None:
        return
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        yield Problem(f"agent = {program.name} needs {missing[0]}; pip install 'appo[serve]'.")
    if program.command and which(program.command[0]) is None:
        yield Problem(f"command = {program.command}: there is no program {program.command[0]!r}; give its path.")
    scripts = [word for word in program.command[1:2] if word.endswith(".py") and program.command[0] == sys.executable]
    for script in scripts:
        if not Path(script).is_file():
            yield Problem(f"command = {program.command}: there is no file {script!r}; give its path from this folder.")
    if program.command and len(context.rows):
        program.words(context.rows[0])


def lora(context: Context) -> Iterator[Finding]:
    """peft takes its fields."""
    _ = context.lora
    yield from ()


def dtype(context: Context) -> Iterator[Finding]:
    """torch has the dtype of the weights."""
    if context.config.model is not None:
        loading.check_dtype(context.args)
    yield from ()


def model(context: Context) -> Iterator[Finding]:
    """It is there, the engine can run it, and it has room for a rollout."""
    if context.config.model is None and context.task.make_model is None:
        yield Problem(f"task = {context.config.task!r} makes no model; name one: model: DIR_OR_NAME.")
        return
    if context.args.engine == "transformers":
        check_full_attention(context.model)
    held, room = context.max_context, context.args.max_completion_length or 0
    served = context.args.vllm_max_model_length
    if context.args.engine == "vllm" and served and room >= served:
        yield Problem(f"vllm_max_model_length = {served} has no room for max_completion_length = {room} and a prompt.")
    if held and room > held:
        yield Problem(f"max_completion_length = {room} exceeds the model's context of {held} tokens.")


def adapter(context: Context) -> Iterator[Finding]:
    """It fits the model's layers, and what it trains is seen by the losses."""
    _ = context.parameters
    yield from ()


def tokenizer(context: Context) -> Iterator[Finding]:
    """The model has one."""
    if context.config.model is not None or context.task.make_model is not None:
        _ = context.tokenizer
    yield from ()


def data(context: Context) -> Iterator[Finding]:
    """There are rows to train on, with prompts."""
    if context.command != "sft":
        _ = context.rows
    yield from ()


def reward_funcs(context: Context) -> Iterator[Finding]:
    """The reward functions take the data's columns."""
    if context.command != "sft":
        for function in context.task.reward_funcs:
            name = getattr(function, "__name__", type(function).__name__)
            check_parameters(function, name, context.rows.column_names)
    yield from ()


def questions(context: Context) -> Iterator[Finding]:
    """There are questions for the evaluations."""
    if context.command != "sft":
        _ = context.questions
    yield from ()


def apart(context: Context) -> Iterator[Finding]:
    """No question of the evaluation is trained on."""
    if context.command == "sft" or (found := context.shared) is None:
        return
    if context.chance:
        yield Note(f"{found}; {len(found.train_rows)} training row(s) are left out")
    elif context.args.allow_shared_questions:
        yield Note(f"{found}, as allow_shared_questions allows")
    elif context.task.eval_dataset is None:
        yield Problem(
            f"data: {found}; let the task's dataset(size, seed) give other rows for another seed, give it an "
            "eval_dataset, or set allow_shared_questions."
        )
    else:
        yield Problem(f"data: {found}; take them out of one of the two, or set allow_shared_questions.")


def prompts(context: Context) -> Iterator[Finding]:
    """The tokenizer can write them, and they leave room for a completion."""
    if context.command == "sft":
        return
    longest, held = max(context.prompt_lengths, default=0), context.max_context
    room = context.args.max_completion_length or 0
    if held and longest >= held:
        yield Problem(f"data: a prompt has {longest} tokens, but the model's context holds {held}.")
    elif held and room < held < longest + room:
        yield Note(f"with the longest prompt, a rollout ends {longest + room - held} tokens early")


def reset(context: Context) -> Iterator[Finding]:
    """An episode of the first row can be begun; a run finds that out by itself."""
    if context.command != "sft" and context.task.environment_factory is not None:
        pool = EnvironmentPool(list(context.task.tools), context.task.environment_factory)
        check_reset_takes(context.rows[0], pool)
        pool.open(context.rows[0])
    yield from ()


def cold_start(context: Context) -> Iterator[Finding]:
    """There is something to learn from, in a form that can be."""
    if not context.has_cold_start:
        return
    if context.sft_args.packing or context.sft_args.padding_free:
        yield Problem("cold_start: packing and padding_free are not supported; set them to false.")
    if not context.config.traces:
        check_demonstrations(context.config, context.task)


def traces(context: Context) -> Iterator[Finding]:
    """They can be read, and agree with the recipe."""
    if not (context.has_cold_start and context.config.traces and context.traces):
        return
    names = [tool.__name__ for tool in context.tools]
    try:
        own = context.tokenizer
    except Unavailable:
        own = None
    for mistake in check_traces(context.traces, context.args.tool_protocol, names, own):
        yield Problem(mistake)


def demonstrations(context: Context) -> Iterator[Finding]:
    """They can be tokenised, and some are short enough."""
    limit = context.sft_args.max_length
    lengths = context.demonstration_lengths if context.has_cold_start else []
    if not lengths or limit is None or not (long := sum(length > limit for length in lengths)):
        return
    message = f"{long} of the first {len(lengths)} demonstrations are longer than max_length = {limit}"
    if long == len(lengths):
        yield Problem(f"cold_start: {message}; raise it.")
    else:
        yield Note(f"{message}, and are left out")
