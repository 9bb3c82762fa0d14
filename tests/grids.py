"""Grids of cases of which `make test` runs a part and `make test-long` the rest."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def long_but(kept: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Give the cases as parameters of a test; those that are not kept are `long`.

    Kept are those that between them go every way through the code; the others repeat it with another value.
    Raises AssertionError for a kept case that does not exist.
    """
    cases = list(cases)
    assert all(case in cases for case in kept), f"{kept} is no part of {cases}"
    return [case if case in kept else _long(case) for case in cases]


def _long(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.long)
