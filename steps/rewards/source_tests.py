"""How verl 0.9.1 scores the programs of codecontests, apps, codeforces and taco: the share of the first ten tests.

A row's tests are {"inputs": […], "outputs": […]}: what is read and what must be printed, each a text or a list of
lines. With "fn_name" they are the arguments of that function, one JSON value a line, and its value as JSON; then all
tests must pass, otherwise verl runs the first ten as if the program read and printed. Here each test runs in the
sandbox, and never sees what is expected.
"""

from __future__ import annotations

import ast
import json
import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import orjson

from steps.rewards.library import Judged
from steps.rewards.sandbox import Limits, Ran, run
from steps.tasks.rules.json_text import from_json

Test = tuple[str, str, str]
"""Name of the function (empty: the program reads and prints), what it gets, and what it must give."""
MOST = 10  # tests of a row that count
LONGEST = 100_000  # characters of a program
_MARK = "the value is "
# Programs of these sources are written for a place where all names of these modules are there.
MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
)
_BEFORE = "\n".join(
    [f"from {name} import *" for name in (*MODULES.split(), "builtins", "typing")]
    + [f"import {name}" for name in MODULES.split()]
    + ["sys.setrecursionlimit(600000)"]
)


def judge(text: str, truth: Any, limits: Limits, processes: int) -> Judged:
    """Score the share of a row's first ten tests that the program passes. Raises SecurityRefusal without a sandbox."""
    program = text.split("```python")[-1].split("```")[0]
    tests = tests_in(truth)
    assert tests is not None
    if not program.strip() or len(program) > LONGEST:
        return Judged(0.0, program)
    with ThreadPoolExecutor(processes) as pool:

        def passed(some: list[Test]) -> list[bool]:
            return list(pool.map(lambda test: _passed(program, limits, *test), some))

        if tests[0][0]:
            if all(all(passed(tests[start : start + MOST])) for start in range(0, len(tests), MOST)):
                return Judged(1.0, program)
            tests = [("", given, expected) for _, given, expected in tests]
        counted = passed(tests[:MOST])
    return Judged(sum(counted) / len(counted), program)


def tests_in(truth: Any) -> list[Test] | None:
    """Return the tests of a ground truth; None for one that has none."""
    if isinstance(truth, str):
        try:
            truth = from_json(truth)
        except orjson.JSONDecodeError:
            return None
    if not isinstance(truth, dict):
        return None
    name, inputs, outputs = truth.get("fn_name"), truth.get("inputs"), truth.get("outputs")
    if not (isinstance(inputs, list) and isinstance(outputs, list) and 0 < len(inputs) == len(outputs)):
        return None
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        return None
    pairs = [(_joined(given), _joined(expected)) for given, expected in zip(inputs, outputs, strict=True)]
    tests = [(name or "", given, expected) for given, expected in pairs if given is not None and expected is not None]
    if len(tests) < len(pairs) or (name and not all(_are_json(given, expected) for _, given, expected in tests)):
        return None
    return tests


def _joined(value: Any) -> str | None:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None


def _are_json(given: str, expected: str) -> bool:
    try:
        [json.loads(line) for line in (*given.split("\n"), expected)]
    except (ValueError, RecursionError):
        return False
    return True


def _passed(program: str, limits: Limits, name: str, given: str, expected: str) -> bool:
    if not name:
        # A program that ends itself has ended well, whatever its exit code.
        ran = _ran(f"{_guarded(program)}except SystemExit:\n    pass\n", given, limits)
        return ran.end == "ok" and same_output(ran.output, expected)
    values = [json.loads(line) for line in given.split("\n")]
    if isinstance(values[0], dict):
        values = [_with_numbers(values[0])]
    owner = "Solution()." if "class Solution" in program else ""
    call = f"print(chr(10) + {_MARK!r} + repr({owner}{name}(*{values!r})))\n"
    ran = _ran(f"{_guarded(program)}finally:\n    pass\n{call}", "", limits)
    return ran.end == "ok" and _same_value(_value(ran), json.loads(expected))


def _guarded(program: str) -> str:
    return f"{_BEFORE}\ntry:\n    exec(compile({program!r}, 'solution.py', 'exec'), globals())\n"


@lru_cache(maxsize=20_000)
def _ran(program: str, given: str, limits: Limits) -> Ran:
    return run(program, given, limits)


def _with_numbers(value: dict[str, Any]) -> dict[Any, Any]:
    """Return an object with numbers as keys, which JSON can hold only as texts."""
    try:
        return {int(key): one for key, one in value.items()}
    except ValueError:
        return value


def _value(ran: Ran) -> Any:
    """Return the value that was printed last; an object that equals nothing if JSON cannot hold it."""
    _, mark, text = ran.output.rpartition("\n" + _MARK)
    try:
        value = ast.literal_eval(text.strip()) if mark else object()
        json.dumps(value)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return object()
    return value


def _same_value(value: Any, expected: Any) -> bool:
    """Compare as verl: the expected value may stand alone in a list, and tuples are lists."""
    if isinstance(expected, dict):
        expected = [_with_numbers(expected)]
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict):
        expected = [_with_numbers(expected[0])]
    if isinstance(value, tuple):
        value = list(value)
    first = expected[0] if isinstance(expected, list) and expected else None
    if value == expected or (isinstance(expected, list) and expected and value == first):
        return True
    if (
        isinstance(value, list)
        and value
        and isinstance(value[0], tuple)
        and all(isinstance(one, tuple | list | str | dict) for one in value)
    ):
        return [list(one) for one in value] == first
    return False


def same_output(printed: str, expected: str) -> bool:
    """Compare what was printed with what is expected: without blank lines and outer blanks, numbers to 1 in 100,000."""
    lines = printed.splitlines()
    if expected.strip() in ("\n".join(lines).strip(), "\n".join(line.strip() for line in lines).strip()):
        return True
    lines, wanted = [line for line in lines if line], [line.strip() for line in expected.split("\n") if line]
    if lines == wanted or len(lines) != len(wanted):
        return lines == wanted
    pairs = list(zip(lines, wanted, strict=True))
    if all(one.isdigit() and other.isdigit() for one, other in pairs):
        return False
    try:
        return all(_near(float(one), float(other)) for one, other in pairs)
    except ValueError:
        return False


def _near(one: float, other: float) -> bool:
    """Compare as numpy's allclose."""
    return one == other or (math.isfinite(other) and abs(one - other) <= 1e-8 + 1e-5 * abs(other))
