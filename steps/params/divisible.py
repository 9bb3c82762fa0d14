"""The nearest values that divide, or can be divided, as a batch has to: for the fixes of problems."""

from __future__ import annotations

import math


def multiples_near(value: int, others: int, of: int) -> list[int]:
    """Return the nearest values below and above, so that value × others is a multiple of `of`."""
    unit = of // math.gcd(of, others)
    below, above = value // unit * unit, -(-value // unit) * unit
    return sorted({below, above} - {0})


def divisor_near(whole: int, value: int, least: int = 1) -> int:
    """Return the divisor of `whole` that is nearest to a value, the larger of two; 0 if there is none from `least`."""
    found = [count for count in _divisors(whole) if count >= least]
    return min(found, key=lambda count: (abs(count - value), -count), default=0)


def divisors_near(whole: int, value: int) -> list[int]:
    """Return the nearest divisors of `whole` below and above a value, which may be one."""
    found = _divisors(whole)
    below = max(count for count in found if count <= max(value, 1))
    above = min(count for count in found if count >= min(value, whole))
    return sorted({below, above})


def _divisors(whole: int) -> list[int]:
    small = [count for count in range(1, math.isqrt(whole) + 1) if whole % count == 0]
    return sorted({*small, *(whole // count for count in small)})


def either(values: list[int]) -> str:
    """Write values as words: 8 or 16."""
    return " or ".join(str(value) for value in values)
