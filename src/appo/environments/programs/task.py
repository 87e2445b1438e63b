"""Programs from examples as a task of recipes; the package says what it is.

    task: programs
    task_args: {form: words, depth: [1, 2], offered: 4, tries: 4, noise: 0.4}

Left out on purpose: what a form writes (`words.py`, `chat.py`) and what its decisions are worth (`judge.py`,
`chat_judge.py`).
"""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

from datasets import Dataset

from appo.environments.base import Demonstration, Task
from appo.environments.programs import chat, chat_judge, judge, words
from appo.environments.programs.guesses import NOISE, demonstrate
from appo.environments.programs.primitives import MAX_STEPS, PRIMITIVES
from appo.environments.programs.questions import questions
from appo.errors import UserError
from appo.models import smollm2
from appo.tools.python import check_isolation

FORMS = ("words", "chat")


def TASK(
    form: str = "words",
    depth: Sequence[int] = (1, 2),
    offered: int = 4,
    tries: int = 4,
    noise: float = NOISE,
    hidden_size: int = 96,
    layers: int = 2,
) -> Task:
    """The task.

    Args:
        form: `words` for the tiny model, `chat` for a language model that writes Python.
        depth: Fewest and most steps of a hidden program.
        offered: Steps that a question offers, no fewer than `depth` asks for; 0 for none, so that any of the forty
            may be needed.
        tries: Tests that are allowed.
        noise: Share of the demonstrations that make a mistake.
        hidden_size: Width of the tiny model.
        layers: Its layers.

    Raises:
        UserError: for values that make no task, and for the form in Python where programs cannot be isolated.
    """
    _check(form, depth, offered, tries, noise)
    _check_size(hidden_size, layers)
    module, judging = (chat, chat_judge) if form == "chat" else (words, judge)
    if form == "chat":
        check_isolation()
    drawn = partial(questions, depth=tuple(depth), offered=offered)

    def rows(held_out: bool, size: int, seed: int) -> Dataset:
        found = drawn(random.Random(f"questions {seed}"), held_out=held_out)
        return Dataset.from_list([{"prompt": module.prompt_of(one), **one.row()} for one in islice(found, size)])

    def demonstrations(size: int, seed: int) -> Iterator[Demonstration]:
        rng = random.Random(f"demonstrations {seed}")
        for one in islice(drawn(rng, held_out=False), size):
            yield module.demonstration(one, *demonstrate(one, tries, noise, rng))

    return Task(
        dataset=partial(rows, False),
        eval_dataset=partial(rows, True),
        reward_funcs=[module.passes_all],
        environment_factory=module.environment(tries),
        demonstrations=demonstrations,
        make_model=smollm2.make_model if form == "chat" else partial(words.make_model, hidden_size, layers),
        decision_positions=judging.decision_positions,
        judge=partial(judging.judge, tries=tries),
    )


def _check(form: str, depth: Sequence[int], offered: int, tries: int, noise: float) -> None:
    if type(form) is not str or form not in FORMS:
        raise UserError(f"form = {form!r} must be one of {', '.join(FORMS)}.")
    whole = isinstance(depth, list | tuple) and len(depth) == 2 and all(type(one) is int for one in depth)
    if not whole or not 1 <= depth[0] <= depth[1] <= MAX_STEPS:
        raise UserError(f"depth = {depth!r} must be the fewest and the most steps, such as [1, 2], up to {MAX_STEPS}.")
    most = len(PRIMITIVES) // 2
    for name, value, least, bound in (("offered", offered, 0, most), ("tries", tries, 1, 100)):
        if type(value) is not int or not least <= value <= bound:
            raise UserError(f"{name} = {value!r} must be a whole number from {least} to {bound}.")
    if 0 < offered < depth[1]:
        raise UserError(
            f"offered = {offered} is fewer than the {depth[1]} steps of depth; offer as many, or 0 for none."
        )
    if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise <= 1:
        raise UserError(f"noise = {noise!r} must be a share, from 0 to 1.")


def _check_size(hidden_size: int, layers: int) -> None:
    if type(hidden_size) is not int or hidden_size < 8 or hidden_size % 8:  # four heads, each of an even width
        raise UserError(f"hidden_size = {hidden_size!r} must be a multiple of 8, such as 96.")
    if type(layers) is not int or layers < 1:
        raise UserError(f"layers = {layers!r} must be a whole number, 1 or more.")
