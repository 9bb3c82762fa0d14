"""Tests that run programs of which nothing is known need a kernel that shuts them in (steps/rewards/jail.py)."""

import pytest

from steps.errors import SecurityRefusal
from steps.rewards.sandbox import check_sandbox


def skip_without_sandbox() -> None:
    """Skip a test, with the reason, where this kernel or container has no Landlock or no seccomp."""
    try:
        check_sandbox()
    except SecurityRefusal as refusal:
        pytest.skip(refusal.problems[0].found)
