"""What a task consists of: data, tools, rewards and, for the cold start, demonstrations.

An environment follows TRL's convention: `reset(**row)` starts an episode, public methods are tools, an optional
`get_reward()` scores it. One method is added, optional too: `fork()` returns an independent copy in the present
state, so that a branch starts from the state its prefix left. Without it a deep copy is kept after each call; where
copying fails, or `fork` is None, the prefix's calls are replayed.

Left out on purpose: a registry. A recipe names a task by its module; the module holds one `Task` called `TASK`, or a
function of that name that returns one and takes the recipe's `task_args`; a parameter `tool_protocol` gets the run's.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from appo.environments.agents import agent_of
from appo.environments.specs import spec_parts
from appo.errors import UserError
from appo.rollout.decisions import Judge

FUNCTIONS = (  # parts of a task
    "dataset", "eval_dataset", "environment_factory", "demonstrations", "make_model", "decision_positions",
    "token_kinds", "judge",
)  # fmt: skip
NOT_TOOLS = ("reset", "get_reward", "fork")


def tool_methods(environment: Any) -> list[Callable[..., Any]]:
    """The bound public methods of an environment that the policy may call."""
    members = inspect.getmembers(type(environment), predicate=inspect.isfunction)
    return [getattr(environment, name) for name, _ in members if name not in NOT_TOOLS and not name.startswith("_")]


@dataclass
class Segment:
    """A piece of a demonstration.

    Args:
        text: What it says.
        trained: False for what the policy does not write (tool results).
        token_ids: Its tokens, where they are known; else the text is encoded, apart from its neighbours.
    """

    text: str
    trained: bool = True
    token_ids: list[int] | None = None


@dataclass
class Demonstration:
    """One cold-start example: the prompt as the trainer's dataset has it, then what follows, piece by piece.

    The end token follows the last piece unless that ends with it.
    """

    prompt: str | list[dict[str, Any]]
    segments: list[Segment]


def each_demonstration(found: Any) -> Iterator[Demonstration]:
    """What `Task.demonstrations` returned, one after the other.

    Raises:
        UserError: for anything but demonstrations.
    """
    rule = "the task's demonstrations() must return a list, or an iterator, of Demonstration"
    if not isinstance(found, Iterable) or isinstance(found, str | Mapping):
        raise UserError(f"{rule}, got {found if found is None else f'a {type(found).__name__}'}.")
    for number, one in enumerate(found):
        if not isinstance(one, Demonstration):
            raise UserError(f"{rule}, but number {number} is {one if one is None else f'a {type(one).__name__}'}.")
        yield one


@dataclass
class Task:
    """A task that recipes can name. All but `dataset` and one source of reward is optional.

    Args:
        dataset: `(size, seed) -> Dataset` with a `prompt` column; other columns reach `reset` and the rewards. Two
            seeds give disjoint episodes with overwhelming probability.
        eval_dataset: The same for evaluations, where a seed alone cannot keep them apart from training.
        reward_funcs: Reward functions with TRL's signature.
        tools: Python functions that the policy may call. Beside an agent they are those that it calls itself, and only
            the cold start has to know them.
        environment_factory: Makes one environment per rollout, with TRL's convention plus `fork()`; a dict of such by
            the name in the rows' column `environment`.
        demonstrations: `(size, seed) -> Iterable[Demonstration]` for the cold start.
        make_model: `() -> (model, tokenizer)`; without it a recipe has to name a model.
        decision_positions: `words -> positions` of the tokens known to decide the outcome, for a task made to study
            credit; `words` are a completion's tokens as text.
        judge: `(row, words, skill) -> decisions` (`appo.rollout.decisions.Decision`), in order of position, for a task
            whose truth can be computed: what each choice of the completion was worth to a policy that decides well
            with chance `skill`, in (0, 1], from there on. Only controls look at it (`appo.research.ceilings`).
        agent: A program of its own, in place of an environment: `run(row, base_url, api_key)`, a command, or
            an `AgentProgram` (`appo.environments.agents`). It writes its prompts, and may give the reward.
        token_kinds: `words -> kinds`, a name for each of the tokens, such as "filler"; the pilot study tells them
            apart (`appo.research.pilot`).
    """

    dataset: Callable[[int, int], Dataset]
    reward_funcs: list[Callable[..., Any]] = field(default_factory=list)
    tools: list[Callable[..., Any]] = field(default_factory=list)
    environment_factory: Callable[[], Any] | dict[str, Callable[[], Any]] | None = None
    demonstrations: Callable[[int, int], Iterable[Demonstration]] | None = None
    make_model: Callable[[], tuple[Any, Any]] | None = None
    decision_positions: Callable[[list[str]], list[int]] | None = None
    eval_dataset: Callable[[int, int], Dataset] | None = None
    token_kinds: Callable[[list[str]], list[str]] | None = None
    judge: Judge | None = None
    agent: Any = None

    def __post_init__(self) -> None:
        for name in ("reward_funcs", "tools"):
            given = getattr(self, name)
            if not isinstance(given, (list, tuple)) or not all(map(callable, given)):
                raise UserError(f"Task({name}=..) must be a list of functions, got {given!r}.")
        for name in FUNCTIONS:
            given = getattr(self, name)
            if name == "environment_factory" and isinstance(given, dict) and all(map(callable, given.values())):
                continue
            if not callable(given) and (given is not None or name == "dataset"):
                raise UserError(f"Task({name}=..) must be a function, got {given!r}.")
        self.agent = agent_of(self.agent, environment_factory=self.environment_factory)

    @property
    def writes_prompts(self) -> bool:
        """Whether rows do without a prompt, as the environment or the agent makes it."""
        return self.environment_factory is not None or self.agent is not None

    def for_trainer(self) -> dict[str, Any]:
        """Arguments of `APPOTrainer` that are the task's own: all but its data and its model."""
        return {
            "reward_funcs": list(self.reward_funcs),
            "tools": [] if self.agent else list(self.tools),
            "environment_factory": self.environment_factory,
            "decision_positions": self.decision_positions,
            "judge": self.judge,
            "agent": self.agent,
        }

    @classmethod
    def from_spec(cls, spec: Any, held_out: float = 0.1, copies: bool = True) -> "Task":
        """A task of what TRL's `GRPOTrainer` is given: one of TRL's specs, or a dict of one's own.

        Args:
            spec: `train_dataset`, `environment_factory`, `reward_funcs`, perhaps `eval_dataset` and `tools`, by TRL's
                conventions, as attributes or as keys. Without a `train_dataset` the environment's `reset` gives
                prompts; without an `eval_dataset` a share of the rows is held out, by content.
            held_out: That share, 0 to 1; 0 trains on all and evaluates on nothing.
            copies: False where a deep copy of an environment succeeds and yet shares its state, as that lies with a
                server, in a folder or a database: branches are then written behind a replay of the calls.

        Raises:
            UserError: for what is missing, or of another kind than a task takes. What a spec itself raises, such as a
                server's error, is passed on.
        """
        return cls(**spec_parts(spec, held_out, copies))

    def questions(self, size: int, seed: int) -> Dataset:
        """Rows for an evaluation."""
        return (self.eval_dataset or self.dataset)(size, seed)
