"""Memory of this machine, without importing torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

NVIDIA = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
AMD = ("rocm-smi", "--showmeminfo", "vram", "--json")
AMD_TOTAL = "VRAM Total Memory (B)"
PATIENCE = 2.0  # seconds for an answer of the driver
LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
MIB = 2**20


@cache
def gpu_memory_here() -> int:
    """Return the bytes of the smallest GPU of NVIDIA or, without one, of AMD; 0 without any."""
    return min(_nvidia(), default=0) or min(_amd(), default=0)


def _nvidia() -> list[int]:
    return [int(line) * MIB for line in _told(NVIDIA).split("\n") if line.strip().isdigit()]


def _amd() -> list[int]:
    """Return the bytes of each card: {"card0": {"VRAM Total Memory (B)": "68702699520", …}, …}."""
    with suppress(ValueError, AttributeError, TypeError):
        cards = json.loads(_told(AMD) or "{}")
        return [int(card[AMD_TOTAL]) for card in cards.values() if AMD_TOTAL in card]
    return []


def _told(question: tuple[str, ...]) -> str:
    """Return what a driver's command answers; empty without the command, or without an answer in time."""
    if not (command := shutil.which(question[0])):
        return ""
    with suppress(OSError, subprocess.SubprocessError):
        arguments = [command, *question[1:]]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    return ""


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
