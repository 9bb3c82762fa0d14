"""Reward of a Python program that passes tests, each run in a sandbox (`sandbox.py`).

The program is the last ``` block behind the thoughts, else the content of <answer>, else the whole text. A row's tests
are a list (or a JSON text of one), with these forms:

    {"input": "3 4\\n", "output": "7"}       standard input and what must be printed; white space at line ends is free
    {"call": "add(3, 4)", "expected": 7}    an expression, evaluated behind the program, and its value
    "assert add(3, 4) == 7"                 as in HumanEval and MBPP

An assertion that something equals a constant is checked like a call: the program never sees what is expected. Any other
assertion is evaluated in the program's own process, where a program that looks into the interpreter could pretend.
Tests of one row run at the same time, as many as `processes`.
"""

from __future__ import annotations

import ast
import json
import re
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from pydantic import Field

from steps.errors import Problem, UserError, shown
from steps.params.group import Group
from steps.rewards.library import Function, Judged, by_row
from steps.rewards.sandbox import Limits, Ran, check_sandbox, run
from steps.rewards.texts import without_thoughts

LONGEST = 100_000  # characters of a program
_BLOCK = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)```", re.DOTALL)
_MARK = "the value is "


class Options(Group):
    """Where the tests stand, and what a program may use."""

    column: str = "tests"
    """Column with the tests of each row."""

    partial: bool = True
    """Reward the share of tests that pass; otherwise 1 only if all of them do."""

    timeout_seconds: int = Field(5, ge=1, le=600)
    """Computing time of one test; on the clock it may take four times as long."""

    memory_mib: int = Field(512, ge=64)
    """Memory of one test."""

    max_tests: int = Field(20, ge=1)
    """Tests of a row that are run, from the first."""

    processes: int = Field(2, ge=1, le=64)
    """Tests that run at the same time."""


def columns(options: Options) -> tuple[str, ...]:
    """Return the column of the tests."""
    return (options.column,)


def reward(options: Options) -> Function:
    """Return the reward: the share of passed tests; None for a row without tests. Raises SecurityRefusal."""
    check_sandbox()
    limits = Limits(options.timeout_seconds, options.memory_mib)

    def judge(text: str, given: Any) -> Judged:
        tests = _tests(given, options.column)[: options.max_tests]
        program = program_in(text)
        if not tests:
            return Judged(None, program)
        if not program.strip() or len(program) > LONGEST:
            return Judged(0.0, program)
        with ThreadPoolExecutor(options.processes) as pool:
            passed = list(pool.map(lambda test: _passed(program, json.dumps(test), limits), tests))
        return Judged(sum(passed) / len(passed) if options.partial else float(all(passed)), program)

    return by_row(judge, columns(options))


def program_in(text: str) -> str:
    """Return the program in a completion."""
    text = without_thoughts(text)
    if blocks := _BLOCK.findall(text if text.count("```") < 1000 else ""):
        python = [code for language, code in blocks if language.lower() in ("python", "py", "python3", "")]
        return str((python or [code for _, code in blocks])[-1])
    if "<answer>" in text:
        return text.rsplit("<answer>", 1)[1].split("</answer>", 1)[0]
    return text


def _tests(given: Any, column: str) -> list[Any]:
    """Return the tests of a row. Raises UserError for one that has none of the forms."""
    if isinstance(given, str) and given.lstrip()[:1] in ("[", "{", '"'):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise _wrong(given, column) from None
    if given is None:
        return []
    tests = given if isinstance(given, list | tuple) else [given]
    for test in tests:
        ours = isinstance(test, dict) and any(
            keys <= test.keys() and all(isinstance(test[key], str) for key in texts)
            for keys, texts in (({"input", "output"}, ("input", "output")), ({"call", "expected"}, ("call",)))
        )
        if not ours and not (isinstance(test, str) and test.strip()):
            raise _wrong(test, column)
    return list(tests)


def _wrong(test: Any, column: str) -> UserError:
    return UserError(
        Problem("REWARD-E0223", column, shown(test),
                "tests as {input, output}, {call, expected} or an assert statement", "correct the column")
    )  # fmt: skip


@lru_cache(maxsize=20_000)
def _passed(program: str, test_text: str, limits: Limits) -> bool:
    """Whether a program passes one test."""
    test = json.loads(test_text)
    if isinstance(test, dict) and "input" in test:
        ran = run(program, test["input"], limits)
        return ran.end == "ok" and _lines(ran.output) == _lines(test["output"])
    call, expected = (test["call"], test["expected"]) if isinstance(test, dict) else _equality(test)
    if call:
        ran = run(f"{program}\nprint({'chr(10)'} + {_MARK!r} + repr({call}))\n", "", limits)
        return ran.end == "ok" and _same(_value(ran), expected)
    return _asserted(program, test, limits)


def _asserted(program: str, test: str, limits: Limits) -> bool:
    """Whether a test runs to its end behind a program, known by a word that the program cannot guess."""
    import secrets

    word = secrets.token_hex(16)
    ran = run(f"{program}\n{test}\nprint({word!r})\n", "", limits)
    return ran.end == "ok" and word in ran.output


def _equality(test: str) -> tuple[str, Any]:
    """Take `assert call == constant` apart; ("", None) for any other test."""
    try:
        tree = ast.parse(test.strip())
        match tree.body:
            case [ast.Assert(test=ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]))]:
                return ast.unparse(left), ast.literal_eval(right)
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError):
        pass
    return "", None


def _value(ran: Ran) -> Any:
    """Return the constant that a program printed last; an object that equals nothing if it is none."""
    _, mark, text = ran.output.rpartition("\n" + _MARK)
    try:
        return ast.literal_eval(text.strip()) if mark else object()
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError):
        return object()


def _same(value: Any, expected: Any) -> bool:
    """Whether a value is the expected one; expected values from JSON have lists where Python may have tuples."""
    if isinstance(value, tuple | list) and isinstance(expected, tuple | list):
        return len(value) == len(expected) and all(map(_same, value, expected))
    return type(value) is not object and bool(value == expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
