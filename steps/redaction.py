"""Removes credentials from values that are stored or shown."""

from __future__ import annotations

from typing import Any

from steps.params.secrets import without_secrets


def masked(value: Any) -> Any:
    """Return a JSON value with the credentials removed from all its strings."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    return [masked(item) for item in value] if isinstance(value, list | tuple) else value
