"""One job of a study: a cold start, or a run of an arm with measurements along the way.

Left out on purpose: checkpoints. A run takes minutes; one that was interrupted is done again.
"""

from collections.abc import Callable
from typing import Any

import transformers
from transformers import PrinterCallback, TrainerCallback

from appo.cli import train as run
from appo.cli.loading import load_model, load_task
from appo.evaluation import evaluate
from appo.research.charges import SECONDS, ChargedTrainer, Spent
from appo.research.earlier import code_of
from appo.research.plan import TEST_QUESTIONS, VALIDATION_QUESTIONS, Job, Study, run_settings

QUESTIONS = {"validation": VALIDATION_QUESTIONS, "test": TEST_QUESTIONS}


class Curve(TrainerCallback):
    """Measures success at even distances of used tokens (`charges.py`), and ends the run at its budget.

    Args:
        budget: Generated tokens.
        evaluations: How many measurements after that at the start.
        questions: What is asked.
        on_update: Called with the share of the budget that is used, 0 to 1.
    """

    trainer: ChargedTrainer

    def __init__(
        self, budget: int, evaluations: int, questions: Any, on_update: Callable[[float], None] = lambda share: None
    ) -> None:
        self.budget, self.evaluations, self.questions, self.on_update = budget, evaluations, questions, on_update
        self.points: list[dict[str, float]] = []
        self._away: Spent = {}  # what does not belong to the run: measurements, and what precedes it

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._away = self.trainer.spent()
        self._measure(dict.fromkeys(self._away, 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        used = self._used()
        if used["generated_tokens"] >= self.budget * len(self.points) / self.evaluations:
            self._measure(used)
        if used["generated_tokens"] >= self.budget:
            control.should_training_stop = True
        self.on_update(min(1.0, used["generated_tokens"] / self.budget))

    def _used(self) -> Spent:
        spent = {name: value - self._away[name] for name, value in self.trainer.spent().items()}
        used = self.trainer.ledger.used(spent)
        return {name: round(value, 2) if name in SECONDS else round(value) for name, value in used.items()}

    def _measure(self, used: Spent) -> None:
        before = self.trainer.spent()
        found = evaluate(self.trainer, self.questions, self.trainer.args.rollout_batch_size)
        measured = {"success": found.success, "tool_calls": found.tool_calls, "tokens": found.tokens}
        self.points.append({"updates": self.trainer.state.global_step, **used, **measured})
        for name, value in self.trainer.spent().items():
            self._away[name] += value - before[name]


def do(study: Study, job: Job, on_update: Callable[[float], None]) -> dict[str, Any] | None:
    """Does a job: a cold start is saved and None returned, a run returns its line of runs.jsonl."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config, args, sft_args = run_settings(study, job)
    if job.arm is None:
        run.sft(config, args, sft_args)
        return None
    assert job.testbed and job.phase
    args.disable_tqdm = True
    code = code_of(config.task)
    task = load_task(config, args.tool_protocol)
    model, tokenizer = load_model(config, args, task, config.model)
    questions = task.questions(study.option("questions", job.testbed), QUESTIONS[job.phase])
    budget = study.option("generated_tokens", job.testbed)
    curve = Curve(budget, study.option("evaluations", job.testbed), questions, on_update)
    trainer = ChargedTrainer(
        model,
        args=args,
        train_dataset=task.dataset(config.train_size, config.train_seed),
        processing_class=tokenizer,
        **task.for_trainer(),
        callbacks=[curve],
    )
    curve.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    line = {name: getattr(job, name) for name in ("testbed", "arm", "phase", "cold_start", "seed", "learning_rate")}
    return {**line, "code": code, "budget": budget, "questions": len(questions), "points": curve.points}
