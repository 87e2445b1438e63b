"""What is looked at before anything is loaded: functions that each look at one thing and yield what they find.

`appo train` raises the first problem of those that are cheap; `appo train RECIPE --dry-run` prints what all of them
find. So both say the same in the same words. A check of your own is a function of a `Context` in one of these lists.

Left out on purpose: the fields themselves, which are checked when they are read (`recipe.py`, `appo.config`).
"""

import re
from collections.abc import Callable, Iterator, Sequence

import jinja2

from appo.cli import checks_run, checks_task
from appo.cli.context import Context, Fault, Finding, Note, Problem, Unavailable, Unchecked
from appo.cli.mistakes import RecipeError, fault_of, sentence_of
from appo.data.rows import HubError
from appo.errors import UserError, is_complaint

Check = Callable[[Context], Iterator[Finding]]

# Nothing of the task or the model is needed for these.
AT_ONCE: list[Check] = [
    checks_run.output_dir,
    checks_run.checkpoint,
    checks_run.processes,
    checks_run.sharding,
    checks_run.engine,
    checks_run.precision,
]
# These read what is small: the task and its data, a model's configuration and tokenizer, or one made on the spot.
BEFORE_LOADING: list[Check] = [
    checks_task.task,
    checks_task.isolation,
    checks_task.rewards,
    checks_task.agent,
    checks_task.data,
    checks_task.questions,
    checks_task.apart,
    checks_task.lora,
    checks_task.dtype,
    checks_task.model,
    checks_task.tokenizer,
    checks_task.tools,
    checks_task.prompts,
    checks_run.batches,
    checks_task.reward_funcs,
    checks_task.cold_start,
]
# These read what a run reads anyway when it comes to it, or go by a formula; or cannot be known here.
CHECKS: list[Check] = [
    *AT_ONCE,
    checks_run.hub,
    checks_run.gpus,
    *BEFORE_LOADING,
    checks_task.adapter,
    checks_task.traces,
    checks_task.demonstrations,
    checks_task.reset,
    checks_run.memory,
]


def findings(context: Context, checks: Sequence[Check]) -> Iterator[Finding]:
    """What the checks find, in their order. What cannot be made is told once, and skips the checks that need it."""
    for check in checks:
        try:
            yield from check(context)
        except Unavailable as missing:
            if missing not in context.told:
                context.told.add(missing)
                yield finding_of(missing.name, missing.error)
        except (Exception, SystemExit) as error:
            yield finding_of(check.__name__, error)


def raise_first(context: Context, checks: Sequence[Check]) -> list[str]:
    """Raises what a run cannot go on with.

    Returns:
        The notes of the checks, where there is no problem.

    Raises:
        RecipeError: for the first problem.
        Exception: for the first fault in the code of a task, as it was raised.
    """
    notes = []
    for finding in findings(context, checks):
        if isinstance(finding, Fault):
            raise finding.error
        if isinstance(finding, Problem):
            raise RecipeError(finding.message)
        if isinstance(finding, Note):
            notes.append(finding.message)
    return notes


def finding_of(name: str, error: BaseException) -> Finding:
    """What an exception comes to.

    Args:
        name: Of what was looked at; in front of sentences that do not begin with a field.
    """
    said = sentence_of(error)
    if isinstance(error, HubError):
        return Unchecked(f"{name}: {said}")
    if isinstance(error, UserError | jinja2.TemplateError) or is_complaint(error):
        own = isinstance(error, RecipeError) or (isinstance(error, UserError) and re.match(r"[\w.]+(:| =)", said))
        return Problem(said if own else f"{name}: {said}")
    return Fault(fault_of(name, error), error)
