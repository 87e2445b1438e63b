"""One job of a study: a cold start, or a run of an arm with measurements along the way.

Left out on purpose: checkpoints. A run takes minutes; one that was interrupted is done again.
"""

import time
from typing import Any

import transformers
from transformers import PrinterCallback, TrainerCallback

from appo import run
from appo.evaluation import evaluate
from appo.rivals import RivalTrainer
from appo.study.plan import TEST_QUESTIONS, VALIDATION_QUESTIONS, Job, Study, run_settings

QUESTIONS = {"validation": VALIDATION_QUESTIONS, "test": TEST_QUESTIONS}


class Curve(TrainerCallback):
    """Measures success at even distances of generated tokens, and ends the run at its budget.

    Args:
        budget: Generated tokens.
        evaluations: How many measurements after that at the start.
        questions: What is asked.
    """

    def __init__(self, budget: int, evaluations: int, questions: Any) -> None:
        self.budget, self.evaluations, self.questions = budget, evaluations, questions
        self.points: list[dict[str, float]] = []
        self.trainer: Any = None
        self._away = 0.0  # seconds in measurements
        self._start = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()
        self._measure()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        tokens = self.trainer.counters.totals()["tokens/generated"]
        if tokens >= self.budget * len(self.points) / self.evaluations:
            self._measure()
        control.should_training_stop = tokens >= self.budget

    def _measure(self) -> None:
        start, totals = time.perf_counter(), self.trainer.counters.totals()
        found = evaluate(self.trainer, self.questions, self.trainer.args.rollout_batch_size)
        self.points.append(
            {
                "updates": self.trainer.state.global_step,
                "generated_tokens": totals["tokens/generated"],
                "rollouts": totals["rollouts/generated"],
                "seconds": round(start - self._start - self._away, 2),
                "tool_calls_made": totals["tools/calls"],
                "success": found.success,
                "tool_calls": found.tool_calls,
                "tokens": found.tokens,
            }
        )
        self._away += time.perf_counter() - start


def do(study: Study, job: Job) -> dict[str, Any] | None:
    """Does a job: a cold start is saved and None returned, a run returns its line of runs.jsonl."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config, args, sft_args = run_settings(study, job)
    if job.arm is None:
        run.sft(config, args, sft_args)
        return None
    assert job.testbed and job.phase
    args.disable_tqdm = True
    task = run.load_task(config)
    model, tokenizer = run.load_model(config, args, task, config.model)
    questions = task.questions(study.option("questions", job.testbed), QUESTIONS[job.phase])
    budget = study.option("generated_tokens", job.testbed)
    curve = Curve(budget, study.option("evaluations", job.testbed), questions)
    trainer = RivalTrainer(
        model,
        list(task.reward_funcs),
        args,
        train_dataset=task.dataset(config.train_size, config.train_seed),
        processing_class=tokenizer,
        tools=list(task.tools),
        environment_factory=task.environment_factory,
        decision_positions=task.decision_positions,
        callbacks=[curve],
    )
    curve.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    line = {name: getattr(job, name) for name in ("testbed", "arm", "phase", "cold_start", "seed", "learning_rate")}
    return {**line, "questions": len(questions), "points": curve.points}
