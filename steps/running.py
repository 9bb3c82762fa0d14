"""Run a step by name and exit with the code of its result.

Every way to run a step (KFP task, `python -m steps`, plan on a laptop) uses this module, so that error messages and
exit codes are the same everywhere.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from pydantic.fields import FieldInfo

from steps import STEPS, wire
from steps.artifacts import code_digest as code_digest  # for the local runner's cache
from steps.artifacts import follow_umask as follow_umask
from steps.errors import Preempted, Problem, StepError
from steps.faults import known as known  # for the command line

RECORDS = "STEP_RECORDS"  # folder set by the local runner, which sees neither exit codes nor cached tasks
SHOWN = "\x1e"
# Steps that need no torch unless their settings say so (needs_torch). If torch is installed, transformers would import
# it anyway, which takes three seconds.
WITHOUT_TORCH = {
    "plan", "import-model", "check-data", "prepare-data", "report", "register-model", "import-adapter",
    "create-vllm-compatible-adapter", "replace-tokens", "check-adapter",
}  # fmt: skip
PLANNED = "FINETUNE_PLANNED"  # folder with the plan that the local runner made before it loaded KFP
LOCAL_ROOT = "FINETUNE_ROOT"  # folder of the local runner, which holds checkpoints and an MLflow store
STOPPING = "FINETUNE_STOPPING"  # set by the local runner after Ctrl-C or SIGTERM: no further step starts
PARENT = "FINETUNE_PARENT"  # process id of the local runner; the step ends when that process has ended
TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes shows its content as the reason why a container ended
KFP_FORMAT = "[KFP Executor"  # how kfp begins every line of the root logger

log = logging.getLogger("finetune")


def run_step(name: str, settings: str | None = None, **arguments: Any) -> Any:
    """Run one step with its settings as a JSON string and paths as text; report an error and exit with its code."""
    paths = {key: value for key, value in arguments.items() if isinstance(value, str | Path)}
    with reported(name, paths):
        _stop_when_asked()
        _follow_parent()
        if RECORDS in os.environ:
            log.info("▸ %s", name)
        started = time.monotonic()
        result = attempt(name, settings, **arguments)
        seconds = time.monotonic() - started
        if RECORDS in os.environ:
            log.info("  %.1f s", seconds)
        _record({"step": name, "seconds": round(seconds, 2), "paths": _texts(paths), "error": None})
        return result


def run_here(name: str, **arguments: Any) -> Any:
    """Run a step that needs no torch in this process and return its result, without printing or leaving.

    Raises the step's StepError, or one for an error of the machine or of a service.
    """
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with _without_torch():
            return load(name)(**arguments)
    except Exception as error:
        if found := known(error, name):
            raise found from error
        raise
    finally:
        log.setLevel(level)


def attempt(name: str, settings: str | None = None, **arguments: Any) -> Any:
    """Run one step as `run_step` does, but raise its errors."""
    log_plainly()
    step = load(name)
    hints = get_type_hints(step)
    typed = {key: Path(value) if _is_path(hints[key], value) else value for key, value in arguments.items()}
    if settings is not None:
        typed["settings"] = hints["settings"].model_validate(wire.load(settings))
    computes = getattr(typed.get("settings"), "needs_torch", False)
    with _without_torch() if name in WITHOUT_TORCH and not computes else nullcontext():
        return step(**typed)


def _texts(paths: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in paths.items()}


class _Stopped(BaseException):
    """SIGTERM arrived. Not an Exception, because libraries catch those."""


def _stop_when_asked() -> None:
    """On SIGTERM, leave as after an error: drafts and temporary files are deleted. A second one ends at once."""

    def leave(number: int, _frame: Any) -> None:
        signal.signal(number, lambda *_: os._exit(Preempted.exit_code))
        raise _Stopped

    if STOPPING in os.environ:
        raise _Stopped
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, leave)


def stopped(step: str) -> Preempted:
    """Return the error of a step that was stopped from outside and has no checkpoint."""
    return Preempted(
        Problem("RUN-E1431", step, "a request to stop", "the end of this step", "run again: finished steps are reused")
    )


@contextmanager
def _without_torch() -> Iterator[None]:
    """Hide torch, as it is absent from the step's image, so that no library imports it."""
    if "torch" in sys.modules:
        yield
        return
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # transformers would advise to install torch
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def _is_path(hint: Any, value: Any) -> bool:
    return value is not None and hint in (Path, Path | None)


def load(name: str) -> Callable[..., Any]:
    """Import a step's function."""
    module, _, function = STEPS[name].partition(":")
    return getattr(importlib.import_module(module), function)


def settings_type(name: str) -> Any:
    """Return the settings model of a step, or None if it takes none."""
    step = load(name)
    return get_type_hints(step).get("settings") if "settings" in inspect.signature(step).parameters else None


def task_names() -> tuple[str, ...]:
    """Return the names of all tasks."""
    from steps.tasks import TASKS

    return TASKS


def data_parameters(task: str | None) -> dict[str, FieldInfo]:
    """Return the declarations of the parameters of check-data; without a known task, only those of every task."""
    from steps.params.data import DataSource
    from steps.tasks import load_task

    own = load_task(task).Columns.model_fields if task in task_names() else {}
    return {**own, **DataSource.model_fields}


@contextmanager
def reported(step: str, paths: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Set up logging; print an error, write it to the files that runners read, and exit with its code.

    `paths` are the folders of the step, for the record of a run.
    """
    log_plainly()
    try:
        yield
    except _Stopped:
        leave(stopped(step).as_json(step), paths)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        for note in getattr(error, "__notes__", []):  # what else is known of refused data
            log.info(note)
        leave(failure(error, step).as_json(step), paths)


def failure(error: Exception, step: str) -> StepError:
    """Return the error to report: the step's own, one of the machine or of a service, or a bug with its traceback."""
    found = error if isinstance(error, StepError) else known(error, step)
    if found is None:
        traceback.print_exception(error)
        found = bug(error)
    return found


def leave(outcome: dict[str, Any], paths: Mapping[str, Any] | None = None, quiet: bool = False) -> NoReturn:
    """Report an error (`StepError.as_json`) and exit with its code.

    stderr gets the problems for people and, where it is not a terminal, the error as one line of JSON, the last line.
    `quiet` leaves the problems out: its caller writes them as JSON elsewhere.
    """
    line = json.dumps(outcome, ensure_ascii=False)
    # A full or read-only disk is no reason to hide the error.
    with suppress(OSError):
        _record({"step": outcome["step"], "paths": _texts(paths or {}), "error": outcome})
    with suppress(OSError):
        if TERMINATION_LOG.exists():
            TERMINATION_LOG.write_text(_short(outcome), encoding="utf-8")
    if not quiet:
        print(*outcome["problems"], sep="\n", file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)
    sys.exit(outcome["code"])


def log_plainly() -> None:
    """Log our own messages to stdout without a prefix; libraries log warnings only."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Marked() if RECORDS in os.environ else logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for printing in root.handlers:
        if printing.formatter and KFP_FORMAT in (printing.formatter._fmt or ""):
            printing.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
            printing.addFilter(_is_not_printed_yet)


def _is_not_printed_yet(record: logging.LogRecord) -> bool:
    """Tell if no other logger prints a message: where CI is set, transformers prints its own and passes them on."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger and logger is not logging.root:
        if logger.handlers:
            return False
        logger = logger.parent
    return True


class _Marked(logging.Formatter):
    """Marks every line: the local runner prints marked lines and writes all other output to a file only."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(f"{SHOWN}{line}" for line in super().format(record).split("\n"))


def bug(error: BaseException) -> StepError:
    """Describe an unexpected exception as a problem."""
    frame = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
    where = f"{frame.filename}:{frame.lineno}" if frame else "unknown"
    return StepError(
        Problem(
            "BUG-E0070",
            where,
            f"{type(error).__name__}: {error}",
            "no exception",
            "report it with its traceback, which is above or in log.txt",
        )
    )


def _short(outcome: dict[str, Any]) -> str:
    """Return an error as JSON in the 4096 bytes that Kubernetes keeps: with fewer problems, and texts shortened."""
    problems, longest = list(outcome["problems"]), 4096
    while True:
        shortened = {key: value[:longest] if isinstance(value, str) else value for key, value in outcome.items()}
        text = json.dumps({**shortened, "problems": problems}, ensure_ascii=False)
        if len(text.encode()) <= 4096:
            return text
        if problems:
            problems.pop()
        else:
            longest //= 2


def _record(record: dict[str, Any]) -> None:
    if folder := os.environ.get(RECORDS):
        file = Path(folder, f"{time.time_ns()}-{record['step']}.json")
        file.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")


def _follow_parent() -> None:
    """End when the local runner ends: a killed `finetune run` must not leave a training process behind."""
    if PARENT not in os.environ:
        return
    parent = int(os.environ[PARENT])

    def watch() -> None:
        while Path(f"/proc/{parent}").exists() or not Path("/proc").exists():
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
