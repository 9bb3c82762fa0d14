"""A training that is stopped when its steps are done: its checkpoints are told, or it ends with its result."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from training_inputs import settings_with
from warm_runs import STEPS

from steps import wire
from steps.artifacts import is_whole
from steps.params.training import CheckpointParams

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_root")]

# Precedes the code of a step: a function of finetune sends the signal to its process before its own work.
STOPS = """
import importlib, os, signal
module, _, name = os.environ["STOPS_IN"].rpartition(".")
found = importlib.import_module(module)
function = getattr(found, name)
def stopped(*given, **named):
    os.kill(os.getpid(), signal.SIGTERM)
    return function(*given, **named)
setattr(found, name, stopped)
"""


@pytest.fixture
def run(loaded, model, data, tmp_path):
    """Run a training of few steps, stopped in a function; give its exit code and the last line of its log."""

    def begin(stops_in: str = "") -> tuple[int, str]:
        kept = CheckpointParams(save_steps=2, resume_from_checkpoint="auto")  # which go when the training has ended
        settings = settings_with({"max_steps": 4}, checkpoints=kept)
        words = [
            "finetune",
            "--settings",
            wire.dump(settings.model_dump(mode="json")),
            "--model",
            model,
            "--data",
            data,
        ]
        words += ["--tuned", tmp_path / "tuned", "--checkpoints", tmp_path / "kept", "--report", tmp_path / "r.html"]
        step = loaded.start(
            (STOPS if stops_in else "") + STEPS, *map(str, words), cwd=Path.cwd(),
            environment={**os.environ, "STOPS_IN": stops_in}, files=[tmp_path / "log.txt"] * 2,
        )  # fmt: skip
        return step.wait(300), (tmp_path / "log.txt").read_text()

    return begin


@pytest.mark.parametrize("stops_in", ["steps.finetune.training.write_tuned", "steps.reports.write_training_report"])
def test_a_training_that_is_stopped_before_its_result_is_whole_goes_on_from_its_checkpoint(run, stops_in, tmp_path):
    code, log = run(stops_in)
    assert code == 143, log
    told = json.loads(log.splitlines()[-1])
    assert told["resume_from"].endswith("checkpoint-4")
    assert "TRAIN-E1431" in told["problems"][0]
    assert not (tmp_path / "tuned").exists()
    code, log = run()
    assert code == 0, log
    assert "resuming from" in log
    assert is_whole(tmp_path / "tuned")


def test_a_training_whose_checkpoints_are_deleted_ends_with_its_result_although_it_is_to_stop(run, tmp_path):
    code, log = run("steps.finetune.step.remove_finished")
    assert code == 0, log
    assert is_whole(tmp_path / "tuned")
    assert is_whole(tmp_path / "kept")
