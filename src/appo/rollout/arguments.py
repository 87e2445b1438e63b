"""What a trainer is given from Python, looked at before TRL is: each mistake is one sentence with its remedy.

TRL's own errors come late and from deep inside (`'str' object has no attribute '__name__'`). What it says well itself
(`peft_config must be a peft.PeftConfig instance`) is left to it.

Left out on purpose: the rows (`prompts.py`), and what tools say of themselves (`appo.tools.described`).
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import AutoProcessor, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from appo.config import APPOConfig
from appo.errors import UserError, did_you_mean, is_complaint
from appo.models.loading import ModelAndTokenizer
from appo.models.sharding import check_sharding
from appo.models.smollm2 import make_model
from appo.rollout.environments import EnvironmentPool
from appo.tools.described import check_tool
from appo.trl_seam import model_name_of

SMOLLM2 = "smollm2"
INSTEAD = {"tokenizer": "processing_class", "dataset": "train_dataset", "config": "args"}


@dataclass
class Arguments:
    """What a trainer is made of, once it is looked at.

    Args:
        model: A name, a directory or a model.
        reward_funcs: A list.
        args: The settings.
        tools: A list.
        pool: Of the tools and environments.
        given: TRL's other arguments by name; `processing_class` is there where it is known.
    """

    model: Any
    reward_funcs: list[Any]
    args: APPOConfig
    tools: list[Any]
    pool: EnvironmentPool
    given: dict[str, Any]


def read_arguments(
    model: Any, reward_funcs: Any, args: Any, tools: Any, environment_factory: Any, given: dict[str, Any],
    rewards_itself: bool = False,
) -> Arguments:  # fmt: skip
    """The arguments of a trainer, checked, with what they leave to defaults.

    Raises:
        UserError: for the first mistake; no weights are loaded before, but those of `smollm2`.
    """
    tokenizer = given.get("processing_class")
    check_model(model, tokenizer)
    check_tokenizer(tokenizer)
    if args is None:
        name = model if isinstance(model, str) else model_name_of(model)
        args = APPOConfig(f"{name.split('/')[-1]}-APPO")
    check_config(args)
    check_sharding(args)
    tools, reward_funcs = tool_list(tools), reward_list(reward_funcs)
    check_factory(environment_factory)
    check_dataset(given.get("train_dataset"), environment_factory is not None)
    check_evaluation(given.get("eval_dataset"))
    pool = EnvironmentPool(tools, environment_factory)
    check_environments(pool)
    check_tools(pool, args.tool_protocol)
    if not rewards_itself:
        check_rewarded(reward_funcs, pool)
    check_reference(model, args.beta, given.get("peft_config") is not None)
    if model == SMOLLM2:
        model, own = read_smollm2()
        tokenizer = own if tokenizer is None else tokenizer
    elif tokenizer is None and args.tool_protocol == "chat_template" and (tools or environment_factory):
        tokenizer = tokenizer_for(model, args)
    return Arguments(model, reward_funcs, args, tools, pool, {**given, "processing_class": tokenizer})


def by_name(positional: Sequence[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments behind `args` by their names, those given in order too.

    Raises:
        UserError: for a name that there is not, and for one that is given twice.
    """
    names = list(inspect.signature(GRPOTrainer.__init__).parameters)[1:]
    placed = dict(zip(names[names.index("args") + 1 :], positional, strict=False))
    for name in given:
        if name not in names:
            known = f"write {INSTEAD[name]}=.." if name in INSTEAD else None
            hint = known or did_you_mean(name, names, f"it has {', '.join(names)}.", "{}=..")
            raise UserError(f"APPOTrainer has no argument {name}; {hint}")
        if name in placed:
            raise UserError(f"APPOTrainer is given {name} twice, in order and by name; give it once.")
    return {**placed, **given}


def check_config(args: Any) -> None:
    """
    Raises:
        UserError: for anything but an `APPOConfig`.
    """
    if isinstance(args, APPOConfig):
        return
    if isinstance(args, TrainingArguments):
        kind = type(args).__name__
        same = "has all of its fields" if isinstance(args, GRPOConfig) else "has all of transformers' fields"
        raise UserError(
            f"args is a {kind}, but APPOTrainer needs an APPOConfig, which {same}: write "
            f"APPOConfig({args.output_dir!r}, ..) with those that you set."
        )
    raise UserError(f"args must be an APPOConfig, got {args!r}; write APPOConfig(OUTPUT_DIR, ..).")


def check_model(model: Any, tokenizer: Any) -> None:
    """
    Raises:
        UserError: for what is no model, and for a model that does not say where its tokenizer is.
    """
    if isinstance(model, str):
        path = Path(model).expanduser()  # the hub's names have one slash
        if not path.exists() and (len(path.parts) > 2 or model[:1] in ("/", ".", "~")):
            raise UserError(f"model = {model!r} cannot be loaded: there is no such directory.")
        return
    if isinstance(model, Path):
        raise UserError(f"model is a {type(model).__name__}; give its text: model={str(model)!r}.")
    if isinstance(model, tuple):
        raise UserError("model is a tuple; give the model alone, and its tokenizer as processing_class=tokenizer.")
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        shown = "None" if model is None else f"a {type(model).__name__}"
        raise UserError(f"model must be a name, a directory or a transformers model, got {shown}.")
    if tokenizer is None and not getattr(model.config, "name_or_path", None):
        raise UserError(
            "processing_class is missing: the model does not say where it was loaded from, so give its tokenizer, "
            "processing_class=tokenizer."
        )


def check_tokenizer(tokenizer: Any) -> None:
    """
    Raises:
        UserError: for a name in place of a tokenizer.
    """
    if isinstance(tokenizer, str | Path):
        raise UserError(
            f"processing_class = {str(tokenizer)!r} is a text; give the tokenizer itself, "
            f"AutoTokenizer.from_pretrained({str(tokenizer)!r})."
        )


def reward_list(reward_funcs: Any) -> list[Any]:
    """Reward functions as a list; none for None.

    Raises:
        UserError: for what is neither a function, nor a reward model or the name of one.
    """
    if isinstance(reward_funcs, Mapping):
        raise UserError("reward_funcs is a mapping; give a list of functions: each is called what it is called.")
    found = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
    found = [] if reward_funcs is None else found
    for number, one in enumerate(found):
        if not (callable(one) or isinstance(one, str)):
            raise UserError(
                f"reward_funcs, number {number}, is {one!r}; give the function itself, without calling it."
            )
        if inspect.isclass(one):
            raise UserError(f"reward_funcs, number {number}, is the class {one.__name__}; give an object of it.")
    return found


def tool_list(tools: Any) -> list[Any]:
    """Tools as a list; none for None.

    Raises:
        UserError: for anything but functions in a list or tuple.
    """
    if tools is None:
        return []
    if not isinstance(tools, list | tuple):
        name = getattr(tools, "__name__", None)
        got = f"the function {name}; write tools=[{name}]" if name else f"{tools!r}; write tools=[FUNCTION]"
        raise UserError(f"tools must be a list of functions, got {got}.")
    return list(tools)


def check_factory(factory: Any) -> None:
    """
    Raises:
        UserError: for an environment, or anything else, in place of what makes one.
    """
    for name, one in factory.items() if isinstance(factory, Mapping) else [(None, factory)]:
        if one is not None and not callable(one):
            place = "environment_factory" if name is None else f"environment_factory[{name!r}]"
            if isinstance(one, str):
                raise UserError(f"{place} = {one!r} is a text; give the class itself, without quotation marks.")
            kind = type(one).__name__
            raise UserError(f"{place} is an object of class {kind}; give what makes one: the class, {kind}.")


def check_environments(pool: EnvironmentPool) -> None:
    """
    Raises:
        UserError: for an environment without `reset`.
    """
    for environment in pool.probe():
        if not callable(getattr(environment, "reset", None)):
            kind = "None" if environment is None else f"a {type(environment).__name__}"
            raise UserError(
                f"environment_factory made {kind}, which has no reset(); write `def reset(self, **row)`, which begins "
                "an episode and returns None or the first observation."
            )


def check_tools(pool: EnvironmentPool, tool_protocol: str) -> None:
    """
    Raises:
        UserError: for a tool, or a public method of an environment, that does not say what a policy has to know.
    """
    for tool in pool.all_tools().values():
        check_tool(tool, tool_protocol)


def check_rewarded(reward_funcs: Sequence[Any], pool: EnvironmentPool) -> None:
    """
    Raises:
        UserError: where nothing scores rollouts.
    """
    if not reward_funcs and not any(hasattr(environment, "get_reward") for environment in pool.probe()):
        raise UserError(
            "reward_funcs is missing, so that nothing scores the rollouts; give a function "
            "`def reward(completions, **columns): return [..]`, or an environment with a get_reward()."
        )


def check_evaluation(data: Any) -> None:
    """Raises a UserError for what is neither None nor a data set, nor a mapping of data sets."""
    for name, one in data.items() if isinstance(data, Mapping) else [(None, data)]:
        check_dataset(one, True, "eval_dataset" if name is None else f"eval_dataset[{name!r}]")


def check_dataset(data: Any, with_environment: bool, field: str = "train_dataset") -> None:
    """Whether there is a data set to train on, of a kind that TRL takes.

    Raises:
        UserError: where not.
    """
    if isinstance(data, Dataset | IterableDataset) or (data is None and with_environment):
        return
    if data is None:
        raise UserError("train_dataset is missing; give a datasets.Dataset with a column `prompt`.")
    remedy = {
        "dict": "write Dataset.from_dict(columns), or give one of its data sets",
        "DataFrame": "write Dataset.from_pandas(frame)",
        "str": 'write load_dataset(NAME, split="train")',
    }
    kind = type(data).__name__
    first = next(iter(data), "train") if "Dict" in kind else None
    parts = first and f"give one of its parts, such as {field}=data[{first!r}]"
    raise UserError(
        f"{field} is a {kind}, but must be a datasets.Dataset; "
        f"{parts or remedy.get(kind, 'write Dataset.from_list(rows)')}."
    )


def check_reset_takes(row: Mapping[str, Any] | None, pool: EnvironmentPool) -> None:
    """Whether `reset` of a row's environment takes the row's columns, as TRL calls it.

    Raises:
        UserError: where not, which would end the first rollout.
    """
    if row is None or not pool.factories:
        return
    reset = pool.probe()[list(pool.factories).index(pool.name_of(dict(row)))].reset
    try:
        inspect.signature(reset).bind(**pool.arguments_of(dict(row)))
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"environment_factory: its reset{inspect.signature(reset)} cannot be given the row's columns "
            f"{', '.join(pool.arguments_of(dict(row)))}: {error}; write `def reset(self, **row)`, or name them all."
        ) from None


def check_reference(model: Any, beta: float, adapter: bool) -> None:
    """
    Raises:
        UserError: where TRL would have to load a model a second time, as the reference policy, that is nowhere.
    """
    nowhere = model == SMOLLM2 or not (isinstance(model, str) or is_peft_model(model) or model_name_of(model))
    if beta and nowhere and not adapter:
        raise UserError(
            f"beta = {beta} needs a reference policy, which is loaded from where the model came from; save the model "
            "first (save_pretrained, the tokenizer too) and give that directory as model, or use a peft_config."
        )


def read_smollm2() -> ModelAndTokenizer:
    """The model called `smollm2`, as recipes have it, and its tokenizer.

    Raises:
        UserError: where a package that it needs is missing.
    """
    try:
        return make_model()
    except (FileNotFoundError, ImportError) as error:
        raise UserError(f"model = {SMOLLM2!r}: {error}") from None


def tokenizer_for(model: Any, args: APPOConfig) -> Any:
    """The tokenizer (or processor) that TRL would load, so that tools can be added to its chat template before."""
    source = model if isinstance(model, str) else model.config.name_or_path
    with loading(source):
        return AutoProcessor.from_pretrained(
            source,
            revision=(args.model_init_kwargs or {}).get("revision"),
            truncation_side="left",
            padding_side="left",
            trust_remote_code=args.trust_remote_code,
        )


@contextmanager
def loading(*sources: Any) -> Iterator[None]:
    """Names what cannot be loaded, which transformers says in five lines without the argument's name.

    Args:
        sources: Models given as texts; others are left out.
    """
    try:
        yield
    except OSError as error:
        named = [source for source in sources if isinstance(source, str)]
        if not named or not is_complaint(error):
            raise
        said = str(error).strip().splitlines()[0]
        raise UserError(f"{' or '.join(map(repr, named))} cannot be loaded: {said}") from error
