"""A loss that jumps and stays there is told within 25 steps, and ends the training if that was asked for."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from training_inputs import settings_with, train

from steps.errors import NumericError
from steps.finetune import loss_spikes
from steps.finetune.loss_spikes import LossSpikes
from steps.params import training


def steps_told(losses, caplog, every=1, watcher=None, first=0):
    """Return the steps at which a training with these losses, one for each log event, was warned about."""
    watcher = watcher or LossSpikes()
    caplog.clear()
    state, told = SimpleNamespace(global_step=first, log_history=[]), []
    with caplog.at_level(logging.WARNING, "finetune"):
        for loss in losses:
            state.global_step += every
            watcher.on_log(None, state, None, {"loss": loss})
            if caplog.records:
                told.append(state.global_step)
                caplog.clear()
    return told


@pytest.mark.parametrize(
    ("losses", "every", "told"),
    [
        ([2.0] * 30 + [11.0] * 40, 1, [50]),
        ([2.0] * 30 + [9.9] * 40, 1, []),  # less than 5 times
        ([2.0] * 30 + [11.0] * 19 + [2.0] * 30, 1, []),  # not for 20 steps
        ([2.0] * 10 + [11.0] * 20 + [2.0] + [50.0] * 20, 1, [30, 51]),  # two of them
        ([2.0] * 3 + [11.0] * 4, 10, [50]),
        ([2.0, 11.0], 500, [1000]),  # log events by epochs: each is the mean of many steps
        ([2.0] + [11.0] * 30, 1, [21]),
        ([9.0, 5.0, 3.0, 2.0, 1.0] + [16.0] * 30, 1, [25]),  # the median, not the last or the first
        ([11.0] * 60, 1, []),
        ([0.001] * 30 + [0.09] * 30, 1, []),
        ([0.0] * 30 + [3.0] * 30, 1, [50]),
        ([-1.0] * 30 + [3.0] * 30, 1, [50]),
        ([2.0] * 30 + [float("nan")] * 30, 1, []),  # finite.py ends these
        ([float("inf")] * 3 + [2.0] * 30 + [11.0] * 20, 1, [53]),
    ],
)
def test_a_loss_that_stays_high_is_told_once(losses, every, told, caplog):
    assert steps_told(losses, caplog, every) == told


def test_a_training_that_goes_on_knows_the_losses_of_the_process_before(caplog):
    watcher = LossSpikes()
    before = [{"step": step, "loss": 2.0 if step <= 30 else 11.0} for step in range(1, 41)]
    watcher.on_train_begin(None, SimpleNamespace(log_history=[*before, {"step": 40, "eval_loss": 99.0}]), None)
    assert steps_told([11.0] * 30, caplog, watcher=watcher, first=40) == [50]


def test_what_is_told_has_both_losses_the_step_and_a_way_out(caplog):
    steps_told([2.0] * 30 + [11.0] * 19, caplog, watcher=(watcher := LossSpikes()))
    with caplog.at_level(logging.WARNING, "finetune"):
        watcher.on_log(None, SimpleNamespace(global_step=50), None, {"loss": 12.5})
    assert caplog.messages == [
        "WARNING step 50: loss 12.5, more than 5 times the usual 2 since step 31: lower learning_rate, or raise "
        "warmup_steps"
    ]


def test_the_parameter_tells_the_numbers_that_hold():
    about = (Path(training.__file__)).read_text().partition("stop_on_loss_spike")[2].split('"""')[1]
    assert f"{loss_spikes.FACTOR} times its running median for {loss_spikes.STEPS} steps" in about


@pytest.mark.slow
def test_a_learning_rate_that_is_a_thousand_times_too_high_is_told_within_25_steps(model, data, tmp_path, caplog):
    given = {"max_steps": 25, "evaluation_strategy": "no", "logging_steps": 1, "max_grad_norm": 0.0, "warmup_steps": 0,
             "optim": "adamw_torch", "lr_scheduler_type": "constant"}  # fmt: skip
    with caplog.at_level(logging.WARNING, "finetune"):
        history = train(settings_with({**given, "learning_rate": 3e-3}), model, data, tmp_path / "usual")
    assert history["steps"] == 25
    assert "times the usual" not in caplog.text
    high = {**given, "learning_rate": 3.0}
    with caplog.at_level(logging.WARNING, "finetune"):
        train(settings_with(high), model, data, tmp_path / "told")
    assert "times the usual" in caplog.text
    with pytest.raises(NumericError, match="stop_on_loss_spike is true"):
        train(settings_with({**high, "stop_on_loss_spike": True}), model, data, tmp_path / "ended")
    assert not (tmp_path / "ended/tuned").exists()
