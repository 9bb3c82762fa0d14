"""Find duplicate rows: repeated training rows, training rows that are also held out, and nearly equal rows."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from steps.errors import Problem
from steps.prepare_data.check.rows import Rows, read_back
from steps.prepare_data.check.splitting import SPLITS
from steps.prepare_data.findings import ROWS_SHOWN
from steps.tasks.rules.likeness import folded

ROWS_AT_ONCE = 2048


def repeated(train: Rows) -> list[dict[str, Any]]:
    """Warn of rows that occur more than once in the training data."""
    if _all_differ(train.fingerprints):
        return []
    order = np.argsort(train.fingerprints, kind="stable")
    ordered = train.fingerprints[order]
    again = np.sort(order[1:][ordered[1:] == ordered[:-1]])
    share = 100 * len(again) / len(train)
    what = f"{train.source}: rows that repeat an earlier row ({share:.1f} %)"
    return [_warning("DATA-W0701", what, train.records[again])]


def contradicted(train: Rows, asked: array[int]) -> list[dict[str, Any]]:
    """Warn of rows with the same text as another training row, but another label; `asked` are hashes of the texts."""
    hashes = np.frombuffer(asked, np.int64) if asked else np.empty(0, np.int64)
    if not len(hashes) or _all_differ(hashes):
        return []
    rows = _different_with_one_outline(hashes, train.fingerprints)
    what = f"{train.source}: rows with the text of another row, but another label"
    return [_warning("DATA-W0707", what, train.records[rows])] if len(rows) else []


def first_of_each(train: Rows) -> np.ndarray:
    """Return the numbers of the rows that do not repeat an earlier row, in ascending order."""
    return np.sort(np.unique(train.fingerprints, return_index=True)[1])


def leaked(files: dict[str, Rows], most: float) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return warnings of held-out rows that are also training rows; problems if their share exceeds `most`."""
    train = files["train"]
    held = {name: files[name] for name in SPLITS[1:] if name in files and len(files[name])}
    if not held or not len(train):
        return [], []
    learned = np.sort(train.fingerprints)
    warnings: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for name, held_out in held.items():
        both = np.flatnonzero(_stand_in(held_out.fingerprints, learned))
        if not len(both):
            continue
        twins = [
            train.records[np.argmax(train.fingerprints == held_out.fingerprints[row])] for row in both[:ROWS_SHOWN]
        ]
        pairs = ", ".join(f"{held_out.records[row]} = {twin}" for row, twin in zip(both, twins, strict=False))
        what = f"rows of {name} that are also training rows (record {pairs} of {train.source})"
        if len(both) > most * len(held_out):
            problems.append(
                Problem("DATA-E0703", held_out.where(both[0]), f"{len(both)} of {len(held_out)} {what}",
                        f"at most {most:.0%} of them", "remove them from one of the two files",
                        tuple(int(held_out.records[row]) for row in both[:ROWS_SHOWN]), len(both))
            )  # fmt: skip
        else:
            warnings.append(_warning("DATA-W0702", f"{held_out.source}: {what}", held_out.records[both]))
    return warnings, problems


def nearly_equal(
    files: dict[str, Rows], outlines: dict[str, array[int]], stored: Callable[[], dict[str, Rows]]
) -> list[dict[str, Any]]:
    """Warn of rows that differ from an earlier one, or from a training row, only in case and whitespace.

    Rows with different outlines cannot be nearly equal, so most rows are not compared; `stored` returns the same rows
    with their texts and is only called if some have equal outlines.
    """
    names = list(files)
    together = _joined([np.frombuffer(outlines[name], np.int64) for name in names])
    if _all_differ(together):
        return []
    prints = _joined([files[name].fingerprints for name in names])
    suspects = _different_with_one_outline(together, prints)
    if not len(suspects):
        return []
    rows, warnings, start = stored(), [], 0
    seen: dict[int, int] = {}
    for name in names:
        part, end = rows[name], start + len(files[name])
        within = suspects[np.searchsorted(suspects, start) : np.searchsorted(suspects, end)] - start
        near = []
        for first in range(0, len(within), ROWS_AT_ONCE):
            chosen = within[first : first + ROWS_AT_ONCE]
            for row, canonical in zip(chosen.tolist(), read_back(part.take(chosen).table()), strict=True):
                earlier = seen.setdefault(folded(canonical), int(prints[start + row]))
                if earlier != prints[start + row]:
                    near.append(row)
        if near:
            what = f"{part.source}: rows that differ from an earlier one only in case and whitespace"
            warnings.append(_warning("DATA-W0703", what, part.records[np.array(near)]))
        start = end
    return warnings


def _all_differ(values: np.ndarray) -> bool:
    """Return whether no value occurs twice; sorts an eighth at a time, as a sorted copy would double the memory."""
    lowest = np.ascontiguousarray(values).view(np.uint8)[:: values.itemsize] & 7
    for share in range(8):
        rising = np.sort(values[lowest == share])
        if (rising[1:] == rising[:-1]).any():
            return False
    return True


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _stand_in(values: np.ndarray, rising: np.ndarray) -> np.ndarray:
    """Return for each value whether it is among the sorted values `rising`."""
    places = np.searchsorted(rising, values)
    return rising[np.minimum(places, len(rising) - 1)] == values


def _different_with_one_outline(outlines: np.ndarray, prints: np.ndarray) -> np.ndarray:
    """Return the rows that share an outline with a row of another fingerprint, as ascending row numbers."""
    order = np.argsort(outlines, kind="stable")
    ordered = outlines[order]
    starts = np.concatenate(([0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1))
    ordered = prints[order]
    lowest, highest = np.minimum.reduceat(ordered, starts), np.maximum.reduceat(ordered, starts)
    sizes = np.diff(np.append(starts, len(outlines)))
    return np.sort(order[np.repeat(lowest != highest, sizes)])


def _warning(code: str, what: str, records: np.ndarray) -> dict[str, Any]:
    return {"code": code, "what": what, "count": len(records), "rows": [int(r) for r in records[:ROWS_SHOWN]]}
