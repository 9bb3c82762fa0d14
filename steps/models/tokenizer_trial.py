"""Whether tokenizer.json can be used: it is loaded once, and writes and reads a few texts, before a run needs it.

The library stops the whole process at some contents (it reserves what a padding asks for), never ends at others (an
expression that repeats in repetitions, a replacement that doubles), and raises what is no Exception (a panic of Rust).
A file that may do the first two is tried in a process of its own, under limits.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from steps.errors import shown
from steps.lost import killed

SECONDS = 1  # of computing; small tokenizers need some milliseconds
BYTES_A_SECOND = 8 * 1024**2  # more seconds for a file that is larger; the largest that are known need one or two
LONGEST_WAIT = 120  # seconds, on a machine that is busy
MEMORY = 1024**3  # bytes, and as many again as the file has, many times: its tokens lie in several tables
TABLES = 24
TOO_SLOW, TOO_LARGE, UNFIT = 3, 4, 5  # codes of exit
ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}  # each thread reserves memory
TRIAL = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from steps.models.tokenizer_trial import try_under_limits; try_under_limits()"
)
# What every tokenizer meets: letters, digits, marks, blanks, other scripts, and many of the same.
TEXTS = (
    'Hello, world! It\'s 12,345.67 (or 8%) of x_y/z: "quoted" <tag> {a} [b] #1 @c\n\n\tEnd.  ',
    "Größe naïve Ελλάδα привет 世界 日本語 مرحبا नमस्ते 😀🏽 e\u0301",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 ~`!@#$%^&*()-_=+[]{};:'\\|,.<>/?",
    *(one * 40 + "!" for one in ("a", " ", "0", "\n", "-", "ab ")),
)


def unusable(content: bytes, told: Mapping[str, Any]) -> str:
    """Return why a tokenizer.json cannot be used, whose content is also `told`; empty if it can.

    A text that it refuses is no fault: its vocabulary may be that of other texts.
    """
    return _judged(content, is_plain(told))


@lru_cache(maxsize=20)
def _judged(content: bytes, plain: bool) -> str:
    if plain:
        return fault_of(content)
    seconds = _seconds(content)
    command = [sys.executable, "-I", "-c", TRIAL, json.dumps(sys.path)]
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, timeout=LONGEST_WAIT, env={**os.environ, **ONE_THREAD}
        )
    except subprocess.TimeoutExpired:
        return f"a tokenizer that needs more than {LONGEST_WAIT} seconds for a few words"
    if done.returncode == UNFIT:
        return done.stdout.decode(errors="replace")
    if done.returncode == -signal.SIGKILL:
        raise killed("the process that tries a tokenizer", done.returncode)
    if done.returncode in (-signal.SIGABRT, TOO_LARGE):
        return f"a tokenizer that needs more than {_memory(content) / 1024**3:.1f} GiB of memory for a few words"
    if done.returncode < 0 or done.returncode == TOO_SLOW:
        return f"a tokenizer that needs more than {seconds} seconds for a few words"
    return ""


def try_under_limits() -> None:
    """Try the tokenizer that stdin holds, in a process that is only for this."""
    import resource

    content = sys.stdin.buffer.read()
    end = math.ceil(time.process_time()) + _seconds(content)
    resource.setrlimit(resource.RLIMIT_CPU, (end, end + 1))  # SIGXCPU comes first: SIGKILL is somebody else's
    resource.setrlimit(resource.RLIMIT_AS, (_memory(content),) * 2)
    try:
        fault = fault_of(content)
    except MemoryError:
        sys.exit(TOO_LARGE)
    if fault:
        sys.stdout.write(fault)
        sys.stdout.flush()
        sys.exit(UNFIT)


def fault_of(content: bytes) -> str:
    """Load a tokenizer and use it on a few texts; return what is wrong, empty if nothing is."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(content)
    except BaseException as error:  # a panic is no Exception
        if isinstance(error, MemoryError) or not _is_of_library(error):
            raise
        return f"a tokenizer that cannot be loaded: {shown(_said(error))}"
    for text in TEXTS:
        try:
            tokenizer.decode(tokenizer.encode(text).ids)
        except Exception:  # an unknown word, where nothing stands for unknown ones
            continue
        except BaseException as error:
            if not _is_of_library(error):
                raise
            return f"a tokenizer that fails at common words: {shown(_said(error))}"
    return ""


def is_plain(told: Mapping[str, Any]) -> bool:
    """Return whether the time and the memory that a tokenizer needs are bounded by its size and the text's."""
    padding = told.get("padding")
    if isinstance(padding, dict) and padding.get("strategy") != "BatchLongest":
        return False
    parts = [told.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder")]
    return not any("Regex" in part or _lengthens(part) for part in _objects(parts))


def _lengthens(part: Mapping[str, Any]) -> bool:
    """Return whether a part replaces a text by a longer one, so that many of them multiply."""
    if part.get("type") != "Replace":
        return False
    pattern, content = part.get("pattern"), part.get("content")
    old = pattern.get("String") if isinstance(pattern, dict) else None
    return not (isinstance(old, str) and isinstance(content, str) and len(content) <= len(old))


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(one)


def _seconds(content: bytes) -> int:
    return SECONDS + len(content) // BYTES_A_SECOND


def _memory(content: bytes) -> int:
    return MEMORY + TABLES * len(content)


def _is_of_library(error: BaseException) -> bool:
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _said(error: BaseException) -> str:
    return str(error).removeprefix("Cannot instantiate Tokenizer from buffer: ")
