"""Serialises settings for passing between steps: one JSON string that KFP does not change.

KFP's dict parameters turn integers into floats and lose None. Its local runner replaces the text `python3` and expands
`{{$…}}` in arguments; in this JSON both can only occur inside strings, so they are escaped.
"""

import json
from typing import Any


def dump(value: Any) -> str:
    """Serialise a JSON value to text that KFP does not change."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
    return text.replace("python3", "pytho\\u006e3").replace("{{", "{\\u007b")


def load(text: str) -> Any:
    """Parse text written by `dump`."""
    return json.loads(text)
