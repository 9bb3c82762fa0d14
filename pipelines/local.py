"""Runs a pipeline on this machine with kfp's local runner.

The runner itself reports only the name of a failed task, replaces the text `python3` in every argument, and mixes its
own log with the steps'. This module returns the failing step's own error, keeps user text unchanged, shows only the
steps' lines on the terminal, writes all output to log.txt, and reuses the result of a task whose inputs did not change.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pipelines.warm import warm_python
from steps.errors import Problem, SecurityRefusal
from steps.running import LOCAL_ROOT, PARENT, RECORDS, SHOWN, bug, code_digest

ONE_AT_A_TIME = threading.Lock()  # kfp.local keeps its configuration in a global
CACHE_HIT = re.compile(r"Task ([\w-]+) cache hit")
TAIL_LINES = 20


class StepFailed(Exception):
    """A step ended with an error; `outcome` is its machine-readable form (`StepError.as_json`)."""

    def __init__(self, outcome: dict[str, Any]):
        self.outcome = outcome
        super().__init__("\n".join(outcome["problems"]))


@dataclass
class LocalRun:
    """The results of a local run."""

    folder: Path
    outputs: dict[str, Any] = field(default_factory=dict)
    """Pipeline outputs: artifact paths and values."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """The record of each executed step, in order."""
    reused: list[str] = field(default_factory=list)
    """Steps whose result was reused from an earlier run."""


def run_local(
    pipeline: Any,
    parameters: dict[str, Any],
    root: Path,
    folder: Path,
    cache: bool = True,
    show: Callable[[str], None] = print,
    warm: bool = True,
) -> LocalRun:
    """Run a pipeline (a function, or one loaded from compiled YAML) with this Python.

    `root` has the files shared by runs (cache, checkpoints, MLflow store), `folder` those of this run. Raises
    StepFailed with the failing step's own error, SecurityRefusal if a value contains a placeholder that kfp expands.
    """
    _refuse_placeholders(parameters)
    run = LocalRun(folder.absolute())
    records = run.folder / "records"
    records.mkdir(parents=True, exist_ok=True)
    with ONE_AT_A_TIME, open(run.folder / "log.txt", "a", encoding="utf-8") as log_file:
        output = _Output(log_file, show)
        hits = _CacheHits(run.reused, show)
        with (
            _environment(root.absolute(), records),
            _forwarded_signals(),
            warm_python() if warm else contextlib.nullcontext() as client,
            _untouched_text(client),
            hits,
        ):
            try:
                run.outputs = _run(pipeline, parameters, root.absolute(), run.folder, cache, output)
            except RuntimeError as error:
                raise StepFailed(_outcome(records, output, error)) from error
            finally:
                run.records = [json.loads(file.read_text("utf-8")) for file in sorted(records.iterdir())]
                shutil.rmtree(records)
    return run


def _run(
    pipeline: Any, parameters: dict[str, Any], root: Path, folder: Path, cache: bool, output: _Output
) -> dict[str, Any]:
    from kfp import local

    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "steps"),
        raise_on_error=True,
        enable_caching=cache,
        # kfp's cache key does not include the code of the steps, so each version of the code has its own cache folder.
        cache_root=str(root / "cache" / code_digest()),
    )
    with contextlib.redirect_stdout(output), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = pipeline(**parameters)
    return {name: value.path if hasattr(value, "path") else value for name, value in task.outputs.items()}


class _CacheHits(logging.Handler):
    """Reads from kfp's log which tasks were reused from an earlier run; kfp has no other way to find out."""

    def __init__(self, reused: list[str], show: Callable[[str], None]):
        super().__init__(logging.INFO)
        self.reused, self.show = reused, show
        self._stdout = sys.stdout

    def emit(self, record: logging.LogRecord) -> None:
        if hit := CACHE_HIT.match(record.getMessage()):
            self.reused.append(hit[1])
            with contextlib.redirect_stdout(self._stdout):
                self.show(f"▸ {hit[1]}\n  unchanged, reused from an earlier run")

    def __enter__(self) -> _CacheHits:
        root = logging.getLogger()
        self._level = root.level
        root.addHandler(self)
        root.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
        logging.getLogger().setLevel(self._level)


class _Output:
    """Replaces stdout during a run: writes everything to the log file and shows the steps' own lines to the user."""

    def __init__(self, file: TextIO, show: Callable[[str], None]):
        self.file, self.show = file, show
        self.tail: list[str] = []
        self._line = ""
        self._stdout = sys.stdout

    def write(self, text: str) -> int:
        self._line += text
        *lines, self._line = self._line.split("\n")
        for line in lines:
            self._take(line)
        return len(text)

    def flush(self) -> None:
        self.file.flush()

    def _take(self, line: str) -> None:
        self.file.write(line.replace(SHOWN, "") + "\n")
        self.tail = [*self.tail[-TAIL_LINES:], line.strip()]
        if SHOWN in line:
            with contextlib.redirect_stdout(self._stdout):
                self.show(line.split(SHOWN, 1)[1])


def _outcome(records: Path, output: _Output, error: Exception) -> dict[str, Any]:
    """Return the failing step's own error; if it reported none, an error with the last lines of its output."""
    errors = [json.loads(file.read_text("utf-8"))["error"] for file in sorted(records.iterdir())]
    told = [outcome for outcome in errors if outcome]
    if told:
        return told[-1]
    failed = re.sub(r"\x1b\[\d+m", "", str(error))
    last = "\n".join(line for line in output.tail if line)
    problem = Problem("RUN-E0070", failed, last[-2000:] or "no output", "a step that succeeds", "see log.txt")
    outcome = bug(error).as_json("unknown")
    return {**outcome, "where": failed, "found": problem.found, "fix": problem.fix, "problems": [str(problem)]}


@contextlib.contextmanager
def _environment(root: Path, records: Path) -> Iterator[None]:
    """Set the steps' environment variables: folder of records, process id of the runner, root folder, MLflow store."""
    before = dict(os.environ)
    root.mkdir(parents=True, exist_ok=True)
    os.environ.update({RECORDS: str(records), PARENT: str(os.getpid()), LOCAL_ROOT: str(root)})
    os.environ.setdefault("MLFLOW_TRACKING_URI", default_store(root))
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def default_store(root: Path) -> str:
    """Return the URI of the MLflow store of local runs."""
    return f"sqlite:///{root.absolute()}/mlflow.db"


@contextlib.contextmanager
def _untouched_text(warm: Path | None) -> Iterator[None]:
    """Set sys.executable to `python3`, so that the runner's replacement of `python3` by it changes no text."""
    executable, printing = sys.executable, builtins.print
    folder = warm or Path(executable).parent
    if (folder / "python3").exists():
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
        sys.executable = "python3"
    try:
        yield
    finally:
        sys.executable = executable
        builtins.print = printing  # kfp's parallel loops replace print and do not restore it


@contextlib.contextmanager
def _forwarded_signals() -> Iterator[None]:
    """Forward the first Ctrl-C or SIGTERM to the running step, so that it can save a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = {}

    def forward(number: int, _frame: Any) -> None:
        import psutil

        signal.signal(number, handlers[number])
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.send_signal(signal.SIGTERM)

    for caught in (signal.SIGTERM, signal.SIGINT):
        handlers[caught] = signal.signal(caught, forward)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _refuse_placeholders(parameters: dict[str, Any]) -> None:
    bad = [name for name, value in parameters.items() if "{{$" in json.dumps(value, default=str)]
    if bad:
        raise SecurityRefusal(
            [
                Problem("PARAM-E0301", name, "{{$", "text without it", "write { {$ instead", why="kfp would expand it")
                for name in bad
            ]
        )
