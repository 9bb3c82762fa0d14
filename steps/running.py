"""Run a step by name and exit with the code of its result.

Every way to run a step (KFP task, `python -m steps`, plan on a laptop) uses this module, so that error messages and
exit codes are the same everywhere.
"""

from __future__ import annotations

import atexit
import importlib
import inspect
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from pydantic.fields import FieldInfo

from steps import STEPS as STEPS  # also for the names that a pipeline cannot have
from steps import wire
from steps.artifacts import code_digest as code_digest  # for the local runner's cache
from steps.artifacts import follow_umask as follow_umask
from steps.deferred import defer
from steps.errors import Preempted
from steps.faults import known as known  # for the command line
from steps.listed import few_metrics as few_metrics  # these for the components of KFP
from steps.listed import given as given
from steps.listed import has_references as has_references
from steps.listed import listed as listed
from steps.listed import some_metrics as some_metrics
from steps.logs import RECORDS as RECORDS  # these and the next for the local runner
from steps.logs import SHOWN as SHOWN
from steps.logs import be_kfp_task, in_kfp_task, log, log_plainly
from steps.outages import outlasting
from steps.outcome import bug as bug
from steps.outcome import failure as failure
from steps.outcome import leave as leave
from steps.outcome import leave_unexpected, record, texts
from steps.outcome import stopped as stopped
from steps.params.wording import in_words_of
from steps.pruning import read_curve as read_curve  # these two for sweeps on this machine
from steps.redaction import Printed as Printed  # these for the processes of pipelines
from steps.redaction import mask_output as mask_output
from steps.redaction import masked as masked
from steps.remembered import looking_once as looking_once

# Steps that need no torch unless their settings say so (needs_torch). If torch is installed, transformers would import
# it anyway, which takes three seconds. score needs none either, but scipy (of its metrics) fails at a hidden torch.
WITHOUT_TORCH = {
    "plan", "import-model", "check-data", "prepare-data", "report", "register-model", "package-model", "import-adapter",
    "create-vllm-compatible-adapter", "replace-tokens", "check-adapter",
}  # fmt: skip
RESUMING = {"finetune", "generate"}  # a second call goes on where the first one was: a task finds its own progress
PLANNED = "FINETUNE_PLANNED"  # folder with the plan that the local runner made before it loaded KFP
LOCAL_ROOT = "FINETUNE_ROOT"  # folder of the local runner, which holds checkpoints and an MLflow store
CURVE = "FINETUNE_CURVE"  # file that finetune writes its progress into, in the lines of steps/pruning.py
STOPPING = "FINETUNE_STOPPING"  # set by the local runner after Ctrl-C or SIGTERM: no further step starts
PARENT = "FINETUNE_PARENT"  # process id of the local runner, or of a notebook; the step, or job, ends with that process

defer()  # before a step imports its libraries


def begin_task(name: str) -> None:
    """Make this process a task of KFP: its log ends and its step waits as docs/operations.md says.

    It has to be called before libraries are imported, as they read then whether they draw progress bars. What is raised
    outside of a step, such as in the component's own lines, is reported as well.
    """
    be_kfp_task()
    log_plainly()
    if in_kfp_task():
        sys.excepthook = partial(leave_unexpected, name)


def run_step(name: str, settings: str | None = None, **arguments: Any) -> Any:
    """Run one step with its settings as a JSON string and paths as text; report an error and exit with its code."""
    paths = {key: value for key, value in arguments.items() if isinstance(value, str | Path)}
    with reported(name, paths):
        stop_when_asked()
        follow_parent()
        if RECORDS in os.environ:
            log.info("▸ %s", name)
        started = time.monotonic()
        result = outlasting(name, lambda: attempt(name, settings, **arguments), name in RESUMING, refuse_after_stop)
        _ignore_stops()
        seconds = time.monotonic() - started
        if RECORDS in os.environ:
            log.info("  %.1f s", seconds)
        record({"step": name, "seconds": round(seconds, 2), "paths": texts(paths), "error": None})
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
        typed["settings"] = _read(settings, hints)
    computes = getattr(typed.get("settings"), "needs_torch", False)
    with _without_torch() if name in WITHOUT_TORCH and not computes else nullcontext():
        try:
            with in_words_of(getattr(typed.get("settings"), "names_told", {})):
                return step(**typed)
        except SystemExit as end:  # of a user's function, or a library: the task would end without a word, or succeed
            left = RuntimeError(f"the step was left by sys.exit({end.code!r})")
            raise left.with_traceback(end.__traceback__) from None


def _read(settings: str, hints: dict[str, Any]) -> Any:
    return hints["settings"].model_validate(wire.load(settings))


class Stopped(BaseException):
    """SIGTERM arrived. Not an Exception, because libraries catch those."""


_asked_to_stop = False
_handler: Any = signal.SIG_DFL  # of SIGTERM, as this module has set it


def was_asked_to_stop() -> bool:
    """Return whether SIGTERM arrived; what it raised may have been lost, in a destructor or in an import."""
    return _asked_to_stop


def refuse_after_stop() -> None:
    """Raise Stopped if SIGTERM arrived and what it raised was lost, such as in a destructor."""
    if _asked_to_stop:
        raise Stopped


def stop_when_asked() -> None:
    """On SIGTERM, leave as after an error: drafts and temporary files are deleted. A second one ends at once."""

    def leave(number: int, _frame: Any) -> None:
        global _asked_to_stop
        _asked_to_stop = True
        signal.signal(number, lambda *_: os._exit(Preempted.exit_code))
        raise Stopped

    if STOPPING in os.environ:
        raise Stopped
    _handle_stops(leave)


def _ignore_stops() -> None:
    """Let a process whose step has finished end with 0: its result is whole, and Python takes a second to end.

    The system itself ignores the signal only at the very end: processes that are started would inherit that.
    """
    if _handler is not signal.SIG_DFL:
        _handle_stops(lambda *_: None)
        atexit.unregister(_handle_stops)
        atexit.register(_handle_stops, signal.SIG_IGN)


def _handle_stops(handler: Any) -> None:
    """Set the handler of SIGTERM, unless there is one of somebody else."""
    global _handler
    there = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread() and there in (signal.SIG_DFL, _handler):
        signal.signal(signal.SIGTERM, handler)
        _handler = handler


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
    except Stopped:
        leave(stopped(step).as_json(step), paths)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        for note in getattr(error, "__notes__", []):  # what else is known of refused data
            log.info(note)
        leave(failure(error, step).as_json(step), paths)


def follow_parent() -> None:
    """End when the process that PARENT names ends: a killed `finetune run` must not leave a training process behind."""
    if PARENT not in os.environ:
        return
    parent = int(os.environ[PARENT])

    def watch() -> None:
        while Path(f"/proc/{parent}").exists() or not Path("/proc").exists():
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
