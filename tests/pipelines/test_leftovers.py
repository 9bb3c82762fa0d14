"""A local run leaves a log that can be read, and no temporary files, however it ends."""

import fcntl
import os
import signal
import stat
import subprocess
from pathlib import Path

import psutil
import pytest
from command_line import FINETUNE
from conftest import chat_rows, write_jsonl
from grids import long_but
from test_local import given, run, words  # noqa: F401  (a fixture)

from pipelines.active import active, alone, is_active
from pipelines.log_file import Readable
from pipelines.scratch import IN_USE, remove_abandoned, scratch_folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, of this test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


# What kfp prints → what is kept; None: left out.
LINES = {
    "05:08:34.436 - INFO - Running pipeline: \x1b[95m'chat-completion'\x1b[0m": (
        "05:08:34.436 - INFO - Running pipeline: 'chat-completion'"
    ),
    "05:08:34.458 - INFO - Streamed logs:": None,
    "    \x1e▸ plan": "\x1e▸ plan",
    '    {"a": "row of the user"}': '{"a": "row of the user"}',
    "    Loading weights:  45%|████▌     | 9/20 [00:00<00:00, 231.9it/s]": None,
    "    Loading weights: 100%|██████████| 20/20 [00:00<00:00, 231.9it/s]": (
        "Loading weights: 100%|██████████| 20/20 [00:00<00:00, 231.9it/s]"
    ),
    "    first\rsecond\rthird": "third",
    "05:08:36.416 - INFO - Task \x1b[96m'plan'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m": (
        "05:08:36.416 - INFO - Task 'plan' finished with status SUCCESS"
    ),
    "05:08:36.416 - INFO - Task \x1b[96m'plan'\x1b[0m outputs:": None,
    "    training: '{...}'": None,
    "    plan: Artifact( name='plan',": None,
    "-" * 80: "-" * 80,
    "    Traceback (most recent call last):": "Traceback (most recent call last):",
    '      File "x.py", line 1, in <module>': '  File "x.py", line 1, in <module>',
}


def test_the_log_file_holds_what_was_said_and_not_what_kfp_passed_on():
    readable = Readable()
    assert {raw: readable.line(raw) for raw in LINES} == LINES


def test_several_blank_lines_become_one():
    readable = Readable()
    assert [readable.line(raw) for raw in ("", "a", "", "    ", "b")] == [None, "a", "", None, "b"]


def test_a_scratch_folder_goes_with_its_run_and_that_of_a_killed_one_with_the_next(temporary):
    with scratch_folder() as first:
        (first / "file").touch()
        with scratch_folder() as second:
            assert sorted(temporary.iterdir()) == sorted([first, second])
        assert list(temporary.iterdir()) == [first]
    assert list(temporary.iterdir()) == []
    killed, foreign = temporary / "finetune-killed", temporary / "finetune-foreign"
    for folder in (killed, foreign):
        folder.mkdir()
    (killed / IN_USE).touch()
    remove_abandoned(temporary)
    assert list(temporary.iterdir()) == [foreign]


def test_locks_tell_active_runs_from_ended_ones(tmp_path):
    log_file = tmp_path / "log.txt"
    assert not is_active(log_file)
    with open(log_file, "w") as held, active(tmp_path, held):
        assert is_active(log_file)
        with alone(tmp_path) as nobody:
            assert not nobody
    assert not is_active(log_file)
    with alone(tmp_path) as nobody, open(tmp_path / ".runs.lock") as other:
        assert nobody
        with pytest.raises(BlockingIOError):  # a run that starts now waits
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


@pytest.fixture
def how(request) -> str:
    """How a run ends; one that fails shares the server that has the libraries, and one that succeeds has its own."""
    if request.param == "failed":
        request.getfixturevalue("warm")
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("how", ["succeeded", "failed"], indirect=True)
def test_a_run_leaves_no_temporary_file_and_a_readable_log(temporary, given, runs_root, tmp_path, how, monkeypatch):  # noqa: F811
    monkeypatch.setenv("CI", "true")  # transformers then passes its messages on to the root logger, which is kfp's
    rows = chat_rows(60)
    rows[40]["messages"][0]["role"] = "bot"
    bad = write_jsonl(tmp_path / "bad.jsonl", rows)
    wrong = {"train_file_path": str(bad)} if how == "failed" else {}
    result = run(runs_root, {**given, "max_steps": 1, **wrong}, code=2 if how == "failed" else 0)
    assert [path.name for path in temporary.iterdir()] == []
    log = Path(result["folder"], "log.txt").read_text()
    assert "\x1b" not in log
    assert "executor" not in log.lower()
    assert len(log.splitlines()) < 120
    umask = os.umask(0)
    os.umask(umask)
    files = [file for file in runs_root.rglob("*") if file.is_file() and file.name not in ("mlflow.db",)]
    closed = [file for file in files if stat.S_IMODE(file.stat().st_mode) != 0o666 & ~umask]
    assert closed == []


STOPS = [("plan", signal.SIGKILL), ("import-model", signal.SIGINT), ("finetune", signal.SIGKILL),
         ("finetune", signal.SIGINT), ("evaluate", signal.SIGTERM)]  # fmt: skip
ONE_EACH = [("import-model", signal.SIGINT), ("finetune", signal.SIGKILL)]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "number"), long_but(ONE_EACH, STOPS))
def test_a_run_that_is_stopped_leaves_no_temporary_file(temporary, given, runs_root, step, number):  # noqa: F811
    longer = {**given, "num_train_epochs": 99 if step == "finetune" else 1}
    command = [*FINETUNE, "run", "chat_completion", "--root", str(runs_root), *words(longer)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout:
            if line.startswith(f"▸ {step}"):
                family = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(number)
    assert process.returncode == (-number if number == signal.SIGKILL else 143)
    if number == signal.SIGKILL:
        assert psutil.wait_procs(family, timeout=300)[1] == []  # they end by themselves
        remove_abandoned(temporary)
    assert [path.name for path in temporary.iterdir()] == []
    assert not list(runs_root.rglob("*.tmp-*"))
