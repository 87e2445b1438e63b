"""Environments of a batch of rollouts: built once, reset often, as in TRL; copied or replayed for branches.

A rollout's tools are the plain functions and the public methods of its environment, except `reset`, `get_reward` and
`fork`. Where an environment can neither fork nor be copied, a branch resets a new one with the task's row and replays
the calls of its prefix that were the environment's: it has to answer as it did. Where it does not, the policy's prefix
belongs to another state, and that is told (`ReplayDiverged`).

A call that was given up (a time-out) may go on and change its environment. From then on that belongs to its rollout
alone: it is neither copied nor handed out again, and while the call runs, no other is made of it. A branch from behind
such a call replays the others: the policy read that this one failed.

Left out on purpose: running the policy's calls (`tools/runner.py`).
"""

import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from appo.environments.base import tool_methods
from appo.errors import UserError
from appo.rollout.loop import snapshot
from appo.rollout.types import Rollout
from appo.tools.described import check_is_function
from appo.tools.runner import ToolRunner


class ReplayDiverged(UserError):
    """A replay did not give what the policy had read, so that its environment is not in the state of the prefix."""


def opening(row: Mapping[str, Any], observation: Any) -> Any:
    """What a rollout starts from: the row's prompt, or an empty message, and what `reset` returned."""
    return with_observation(row.get("prompt", [{"role": "user", "content": ""}]), observation)


def with_observation(prompt: Any, observation: Any) -> Any:
    """The prompt with what `reset` returned appended to its last message, as TRL does it; the input is not changed.

    Args:
        prompt: A text or messages, whose contents are texts or lists of parts (`{"type": "text", "text": ..}`).
        observation: None, a text or a list of parts. A text and parts together become parts.

    Raises:
        UserError: for anything else.
    """
    if observation is None:
        return prompt
    if not isinstance(observation, (str, list)):
        kind = type(observation).__name__
        raise UserError(f"reset of the environment returned a {kind}; return None, a text or a list of parts.")
    if isinstance(prompt, str):
        return prompt + text_of(observation)
    content = prompt[-1]["content"]
    if isinstance(observation, list) and isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if isinstance(observation, str) and isinstance(content, list):
        observation = [{"type": "text", "text": observation}]
    return [*prompt[:-1], {**prompt[-1], "content": content + observation}]


def as_texts(prompt: Any) -> Any:
    """A prompt to be rendered: parts become one text, as many templates of text models drop them or show their braces.

    Raises:
        UserError: for a part that is no text.
    """
    if isinstance(prompt, str):
        return prompt
    return [{**m, "content": text_of(m["content"])} if isinstance(m.get("content"), list) else m for m in prompt]


def text_of(content: str | list[Any]) -> str:
    """The text of a message's content; its parts follow each other without a space, as templates write them."""
    if isinstance(content, str):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise UserError(f'a prompt holds the part {part!r}; text models take {{"type": "text", "text": ..}} only.')
    return "".join(part["text"] for part in content)


class EnvironmentPool:
    """Hands out environments and the tools that go with them.

    Args:
        tools: Plain functions, offered to every rollout.
        factory: Makes an environment; a dict of factories is chosen from by the row's `environment` column; None where
            the task has no environment.
    """

    def __init__(self, tools: list[Callable[..., Any]], factory: Any = None) -> None:
        self.tools = tools
        self.factories: dict[str | None, Callable[[], Any]] = {}
        if factory is not None:
            self.factories = factory if isinstance(factory, dict) else {None: factory}
        self.by_name = isinstance(factory, dict)
        self._free: dict[str | None, list[Any]] = {name: [] for name in self.factories}
        self._used: dict[int, tuple[str | None, Any]] = {}

    def probe(self) -> list[Any]:
        """One environment per factory, to read its tools from; it is handed out later like any other."""
        for name, factory in self.factories.items():
            if not self._free[name]:
                self._free[name].append(factory())
        return [self._free[name][0] for name in self.factories]

    def name_of(self, row: dict[str, Any]) -> str | None:
        """The environment that a row asks for; None where there is only one."""
        name = row.get("environment") if self.by_name else None
        if self.factories and name not in self.factories:
            raise UserError(
                f"a row has environment = {name!r}, which is none of those given to environment_factory: "
                f"{', '.join(map(str, self.factories))}."
            )
        return name

    def open(self, row: dict[str, Any]) -> tuple[Any, Any]:
        """An environment reset with `row`, and what `reset` returned; (None, None) where the task has none."""
        if not self.factories:
            return None, None
        name = self.name_of(row)
        environment = self._free[name].pop() if self._free[name] else self.factories[name]()
        self._used[id(environment)] = (name, environment)
        return environment, environment.reset(**self.arguments_of(row))

    def arguments_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """What `reset` is given of a row: all but the column that says which environment."""
        return {key: value for key, value in row.items() if not (self.by_name and key == "environment")}

    def tools_of(self, environment: Any) -> dict[str, Callable[..., Any]]:
        """All tools of a rollout by name.

        Raises:
            UserError: where two have the same name, and for what is no function.
        """
        methods = tool_methods(environment) if environment is not None else []
        found: dict[str, Callable[..., Any]] = {}
        for tool in [*self.tools, *methods]:
            check_is_function(tool)
            if tool.__name__ in found:
                raise UserError(
                    f"two tools are called {tool.__name__}; rename one (MCPServer: give a prefix), as the policy "
                    "calls them by name."
                )
            found[tool.__name__] = tool
        return found

    def all_tools(self) -> dict[str, Callable[..., Any]]:
        """The tools of every kind of rollout by name."""
        environments = self.probe() or [None]
        return {name: tool for environment in environments for name, tool in self.tools_of(environment).items()}

    def enter_prefix(self, prefix: Rollout, row: dict[str, Any], runner: ToolRunner) -> None:
        """Gives `prefix` an environment in the state that its calls left: a copy, or a replay where copying fails.

        Raises:
            ReplayDiverged: when all is replayed, where the prompt or a result was another one than the prefix has.
        """
        if not self.factories:
            return
        kept = prefix.snapshots[-1] if len(prefix.snapshots) == len(prefix.answered_turns()) + 1 else None
        if kept is not None:
            prefix.environment = snapshot(kept)
            return
        if differences := list(self._replay(prefix, row, runner)):
            raise ReplayDiverged(
                f"{differences[0]}. An environment that cannot be copied is branched by a replay of its calls, and "
                "has to answer each time as it did: draw from a seed of the row, leave times and random names out of "
                "results, or give it fork(), which returns a copy."
            )

    def _replay(self, prefix: Rollout, row: dict[str, Any], runner: ToolRunner) -> Iterator[str]:
        """Resets an environment and repeats the prefix's calls of it; yields what came out otherwise, in words."""
        prefix.environment, observation = self.open(row)
        if prefix.prompt is not None and opening(row, observation) != prefix.prompt:
            yield f"reset() returned {reprlib.repr(observation)} in a replay, which is not how the rollout began"
        tools = self.tools_of(prefix.environment)
        for call in prefix.tool_calls:
            if runner.busy(prefix.environment):
                return  # a call of the replay was given up, which was told: its state cannot be had
            # Other functions keep no state of the rollout, and may be slow or cost something.
            if not call.ran or getattr(tools.get(call.name), "__self__", None) is not prefix.environment:
                continue
            result = runner.submit(tools, call.name, call.arguments).result().text
            if result != call.result:
                found, before = reprlib.repr(result), reprlib.repr(call.result)
                yield f"{call.name}({reprlib.repr(call.arguments)}) gave {found} in a replay, and {before} before"

    def release(self, runner: ToolRunner, environments: Iterable[Any] | None = None) -> None:
        """Takes back environments whose rollouts are done with: those given, or all.

        Copies are simply forgotten, and so are environments of which `runner` gave up a call.
        """
        for key in list(self._used) if environments is None else map(id, environments):
            if key in self._used:
                name, environment = self._used.pop(key)
                if not runner.gave_up(environment):
                    self._free[name].append(environment)
