"""Memory of this machine, without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

QUERY = ("--query-gpu=memory.total", "--format=csv,noheader,nounits")
PATIENCE = 2.0  # seconds for an answer of the driver
LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
MIB = 2**20


@cache
def gpu_memory_here() -> int:
    """Return the bytes of the smallest NVIDIA GPU; 0 without one."""
    if not (command := shutil.which("nvidia-smi")):
        return 0
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        told = subprocess.run([command, *QUERY], capture_output=True, text=True, timeout=PATIENCE, check=True)
        return min((int(line) for line in told.stdout.split("\n") if line.strip()), default=0) * MIB
    return 0


@cache
def memory_here() -> int:
    """Return the bytes of memory that a process may use, with swap; 0 if the system does not tell."""
    whole = 0
    with suppress(OSError, ValueError, AttributeError):
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") + _swap()
    with suppress(OSError, ValueError):
        return min(whole or int(LIMIT.read_text()), int(LIMIT.read_text()))
    return whole


def _swap() -> int:
    with suppress(OSError, LookupError, ValueError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["SwapTotal"].split()[0]) * 1024
    return 0
