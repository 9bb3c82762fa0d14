"""A training that is stopped in the step before an evaluation has that evaluation when it goes on."""

import pytest
from grids import long_but
from test_checkpoints_by_time import told, weights
from training_inputs import settings_with, train

from steps.errors import Preempted
from steps.finetune.watching import Preemption
from steps.params.training import CheckpointParams

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_root")]

# 10 steps in an epoch; evaluations at the end of both epochs, or at 8, 16 and 20.
CASES = {
    "epoch": ({"evaluation_strategy": "epoch"}, (9, 10, 11, 19, 20)),
    "steps": ({"evaluation_strategy": "steps", "eval_steps": 8}, (7, 8, 9, 16, 20)),
    "none": ({"evaluation_strategy": "no"}, (10, 19)),
}


STOPS = [(case, step, saved) for case, (_, steps) in CASES.items() for step in steps for saved in (3, 0)]
# At an evaluation, beside one, at the last step, and at the end of an epoch that is not evaluated.
USUAL = [("epoch", 10, 3), ("epoch", 20, 0), ("steps", 9, 3), ("none", 10, 0)]


@pytest.mark.parametrize(("case", "step", "saved"), long_but(USUAL, STOPS))
def test_the_result_is_that_of_an_undisturbed_training(
    case, step, saved, model, data, tmp_path, local_root, monkeypatch
):
    changes = {"num_train_epochs": 2, "learning_rate": 3e-3, **CASES[case][0]}
    settings = settings_with(changes, checkpoints=CheckpointParams(save_steps=saved))
    plain = train(settings, model, data, tmp_path / "plain" / "out")

    def ask(self, args, state, control, **_):
        self._asked |= state.global_step == step - 1

    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "on_step_begin", ask)
        with pytest.raises(Preempted):
            train(settings, model, data, tmp_path / "stopped")
    again = train(settings, model, data, tmp_path / "stopped")
    assert again["evaluations"] == plain["evaluations"]
    assert told(again) == told(plain)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "plain" / "out") != {}


@pytest.mark.parametrize("step", [10, 20])
def test_no_checkpoint_by_steps_is_saved_before_the_evaluation_of_its_epoch(step, model, data, tmp_path, monkeypatch):
    settings = settings_with({"num_train_epochs": 2, "learning_rate": 3e-3}, checkpoints=CheckpointParams(save_steps=5))
    plain = train(settings, model, data, tmp_path / "plain" / "out")

    def killed(self, args, state, control, **_):
        if state.global_step == step:
            raise SystemExit("killed in the evaluation")

    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "on_prediction_step", killed)
        with pytest.raises(SystemExit):
            train(settings, model, data, tmp_path / "stopped")
    again = train(settings, model, data, tmp_path / "stopped")
    assert told(again) == told(plain)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "plain" / "out") != {}
