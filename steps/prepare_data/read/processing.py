"""Apply the user's function to rows: it takes one row and returns one row, several rows or None.

A returned row has the place of its original row, so every later message still names a place in the user's file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from steps.prepare_data.findings import Findings
from steps.prepare_data.read.json_rows import Row
from steps.sources.user_code import LoadedFunction
from steps.tasks import Fault, as_found, kind_of
from steps.tasks.rules.json_text import as_bytes

EXPECTED = "a row (dict), a list of rows, or None to drop it"


def process(rows: Iterator[Row], function: LoadedFunction, findings: Findings) -> Iterator[Row]:
    """Yield the rows that the function returns; report its exceptions and the dropped rows in `findings`."""
    dropped = multiplied = 0
    for record, line, row in rows:
        try:
            made = function.call(row)
        except (Exception, SystemExit) as error:  # user code: any exception is reported with its line
            fault = Fault("DATA-E2205", "", as_found(f"{type(error).__name__}: {error}"),
                          f"no exception from {function.name} ({function.place_of(error)})",
                          "correct the function, or let it return None for such rows")  # fmt: skip
            findings.fault(fault, record, line)
            continue
        if made is None:
            dropped += 1
            continue
        results = made if isinstance(made, list) else [made]
        if fault_of := next((f for one in results if (f := _fault(one, function))), None):
            findings.fault(fault_of, record, line)
            continue
        dropped += not results
        multiplied += len(results) > 1
        for one in results:
            yield record, line, one
    if dropped:
        findings.warn("DATA-W2201", f"rows dropped by {function.name}: {dropped:,}")
    if multiplied:
        findings.repair("DATA-F2201", f"rows that {function.name} replaced by several rows", multiplied)


def _fault(made: Any, function: LoadedFunction) -> Fault | None:
    """Return the fault of a result that is not a row: not an object, or with values that JSON cannot hold."""
    if not isinstance(made, dict):
        return Fault("DATA-E2206", "", f"{as_found(made)} ({kind_of(made)}) from {function.name}", EXPECTED,
                     "change what it returns")  # fmt: skip
    try:
        as_bytes(made)
    except (orjson.JSONEncodeError, RecursionError) as error:
        return Fault("DATA-E2207", "", f"{as_found(str(error))} in a row from {function.name}",
                     "values that JSON can hold: text, numbers, lists, objects",
                     "convert them in the function")  # fmt: skip
    return None
