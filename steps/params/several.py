"""Parameters that are one text with several values: a configuration file may also give them as a list."""

import json
from collections.abc import Callable
from typing import Any

from pydantic import BeforeValidator


def _joined(separator: str) -> Callable[[Any], Any]:
    def joined(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        texts = [str(one).lower() if isinstance(one, bool) else str(one) for one in value]
        for one, text in zip(value, texts, strict=True):
            if not isinstance(one, str | bool | int | float):
                raise ValueError(f"a list of texts; {json.dumps(one, default=str)} is not one")
            if not text.strip() or separator in text:
                raise ValueError(f"a list of texts that are not empty and have no {separator!r} in them")
        return separator.join(texts)

    return joined


def _as_json(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) and value else value


COMMAS = BeforeValidator(_joined(","))
"""For texts separated by commas: ["a", "b"] is read as "a,b"."""

LINES = BeforeValidator(_joined("\n"))
"""For paths, which may contain commas: one on each line."""

JSON = BeforeValidator(_as_json)
"""For JSON text: a list or an object is read as its JSON."""
