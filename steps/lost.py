"""Processes that were ended from outside, such as by a system without memory: how that is found, and what is told."""

from __future__ import annotations

import re
import signal

from steps.errors import OutOfResources, Problem

# How libraries tell it: concurrent.futures, torch's DataLoader and spawn, datasets, subprocess.
LOST = re.compile(
    r"process pool was terminated abruptly|DataLoader worker .*(is killed by signal|exited unexpectedly)|"
    r"subprocesses has abruptly died|terminated with signal (SIGKILL|SIGBUS)|died with <Signals\.(SIGKILL|SIGBUS)"
)
SHARED_MEMORY = re.compile(r"Bus error|SIGBUS|out of shared memory")
ASKED = (signal.SIGTERM, signal.SIGINT)


def signal_of(code: int) -> int:
    """Return the signal that ended a process, by its exit code (-9) or that of a shell (137); 0 if none did."""
    number = -code if code < 0 else code - 128
    return number if number in signal.valid_signals() else 0


def was_killed(code: int) -> bool:
    """Return whether a process was killed from outside by a signal that nobody sends to stop it."""
    return signal_of(code) in (signal.SIGKILL, signal.SIGBUS)


def killed(who: str, code: int, fix: str = "") -> OutOfResources:
    """Return the error of a process that a signal has ended, by its exit code."""
    number = signal.Signals(signal_of(code) or signal.SIGKILL)
    return lost(who, f"a process that was ended by signal {int(number)} ({number.name})", number == signal.SIGBUS, fix)


def lost(who: str, found: str, shared_memory: bool = False, fix: str = "") -> OutOfResources:
    """Return the error of a step that lost a process, for want of memory unless somebody has killed it."""
    what = "shared memory (/dev/shm)" if shared_memory else "memory"
    fix = fix or ("request more of it for this step, or use fewer workers" if shared_memory else
                  "request more memory for this step, or lower its batch size or its number of processes")  # fmt: skip
    return OutOfResources(
        Problem("MEMORY-E0104", who, found, "a process that ends by itself", fix, why=f"the usual reason is a lack of "
                f"{what}")
    )  # fmt: skip
