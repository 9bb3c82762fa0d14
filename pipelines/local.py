"""Runs a pipeline on this machine with kfp's local runner, and works around its limitations.

The runner alone reports only the name of the failed task, replaces the text `python3` in every argument, and mixes its
own log with those of the steps. Here the error of the failed step is raised, arguments stay unchanged, the terminal
shows only the steps' lines, log.txt also gets what libraries print, and a task with unchanged inputs is reused from an
earlier run.
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
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pipelines.active import active
from pipelines.log_file import Readable, open_log
from pipelines.placeholders import refuse_placeholders
from pipelines.reuse import checked_reuse
from pipelines.scratch import scratch_folder
from pipelines.warm import WAITING, warm_python
from steps.errors import Problem
from steps.params.registration import database_in
from steps.running import (
    LOCAL_ROOT,
    PARENT,
    PLANNED,
    RECORDS,
    SHOWN,
    STOPPING,
    TOGETHER,
    Printed,
    bug,
    code_digest,
    exhausted,
    killed,
    stopped,
    was_killed,
)

ONE_AT_A_TIME = threading.Lock()  # kfp.local keeps its configuration in a global
CACHE_HIT = re.compile(r"Task ([\w-]+) cache hit")
TAIL_LINES = 20


@dataclass
class LocalRun:
    """Result of a local run."""

    folder: Path
    outputs: dict[str, Any] = field(default_factory=dict)
    """Pipeline outputs: artifact paths and values."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """The record that each executed step wrote, in order."""
    reused: list[str] = field(default_factory=list)
    """Steps whose results were reused from an earlier run."""


class StepFailed(Exception):
    """A step failed; `outcome` is its error (`StepError.as_json`), `run` the result up to there."""

    def __init__(self, outcome: dict[str, Any], run: LocalRun):
        self.outcome = outcome
        self.run = run
        super().__init__("\n".join(outcome["problems"]))


def run_local(
    pipeline: Any,
    parameters: dict[str, Any],
    root: Path,
    folder: Path,
    cache: bool = True,
    show: Callable[[str], None] = print,
    warm: bool = True,
    planned: Path | None = None,
) -> LocalRun:
    """Run a pipeline (a function, or one loaded from compiled YAML) with this Python.

    `root` holds the data shared by runs (cache, checkpoints, MLflow store), `folder` the files of this run, `planned` a
    plan that was made before (plan/, report.html, outputs.json). Raises StepFailed with the error of the failed step,
    SecurityRefusal if a value contains a placeholder that kfp expands.
    """
    refuse_placeholders(parameters)
    run = LocalRun(folder.absolute())
    records = run.folder / "records"
    records.mkdir(parents=True, exist_ok=True)
    root.mkdir(parents=True, exist_ok=True)
    with ONE_AT_A_TIME, open_log(run.folder / "log.txt") as log_file:
        output = _Output(log_file, show)
        hits = _CacheHits(run.reused, output.tell)
        at_once = not (cache and cache_of(root).exists())  # nothing can be reused
        with (
            active(root, log_file),
            scratch_folder() as scratch,
            environment(
                root,
                {RECORDS: str(records), "TMPDIR": str(scratch)} | ({PLANNED: str(planned)} if planned else {}),
            ),
            _forwarded_signals(),
            warm_python(at_once) if warm and _trains_or_answers(pipeline) else contextlib.nullcontext() as client,
            _untouched_text(client),
            _codes() as codes,
            checked_reuse() if cache else contextlib.nullcontext(),
            hits,
        ):
            try:
                run.outputs = _run(pipeline, parameters, root.absolute(), run.folder, cache, output)
            except RuntimeError as error:
                raise StepFailed(_outcome(records, output, error, codes), run) from error
            finally:
                run.records = _read(records)
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
        cache_root=str(cache_of(root)),
        workspace_root=os.environ["TMPDIR"],  # kfp would create a folder of its own, and leave it after a kill
    )
    with contextlib.redirect_stdout(output), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = pipeline(**parameters)
    return {name: value.path if hasattr(value, "path") else value for name, value in task.outputs.items()}


def _trains_or_answers(pipeline: Any) -> bool:
    """Whether a task needs the libraries that the warm process loads, which takes ten seconds of a processor."""
    executors = pipeline.pipeline_spec.deployment_spec["executors"]
    return any(f"exec-{task.replace('_', '-')}" in executors for task in WAITING)


def cache_of(root: Path) -> Path:
    """Return the folder of cached results; kfp's cache key has no code of the tasks, so each version has its own."""
    bodies = (Path(__file__).with_name(f"{name}.py") for name in ("components", "in_pod", "plan_function"))
    return root.absolute() / "cache" / code_digest(*bodies)


class _CacheHits(logging.Filter):
    """Collects the reused tasks from kfp's log, which is the only place that names them.

    A filter, because kfp replaces the handlers of the root logger while a task runs, also for the tasks beside it.
    """

    def __init__(self, reused: list[str], tell: Callable[[str], None]):
        super().__init__()
        self.reused, self.tell = reused, tell

    def filter(self, record: logging.LogRecord) -> bool:
        if hit := CACHE_HIT.match(record.getMessage()):
            self.reused.append(hit[1])
            self.tell(f"▸ {hit[1]}\n  unchanged, reused from an earlier run")
        return True

    def __enter__(self) -> _CacheHits:
        root = logging.getLogger()
        self._before = root.level, list(root.handlers)
        root.addHandler(logging.NullHandler())  # without a handler, logging adds one that prints
        root.addFilter(self)
        root.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        root.removeFilter(self)
        level, root.handlers[:] = self._before
        root.setLevel(level)


class _OfThread(threading.local):
    """What a thread has written of its current line, how it reads kfp's output, and whether it writes for the user."""

    def __init__(self) -> None:
        self.line, self.shows, self.readable, self.printed = "", False, Readable(), Printed()


class _Output:
    """Replaces stdout during a run: the log file gets what can be read, the user only the lines of the steps.

    Tasks may run side by side, each in a thread that prints what its process does; lines stay whole.
    """

    def __init__(self, file: TextIO, show: Callable[[str], None]):
        self.file, self.show = file, show
        self.tail: list[str] = []
        self._own = _OfThread()
        self._one = threading.RLock()
        self._stdout = sys.stdout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stdout, name)  # encoding, isatty and others that a terminal is asked for

    def write(self, text: str) -> int:
        if self._own.shows:
            return self._stdout.write(text)
        *lines, self._own.line = (self._own.line + text).split("\n")
        with self._one:
            for line in lines:
                self._take(line)
        return len(text)

    def flush(self) -> None:
        (self._stdout if self._own.shows else self.file).flush()

    def tell(self, line: str) -> None:
        """Show a line to the user."""
        with self._one:
            self._own.shows = True
            try:
                self.show(line)
            finally:
                self._own.shows = False

    def _take(self, line: str) -> None:
        if (kept := self._own.readable.line(line)) is None:
            return
        kept = self._own.printed.masked(f"{kept}\n")[:-1]  # a process of a user may print without Python
        self.file.write(kept.replace(SHOWN, "") + "\n")
        self.tail = [*self.tail[-TAIL_LINES:], kept.strip()]
        if SHOWN in line:
            self.tell(kept.partition(SHOWN)[2])  # an empty line has lost the mark at its end


def _read(records: Path) -> list[dict[str, Any]]:
    """Read the records of the steps; on a full disk one may be empty."""
    read = []
    for file in sorted(records.iterdir()):
        with contextlib.suppress(ValueError):
            read.append(json.loads(file.read_text("utf-8")))
    return read


def _printed(lines: list[str]) -> list[dict[str, Any]]:
    """Return the errors that steps printed as their last line, for those that could not be recorded."""
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            value = json.loads(line.replace(SHOWN, "").strip())
            found += [value] if isinstance(value, dict) and {"code", "problems"} <= set(value) else []
    return found


def _outcome(records: Path, output: _Output, error: Exception, codes: Sequence[int] = ()) -> dict[str, Any]:
    """Return the error of the failed step, or the last lines of its output if its process reported none.

    `codes` are those that processes of tasks have failed with.
    """
    reported = [record["error"] for record in _read(records) if record["error"]] or _printed(output.tail)
    if reported:
        return reported[-1]
    if STOPPING in os.environ:
        return stopped("run").as_json("unknown")
    failed = re.sub(r"\x1b\[\d+m", "", str(error))
    if codes and was_killed(codes[-1]):
        return killed(failed, codes[-1]).as_json("unknown")
    for line in reversed(output.tail):  # such as of a library that ends the process
        if lack := exhausted(RuntimeError(line), "run"):
            return lack.as_json("unknown")
    last = "\n".join(line for line in output.tail if line)
    problem = Problem("RUN-E0070", failed, last[-2000:] or "no output", "a step that succeeds", "see log.txt")
    outcome = bug(error).as_json("unknown")
    return {**outcome, "where": failed, "found": problem.found, "fix": problem.fix, "problems": [str(problem)]}


@contextlib.contextmanager
def environment(root: Path, more: dict[str, str] | None = None) -> Iterator[None]:
    """Set the steps' environment: folder shared by runs, MLflow store, process id of the runner, and `more`."""
    before = dict(os.environ)
    os.environ.update({PARENT: str(os.getpid()), LOCAL_ROOT: str(root.absolute()), **(more or {})})
    os.environ.setdefault("MLFLOW_TRACKING_URI", database_in(root))
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _untouched_text(warm: Path | None) -> Iterator[None]:
    """Set sys.executable to `python3`, so that the runner's replacement of `python3` changes no argument."""
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
def _codes() -> Iterator[list[int]]:
    """Collect the codes that processes of tasks fail with: kfp keeps only that they have failed.

    kfp would also fail at a line of a task, such as of a user's child process, that is no UTF-8.
    """
    from kfp.local import subprocess_task_handler as handler

    original, codes = handler.run_local_subprocess, []

    def run(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        with subprocess.Popen(
            full_command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=1,
            encoding="utf-8", errors="backslashreplace", env={**os.environ, **(env_vars or {})},
        ) as process:  # fmt: skip
            assert process.stdout
            for line in process.stdout:
                print(line, end="")
            print("\n")
            code = process.wait()
        codes.extend([code] if code else [])
        return code

    handler.run_local_subprocess = run
    try:
        yield codes
    finally:
        handler.run_local_subprocess = original


@contextlib.contextmanager
def _forwarded_signals() -> Iterator[None]:
    """Send SIGTERM to the running step at the first Ctrl-C or SIGTERM, so that it can save; a later one kills it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = {}
    first: list[float] = []

    import psutil  # a second signal could interrupt an import in the handler

    def forward(number: int, _frame: Any) -> None:
        if first and time.monotonic() - first[0] < TOGETHER:
            return  # of the same request
        os.environ[STOPPING] = "1"  # between two steps there is no process to stop
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.send_signal(signal.SIGKILL if first else signal.SIGTERM)
        if first:
            signal.signal(number, handlers[number])
            os.kill(os.getpid(), number)
        first.append(time.monotonic())

    for caught in (signal.SIGTERM, signal.SIGINT):
        handlers[caught] = signal.signal(caught, forward)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
