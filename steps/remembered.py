"""Looks at a source once for all trials of a sweep, which mostly have the same model and data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")

_seen: ContextVar[dict[Any, Any] | None] = ContextVar("seen", default=None)


@dataclass(frozen=True)
class _Failed:
    error: Exception


@contextmanager
def looking_once() -> Iterator[None]:
    """Within this block, a function that is `remembered` is called once for each of its arguments."""
    if _seen.get() is not None:
        yield
        return
    token = _seen.set({})
    try:
        yield
    finally:
        _seen.reset(token)


def remembered(look: Callable[..., T]) -> Callable[..., T]:
    """Make a function return what it returned, or raise what it raised, for equal arguments, which are keys."""

    @wraps(look)
    def found(*arguments: Any) -> T:
        seen = _seen.get()
        if seen is None:
            return look(*arguments)
        key = (look.__qualname__, *arguments)
        if key not in seen:
            try:
                seen[key] = look(*arguments)
            except Exception as error:
                seen[key] = _Failed(error)
        if isinstance(seen[key], _Failed):
            raise seen[key].error
        return seen[key]

    return found
