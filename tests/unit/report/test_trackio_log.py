"""What TRL times outside of a training does not go to trackio, which has no run then."""

from types import SimpleNamespace

import pytest

from appo.report.trackers.trackio_log import without_a_run


@pytest.mark.parametrize(("training", "left"), [(True, ["trackio", "wandb"]), (False, ["wandb"])])
def test_trackio_is_left_out_outside_of_a_training_alone(training, left):
    trainer = SimpleNamespace(is_in_train=training, args=SimpleNamespace(report_to=["trackio", "wandb"]))
    with without_a_run(trainer):
        assert trainer.args.report_to == left
    assert trainer.args.report_to == ["trackio", "wandb"]


def test_it_is_back_after_a_fault():
    trainer = SimpleNamespace(is_in_train=False, args=SimpleNamespace(report_to=["trackio"]))
    with pytest.raises(ZeroDivisionError), without_a_run(trainer):
        1 / 0  # noqa: B018
    assert trainer.args.report_to == ["trackio"]
