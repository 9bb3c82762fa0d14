"""Make small mistakes in a copy of the source, one at a time, and see whether the tests notice.

    python tests/mutations.py                 every one, a quarter of an hour
    python tests/mutations.py last-step-lost  by name
    python tests/mutations.py steps/plan      by folder or file

The mistakes are in `tests/mutated/`. Exit code 1 when one is not noticed and its row does not say why, or when its code
is no longer there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from mutated import MUTATIONS, Mutation

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "runs", "build", "*.egg-info", "mlruns")
SECONDS = 300  # a mistake may make an endless loop


def main(chosen: list[str]) -> int:
    """Try the mistakes that are named, or all; give the exit code."""
    mutations = [one for one in MUTATIONS if not chosen or any(_is_called(one, name) for name in chosen)]
    if not mutations:
        print(f"no mutation is called {', '.join(chosen)}, nor is it in such a file")
        return 1
    gone = [one for one in mutations if places(one) != 1]
    for one in gone:
        print(f"gone      {one.name}: {one.file} has its code {places(one)} times, not once; write the row anew")
    mutations = [one for one in mutations if one not in gone]
    with TemporaryDirectory(prefix="mutations-") as scratch:
        copy = Path(scratch, "copy")
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        if said := _unmutated(mutations, copy):
            print(f"These tests fail without a mutation, so they prove nothing:\n{said}")
            return 1
        started = time.monotonic()
        results = [_tried(one, copy) for one in mutations]
    rooms = Counter(one.room for one in mutations)
    killed = Counter(one.room for one, result in zip(mutations, results, strict=True) if result == "killed")
    print("\n" + "\n".join(f"{room:<24} {killed[room]} of {count}" for room, count in sorted(rooms.items())))
    minutes = (time.monotonic() - started) / 60
    print(f"{killed.total()} of {len(mutations)} killed in {minutes:.1f} minutes")
    open_ones = [one for one, result in zip(mutations, results, strict=True) if result not in ("killed", "explained")]
    return 1 if gone or open_ones else 0


def places(mutation: Mutation) -> int:
    """Count how often the code of a mutation stands in its file."""
    return (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.before)


def _is_called(mutation: Mutation, name: str) -> bool:
    return name == mutation.name or ("/" in name and mutation.file.startswith(name))


def _unmutated(mutations: list[Mutation], copy: Path) -> str:
    """Run every named test once as it is; give what pytest says where one fails."""
    started = time.monotonic()
    fast = sorted({test for one in mutations if not one.slow for test in one.tests})
    slow = sorted({test for one in mutations if one.slow for test in one.tests})
    for tests, with_slow in ((fast, False), (slow, True)):
        if tests:
            code, said = _pytest(copy, tests, with_slow, 20 * SECONDS)
            if code:
                return said
    print(f"{len({*fast, *slow})} test files pass without a mutation in {time.monotonic() - started:.0f} s\n")
    return ""


def _tried(mutation: Mutation, copy: Path) -> str:
    """Make one mistake, run its tests, and put the file right again; give what became of it."""
    file = copy / mutation.file
    right = file.read_text(encoding="utf-8")
    _write(file, right.replace(mutation.before, mutation.after))
    started = time.monotonic()
    try:
        code, said = _pytest(copy, mutation.tests, mutation.slow, SECONDS)
    except subprocess.TimeoutExpired:
        code, said = 1, f"FAILED tests/: no end within {SECONDS} s"
    finally:
        _write(file, right)
    # 1: a test failed. Anything else but 0 says that none ran: a mistake that nobody could overlook.
    result = {0: "explained" if mutation.explained else "SURVIVED", 1: "killed"}.get(code, "BROKEN")
    found = re.search(r"^(?:FAILED|ERROR) tests/(.*?)(?: - .*)?$", said, re.MULTILINE)
    told = {"killed": found[1] if found else "", "explained": mutation.explained, "BROKEN": said[-600:]}.get(result, "")
    seconds = time.monotonic() - started
    print(f"{result:<9} {seconds:5.1f} s  {mutation.name}: {mutation.meaning}\n{'':19}{told}", flush=True)
    return result


def _pytest(copy: Path, tests: list[str] | tuple[str, ...], slow: bool, seconds: int) -> tuple[int, str]:
    elsewhere = "not examples and not gpu and not containers and not vllm"
    marks = elsewhere if slow else f"not slow and {elsewhere}"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=short",
               "-rfE", "-m", marks, *(f"tests/{test}" for test in tests)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(copy), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=seconds)
    return done.returncode, done.stdout + done.stderr


_written = 0


def _write(file: Path, text: str) -> None:
    """Write a file with a time of its own: Python takes compiled code for right by the time and size of its source."""
    global _written
    _written += 1
    file.write_text(text, encoding="utf-8")
    os.utime(file, (time.time() + 10 * _written,) * 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
