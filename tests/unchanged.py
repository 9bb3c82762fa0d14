"""What the tests must leave as it is: the checkout, and the folders that they share."""

import os
from collections.abc import Iterable
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
# Made by Python and its tools, wherever they run.
CACHES = {"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".git", ".venv", ".venv-vllm", ".benchmarks"}
# Elsewhere people edit while the tests run: there only what is no Python file may not come into being.
NEVER_EDITED = ("examples", "compiled", "docs")

Snapshot = dict[str, tuple[int, int]]


def snapshot(folder: Path) -> Snapshot:
    """Note size and time of change (ns) of every file below a folder, caches left out."""
    found: Snapshot = {}
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in CACHES and not name.endswith(".egg-info")]
        for name in [*files, *folders]:
            path = os.path.join(root, name)
            about = os.lstat(path)
            told = (0, 0) if name in folders else (about.st_size, about.st_mtime_ns)
            found[os.path.relpath(path, folder)] = told
    return found


def changes(before: Snapshot, after: Snapshot, watched: Iterable[str] = ("",)) -> list[str]:
    """List what is new, changed or gone below the `watched` folders ("" is all), elsewhere what is new but Python."""
    tops = tuple(watched)

    def inside(name: str) -> bool:
        return "" in tops or name.split(os.sep)[0] in tops

    new = after.keys() - before.keys()
    told = [f"{name} is new" for name in new if inside(name) or not name.endswith(".py")]
    for name in before:
        if inside(name):
            if name not in after:
                told.append(f"{name} is gone")
            elif before[name] != after[name]:
                told.append(f"{name} changed")
    return sorted(told)
