"""Regular expressions that a user or an adapter's author wrote, matched with names within a limit of time.

Python's re has no such limit: (a+)+b takes years for forty letters. An expression that cannot take long is matched
here, any other one in a process of its own, which is ended when its time is over.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from functools import lru_cache

LONGEST = 10_000  # characters; those of large models have some hundreds
LONGEST_NAME = 512
SECONDS = 3.0
# A repetition of a group, or with counts: its time may grow with every further letter as a power of two.
REPEATED = re.compile(r"\)[*+]|\{")
UNBOUNDED = re.compile(r"[*+]")
SOON = 2  # repetitions: the time grows with the square of a name's length at most
MATCHER = (
    "import json, re, sys; pattern, names = json.load(sys.stdin); "
    "json.dump([re.fullmatch(pattern, name) is not None for name in names], sys.stdout)"
)


def fault_of(pattern: str) -> str:
    """Return what is wrong with a regular expression; empty if nothing is."""
    if len(pattern) > LONGEST:
        return f"{len(pattern):,} characters; at most {LONGEST:,}"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return ""


@lru_cache(maxsize=1000)
def matched(pattern: str, names: tuple[str, ...]) -> frozenset[str]:
    """Return those of `names` that an expression matches as a whole.

    Raises ValueError for what is no expression, and for one that takes longer than SECONDS; MemoryError if the
    process was killed from outside, or got no more memory.
    """
    if fault := fault_of(pattern):
        raise ValueError(fault)
    if any(len(name) > LONGEST_NAME for name in names):
        raise ValueError(f"a name of more than {LONGEST_NAME} characters to match it with")
    if not REPEATED.search(pattern) and len(UNBOUNDED.findall(pattern)) <= SOON:
        return frozenset(name for name in names if re.fullmatch(pattern, name))
    task = json.dumps([pattern, names])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", MATCHER], input=task, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"more than {SECONDS:g} seconds to match it, as repetitions repeat one another") from None
    if done.returncode == -signal.SIGKILL:
        raise MemoryError("the process that compares an expression with names was killed (signal 9)")
    said = (done.stderr.strip().splitlines() or ["no answer"])[-1]
    if done.returncode and said.startswith("MemoryError"):
        raise MemoryError("the process that compares an expression with names got no more memory")
    if done.returncode:
        raise ValueError(said)
    return frozenset(name for name, fits in zip(names, json.loads(done.stdout), strict=True) if fits)


def at_end(pattern: str) -> str:
    """Return the expression with which PEFT compares a key of rank_pattern: with the end of a name, after a dot."""
    return rf"(.*\.)?({pattern})"
