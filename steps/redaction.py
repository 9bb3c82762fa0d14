"""Credentials out of whatever is stored or shown."""

from __future__ import annotations

import re
from typing import Any

USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def masked(value: Any) -> Any:
    """Cut credentials out of every text in a JSON value."""
    if isinstance(value, str):
        from steps.tasks import SECRETS

        return SECRETS.sub("…", USERINFO.sub("***", value))
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    return [masked(item) for item in value] if isinstance(value, list | tuple) else value
