"""Run a step by name and exit with the code of its result.

Every way to run a step (KFP task, `python -m steps`, plan on a laptop) uses this module, so that error messages and
exit codes are the same everywhere.
"""

from __future__ import annotations

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
from steps.artifacts import MANIFEST as MANIFEST
from steps.artifacts import code_digest as code_digest  # for the local runner's cache
from steps.artifacts import follow_umask as follow_umask
from steps.artifacts import is_whole as is_whole
from steps.artifacts import sha256_of as sha256_of
from steps.artifacts import write_durably as write_durably
from steps.child_output import mask_children as mask_children  # for the commands
from steps.deferred import defer
from steps.exhausted import exhausted as exhausted  # these for the command line
from steps.exhausted import told_by_code as told_by_code
from steps.faults import known as known
from steps.limited import refuse_tight
from steps.limited import watch_memory as watch_memory  # for the commands
from steps.listed import few_metrics as few_metrics  # these for the components of KFP
from steps.listed import given as given
from steps.listed import has_references as has_references
from steps.listed import listed as listed
from steps.listed import some_metrics as some_metrics
from steps.logs import RECORDS as RECORDS  # these and the next for the local runner
from steps.logs import SHOWN as SHOWN
from steps.logs import be_kfp_task, in_kfp_task, log, log_plainly
from steps.lost import killed as killed
from steps.lost import signal_of as signal_of
from steps.lost import was_killed as was_killed
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
from steps.stopping import STOPPING as STOPPING  # these for the local runner and the command line
from steps.stopping import TOGETHER as TOGETHER
from steps.stopping import Stopped as Stopped
from steps.stopping import finish, is_request, is_seen, refuse_after_stop, stop_when_asked
from steps.volumes import note_places

# Steps that need no torch unless their settings say so (needs_torch). If torch is installed, transformers would import
# it anyway, which takes three seconds. score needs none either, but scipy (of its metrics) fails at a hidden torch.
WITHOUT_TORCH = {
    "plan", "import-model", "check-data", "prepare-data", "report", "register-model", "package-model", "import-adapter",
    "create-vllm-compatible-adapter", "replace-tokens", "check-adapter", "verify-model",
}  # fmt: skip
RESUMING = {"finetune", "generate"}  # a second call goes on where the first one was: a task finds its own progress
PLANNED = "FINETUNE_PLANNED"  # folder with the plan that the local runner made before it loaded KFP
LOCAL_ROOT = "FINETUNE_ROOT"  # folder of the local runner, which holds checkpoints and an MLflow store
CURVE = "FINETUNE_CURVE"  # file that finetune writes its progress into, in the lines of steps/pruning.py
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
        finish()
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
    refuse_tight(name, torch=name not in WITHOUT_TORCH)
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
        except KeyboardInterrupt as error:
            if is_request(error):
                raise
            raise RuntimeError("the step was left by a KeyboardInterrupt without a signal") from error
        except BaseException as error:  # a panic of a library in Rust is no Exception, and says what it met in its text
            if type(error).__name__ != "PanicException":
                raise
            raise RuntimeError(f"a library panicked: {error}") from error


def _read(settings: str, hints: dict[str, Any]) -> Any:
    return hints["settings"].model_validate(wire.load(settings))


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
    note_places(*map(Path, (paths or {}).values()))
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        is_seen()
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
