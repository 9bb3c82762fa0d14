"""A disk that is full while a command writes files of its own: they are whole or as before, and the reason is told."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from pipelines.compile import compile_pipelines
from pipelines.interface.process import _without_answer
from pipelines.local import _Output
from pipelines.log_file import open_log
from pipelines.sweeping.folder import read_json, write_json
from pipelines.sweeping.processes import Job
from steps.errors import OutOfResources
from steps.running import SHOWN


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_log_that_cannot_be_written_does_not_end_a_run(tmp_path):
    shown: list[str] = []
    with open_log(Path("/dev/full")) as log:
        output = _Output(log, shown.append)
        for line in ("a library", f"{SHOWN}a step", "the last"):
            output.write(f"{line}\n")
        output.flush()
    assert shown == ["a step"]
    assert output.tail[-1] == "the last"  # from which an error is read that could not be recorded


def test_a_pipeline_that_was_compiled_before_stays_as_it_was(tmp_path, monkeypatch):
    (before,) = compile_pipelines(["adapter_tools"], tmp_path)
    text = before.read_text()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        compile_pipelines(["adapter_tools"], tmp_path, image_prefix="registry/project")
    assert raised.value.filename == str(before)
    assert [(path, path.read_text()) for path in tmp_path.iterdir()] == [(before, text)]


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_file_of_a_sweep_stays_as_it_was(tmp_path, monkeypatch, where):
    file = tmp_path / "sweep.json"
    write_json(file, {"a": 1})

    monkeypatch.setattr(os, where, full)
    with pytest.raises(OSError, match="No space left") as raised:
        write_json(file, {"a": 2})
    assert raised.value.filename == str(file)
    assert list(tmp_path.iterdir()) == [file]
    assert read_json(file) == {"a": 1}


@pytest.mark.parametrize("record", [None, "", '{"step": "trial", "er'])
def test_a_step_of_a_sweep_whose_record_did_not_fit_lacked_space(tmp_path, record):
    with subprocess.Popen(["sh", "-c", "exit 5"]) as process:
        process.wait()
    if record is not None:
        (tmp_path / "1-trial.json").write_text(record)
    error = Job("trial", process, tmp_path / "log.txt", tmp_path).error
    assert error["code"] == 5
    assert error["problems"][0].startswith("DISK-E0102")  # which ends a sweep, and is not the fault of a trial
    assert "the volume" in error["found"]


def test_a_job_that_could_not_write_its_answer_lacked_space():
    lines = ["Traceback (most recent call last):", "OSError: [Errno 28] No space left on device: '/x/.answer.json'", ""]
    assert isinstance(_without_answer("plan", 1, lines), OutOfResources)
    assert not isinstance(_without_answer("plan", 1, ["ValueError: x"]), OutOfResources)
