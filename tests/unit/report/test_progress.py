"""What the progress line says of a run."""

import io

import pytest
from rich.console import Console
from training_parts import make_trainer
from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState, TrainingArguments

from appo.report.progress import RichProgress, title_of

SHOWN = {"success": "success {:.2f}", "tokens/generated": "{:,.0f} tokens"}


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """Logs (success, tokens) -> the lines that are printed, one for each log."""
    monkeypatch.setattr("appo.report.progress.SECONDS_BETWEEN_LINES", -1.0)

    def log(*logs):
        file = io.StringIO()
        progress = RichProgress("APPO", SHOWN, Console(file=file, width=200))
        args, state = TrainingArguments(str(tmp_path), use_cpu=True), TrainerState(max_steps=9)
        for state.global_step, (success, tokens) in enumerate(logs, 1):
            entry = {"success": success, "tokens/generated": tokens}
            progress.on_log(args, state, TrainerControl(), logs=entry)
        return file.getvalue().splitlines()

    return log


def test_a_mean_says_that_it_is_one_and_totals_are_the_last(lines):
    assert lines((1.0, 1000), (0.0, 2000)) == [
        "APPO 1/9  success 1.00  1,000 tokens",
        "APPO 2/9  success 0.50  (mean of 2 logs)  2,000 tokens",
    ]


def test_a_training_is_called_by_its_method():
    assert [title_of(name) for name in ("appo", "tree_grpo", "surprise:Mine")] == ["APPO", "TREE_GRPO", "Mine"]


def test_the_mean_is_of_the_last_eight_logs(lines):
    # The first log has left the mean: 7 of 8 succeeded.
    assert lines((0.0, 1), (0.0, 2), *[(1.0, n) for n in range(3, 10)])[-1] == (
        "APPO 9/9  success 0.88  (mean of 8 logs)  9 tokens"
    )


@pytest.fixture
def progress(tmp_path, monkeypatch):
    """(the callback, what it has printed, its arguments besides the control); a line is always due."""
    monkeypatch.setattr("appo.report.progress.SECONDS_BETWEEN_LINES", -1.0)
    file = io.StringIO()
    arguments = TrainingArguments(str(tmp_path), use_cpu=True), TrainerState(max_steps=9, global_step=4)
    return RichProgress("APPO", SHOWN, Console(file=file, width=200)), file.getvalue, arguments


def test_a_step_without_a_log_gives_a_line_too(progress):
    callback, said, arguments = progress
    callback.on_step_end(*arguments, TrainerControl())
    callback.on_step_end(*arguments, TrainerControl(should_log=True))  # the log's own line follows
    assert said() == "APPO 4/9\n"


def test_a_trainer_shows_our_progress_and_none_of_transformers(tmp_path):
    shown = make_trainer(tmp_path, disable_tqdm=False).callback_handler.callbacks
    assert sum(isinstance(one, RichProgress) for one in shown) == 1
    assert not any(isinstance(one, ProgressCallback | PrinterCallback) for one in shown)


def test_who_wants_no_progress_has_none_of_ours(tmp_path):
    shown = make_trainer(tmp_path, disable_tqdm=True).callback_handler.callbacks
    assert not any(isinstance(one, RichProgress | ProgressCallback) for one in shown)
