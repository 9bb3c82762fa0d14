"""Refuses texts that kfp would expand: it replaces placeholders also inside the values of users."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from steps.errors import Problem, SecurityRefusal

PLACEHOLDER = "{{$"


def refuse_placeholders(parameters: Mapping[str, Any]) -> None:
    """Raise SecurityRefusal with every parameter whose value, or a part of it, contains a placeholder."""
    bad = [name for name, value in parameters.items() if PLACEHOLDER in json.dumps(value, default=str)]
    if bad:
        raise SecurityRefusal(
            Problem("PARAM-E0301", name, PLACEHOLDER, f"text without {PLACEHOLDER}", "write { {$ instead",
                    why="kfp would expand it as a placeholder")
            for name in bad
        )  # fmt: skip
