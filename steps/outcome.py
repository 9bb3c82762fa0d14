"""How a failed step ends: which error it reports, where it writes it, and its exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from steps.child_output import OWN, settle
from steps.errors import (
    Interrupted,
    NumericError,
    OutOfResources,
    Preempted,
    Problem,
    SecurityRefusal,
    StepError,
    UserError,
)
from steps.exhausted import causes
from steps.faults import known
from steps.limited import at_the_limit
from steps.logs import RECORDS, in_kfp_task
from steps.messages import end_of_log, termination_message
from steps.pruning import Pruned
from steps.redaction import masked, masking, without_credentials
from steps.stopping import Stopped, asked_by, end_children, end_soon, is_request, is_seen

TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes shows its content as the reason why a container ended


# What another try would find as well, and what was saved: true also of a process that was asked to stop.
VERDICTS = (UserError, SecurityRefusal, NumericError, OutOfResources, Preempted)


def failure(error: BaseException, step: str) -> StepError:
    """Return the error to report, from which the exit code follows, whatever was raised.

    That is the step's own, a request to stop, one of the machine or of a service, or a bug with its traceback. After a
    request to stop, what was raised in its place, or for the loss of processes that got it too, is the request.
    """
    is_seen()
    if number := _request(error):
        return stopped(step, number)
    if isinstance(error, Pruned):
        return _pruned(error)
    found = known(error, step)
    if found is None:
        with suppress(OSError, ValueError):
            sys.stdout.flush()  # what was printed before stands before the traceback
        # As one text: a private key has several lines.
        print("".join(traceback.format_exception(error)), end="", file=masking(sys.stderr))
        found = at_the_limit(error, step) or bug(error)
    return found


def _request(error: BaseException) -> int:
    """Return the signal that asked this process to stop, if that is how it ends; else 0."""
    if behind := next((one for one in (*causes(error), *_before(error)) if isinstance(one, Stopped)), None):
        return behind.number
    if is_request(error):  # where nobody handles signals, such as in a notebook
        return signal.SIGINT
    return 0 if isinstance(error, VERDICTS) else asked_by()


def _before(error: BaseException) -> Iterator[BaseException]:
    """Yield what was handled when an exception was raised; not of one that tells what was saved."""
    while not isinstance(error, Preempted) and error.__context__ is not None:
        error = error.__context__
        yield error


def _pruned(error: Pruned) -> UserError:
    """Describe a trial that was ended where no sweep catches it, such as a call from a shell."""
    return UserError(
        Problem("TRAIN-E0218", f"step {error.step}", f"a trial that was pruned, as {error.reason}",
                "a trial that is as good as others of its sweep", "use one of those, or train without pruning")
    )  # fmt: skip


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


def stopped(step: str, number: int = signal.SIGTERM) -> Preempted:
    """Return the error of a step that was stopped by a signal and has no checkpoint."""
    by, kind = ("Ctrl-C (SIGINT)", Interrupted) if number == signal.SIGINT else ("a request to stop", Preempted)
    return kind(Problem("RUN-E1431", step, by, "the end of this step", "run again: finished steps are reused"))


def leave(outcome: dict[str, Any], paths: Mapping[str, Any] | None = None, quiet: bool = False) -> NoReturn:
    """Report an error (`StepError.as_json`) and exit with its code.

    In a task of KFP the log ends with the problems in lines that its viewer shows, and nothing follows. Elsewhere
    stderr gets the problems and, where it is not a terminal, the error as one line of JSON, the last line. `quiet`
    leaves the problems out: its caller writes them as JSON elsewhere. In every pod the termination message has both.
    """
    outcome = masked(outcome, without_credentials)
    if asked_by():
        is_seen()
        end_children()
        end_soon(outcome["code"])
    # A full or read-only disk is no reason to hide the error.
    with suppress(OSError):
        record({"step": outcome["step"], "paths": texts(paths or {}), "error": outcome})
    with suppress(OSError):
        if TERMINATION_LOG.exists():
            TERMINATION_LOG.write_text(termination_message(outcome), encoding="utf-8")
    if in_kfp_task():
        _end_log(end_of_log(outcome))
        sys.exit(outcome["code"])
    with suppress(OSError, ValueError):
        sys.stdout.flush()  # what was printed before, without the end of a line
    if not quiet:
        print(*outcome["problems"], sep="\n", file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        print(json.dumps(outcome, ensure_ascii=False), file=sys.stderr, flush=True)
    sys.exit(outcome["code"])


def leave_unexpected(step: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an exception that was raised outside of a step, as sys.excepthook."""
    if not isinstance(error, Exception | KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    leave(failure(error, step).as_json(step))


def record(told: dict[str, Any]) -> None:
    """Write what the local runner wants to know of a step."""
    if folder := os.environ.get(RECORDS):
        file = Path(folder, f"{time.time_ns()}-{told['step']}.json")
        file.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")


def texts(paths: Mapping[str, Any]) -> dict[str, str]:
    """Return paths as text."""
    return {key: str(value) for key, value in paths.items()}


def _end_log(text: str) -> None:
    """Print the last lines of the log: whatever this process or its libraries print afterwards is lost."""
    settle()
    with suppress(OSError, ValueError):  # nobody reads any more
        sys.stdout.flush()
        print(f"\n{text}", file=sys.stderr, flush=True)  # whatever was printed last may have ended no line
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2, *OWN):
        os.dup2(nowhere, stream)
