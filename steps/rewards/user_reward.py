"""The user's own reward: file.py:function, sync or async, called by keyword with lists as TRL calls it.

    def short(completions, difficulty, log_extra=None, **kwargs):
        return [1.0 if len(completion[-1]["content"]) < 100 else 0.0 for completion in completions]

The function gets what it names, or everything if it has **kwargs. A named argument without a default that is none of
`library.GIVEN` is a column that it needs. It returns one number per completion, or None where it does not apply.

A function with the argument solution_str judges one answer at a time, as verl's do (one_answer.py).
"""

from __future__ import annotations

import ast
import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from steps.errors import Problem, UserError, shown
from steps.rewards.library import GIVEN
from steps.rewards.limits import TimeLimit, awaited, call_within
from steps.rewards.one_answer import COLUMNS, NAMES, arguments_for, judges_one_answer, score_in
from steps.rewards.texts import text_of
from steps.sources.user_code import LoadedFunction, UserFunction, find_function, load_found

PARAMETER = "reward_funcs"


@dataclass(frozen=True)
class Signature:
    """What a function wants to be called with."""

    columns: tuple[str, ...]
    """Columns that it cannot do without."""
    optional: tuple[str, ...]
    """Arguments with a default: they get a column where there is one."""
    everything: bool
    """Whether it takes any column."""
    one_answer: bool = False
    """Whether it judges one answer at a time, as verl's functions do."""


def check_reward(given: str) -> tuple[UserFunction, Signature]:
    """Check a reward function without running its file. Raises UserError, and as `storage.find_files`."""
    found = find_function(PARAMETER, given)
    arguments = found.arguments
    by_place = [*arguments.posonlyargs, *arguments.args]
    free = [*([None] * (len(by_place) - len(arguments.defaults))), *arguments.defaults, *arguments.kw_defaults]
    named = list(zip([*by_place, *arguments.kwonlyargs], free, strict=True))
    # What stands before "/" has no name to be called by.
    nameless = [default for _, default in named[: len(arguments.posonlyargs)] if default is None]
    named = named[len(arguments.posonlyargs) :]
    needed = tuple(one.arg for one, default in named if default is None)
    optional = tuple(one.arg for one, default in named if default is not None)
    one_answer = judges_one_answer(arguments)
    if one_answer:
        wrong = not {*needed} <= {*NAMES}
    else:
        wrong = not ({"completions", "completion_ids"} & {*needed, *optional} or arguments.kwarg)
    if nameless or wrong:
        raise UserError(
            Problem("REWARD-E0206", f"{found.uri}:{found.line}", f"{found.name}({ast.unparse(arguments)})",
                    "a function of completions and columns, called by name",
                    f"write it as def {found.name}({', '.join(NAMES) if one_answer else 'completions'}, **kwargs):")
        )  # fmt: skip
    if one_answer:
        columns = tuple(name for name in COLUMNS if name in needed)
        return found, Signature(columns, (), everything=True, one_answer=True)
    columns = tuple(name for name in needed if name not in GIVEN)
    return found, Signature(columns, optional, arguments.kwarg is not None)


def load_reward(given: str, seconds: float) -> tuple[Callable[..., list[Any]], Signature]:
    """Load a reward function; its errors are reported as UserErrors that name it, the row and the value.

    Raises as `check_reward` and `load_found`.
    """
    found, signature = check_reward(given)
    loaded = load_found(PARAMETER, found)
    if signature.one_answer:
        return _by_answer(found, loaded, seconds), signature
    is_async = found.is_async
    # One event loop for all calls: clients that the user's file keeps are bound to it.
    runner = asyncio.Runner()

    def call(**values: Any) -> list[Any]:
        wanted = _wanted(found, signature, values)
        ask = lambda: loaded.call(**wanted)  # noqa: E731
        try:
            with _training_untouched():
                made = call_within(seconds, awaited(ask, runner) if is_async else ask)
        except TimeLimit:
            row = _first_row(loaded, wanted, TimeLimit, seconds, is_async)
            raise _stopped(loaded, _row(row, wanted), seconds) from None
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # the user's code: any error is reported with its line and row
            row = _first_row(loaded, wanted, type(error), seconds, is_async)
            raise _failed(loaded, _row(row, wanted), error) from error
        return _as_list(made, loaded)

    return call, signature


def _by_answer(found: UserFunction, loaded: LoadedFunction, seconds: float) -> Callable[..., list[Any]]:
    """Make a reward of a batch from a function that judges one answer; those of an async one are judged together."""
    runner = asyncio.Runner()

    def call(completions: list[Any], log_extra: Any = None, **columns: Any) -> list[Any]:
        values = {name: value for name, value in columns.items() if _is_column(name, value, len(completions))}
        rows = [{name: value[row] for name, value in values.items()} for row in range(len(completions))]
        asked = [arguments_for(found.arguments, text_of(one), row) for one, row in zip(completions, rows, strict=True)]
        made: dict[int, Any] = {}
        failed: dict[int, BaseException] = {}

        def one_by_one() -> None:
            for row, wanted in enumerate(asked):
                try:
                    made[row] = loaded.call(**wanted)
                except (Exception, SystemExit) as error:  # the user's code: any error is reported with its line and row
                    failed[row] = error
                    return

        async def judge(row: int) -> None:
            try:
                made[row] = await loaded.call(**asked[row])
            except (Exception, SystemExit) as error:  # as above
                failed[row] = error

        async def together() -> None:
            await asyncio.gather(*map(judge, range(len(asked))))

        def told(row: int) -> str:
            return _row(row, {"completions": completions})

        try:
            with _training_untouched():
                call_within(seconds, awaited(together, runner) if found.is_async else one_by_one)
        except TimeLimit:
            waits = next(row for row in range(len(asked)) if row not in made)
            raise _stopped(loaded, told(waits), seconds) from None
        if failed:
            row = min(failed)
            raise _failed(loaded, told(row), failed[row]) from failed[row]
        scores = [score_in(made[row], loaded, told(row)) for row in range(len(asked))]
        for name in dict.fromkeys(name for one in scores for name in one if name != "score"):
            if log_extra:
                log_extra(str(name), [one.get(name) for one in scores])
        return [one["score"] for one in scores]

    return call


@contextmanager
def _training_untouched() -> Iterator[None]:
    """Put torch's gradient mode and default type back, on which the training around a function depends."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    gradients, kind = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(kind)


def _wanted(found: UserFunction, signature: Signature, values: dict[str, Any]) -> dict[str, Any]:
    if signature.everything:
        return values
    arguments = found.arguments
    names = {one.arg for one in (*arguments.args, *arguments.kwonlyargs)}
    return {name: value for name, value in values.items() if name in names}


def _as_list(made: Any, loaded: LoadedFunction) -> list[Any]:
    """Return the rewards as a list: arrays and tensors of one dimension have tolist()."""
    if hasattr(made, "tolist") and not isinstance(made, str | bytes):
        made = made.tolist()
    if not isinstance(made, list | tuple):
        raise UserError(
            Problem("REWARD-E0208", f"{loaded.uri}:{loaded.name}", f"{shown(made)} ({type(made).__name__})",
                    "a list with one number per completion", "return such a list")
        )  # fmt: skip
    return list(made)


def _failed(loaded: LoadedFunction, row: str, error: BaseException) -> UserError:
    return UserError(
        Problem("REWARD-E0207", f"{loaded.place_of(error)} in {loaded.name}, {row}",
                shown(f"{type(error).__name__}: {error}"), "no exception",
                "correct the function, or let it return None for such rows")
    )  # fmt: skip


def _stopped(loaded: LoadedFunction, row: str, seconds: float) -> UserError:
    return UserError(
        Problem("REWARD-E0211", f"{loaded.uri}:{loaded.name}, {row}",
                f"no answer after {seconds:g} seconds", "rewards within the time limit",
                "make the function faster, or raise reward_timeout_seconds")
    )  # fmt: skip


def _first_row(
    loaded: LoadedFunction, values: dict[str, Any], kind: type[BaseException], seconds: float, is_async: bool
) -> int | None:
    """Call the function with single rows to find the one that it fails on; at most `seconds` in all."""
    count = len(values.get("completions") or values.get("completion_ids") or [])
    end = time.monotonic() + seconds
    for row in range(count):
        alone = {name: [value[row]] if _is_column(name, value, count) else value for name, value in values.items()}
        ask = lambda alone=alone: loaded.call(**_quiet(alone))  # noqa: E731
        limit = min(end - time.monotonic(), max(0.2, seconds / 4))
        if limit <= 0:
            return None
        try:
            call_within(limit, awaited(ask) if is_async else ask)
        except kind:
            return row
        except (Exception, SystemExit, TimeLimit):  # it fails, but in another way
            continue
    return None


def _is_column(name: str, value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and name not in ("trainer_state", "log_extra", "log_metric")


def _quiet(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with functions that log nothing."""
    return {name: _log_nothing if name in ("log_extra", "log_metric") else value for name, value in values.items()}


def _log_nothing(*_: Any) -> None:
    """Take what is logged, and leave it."""


def _row(row: int | None, values: dict[str, Any]) -> str:
    completions = values.get("completions") or values.get("completion_ids") or []
    if row is None:
        return f"a batch of {len(completions)} rows, none of which fails alone"
    return f"row {row + 1} of {len(completions)} ({shown(completions[row])})"
