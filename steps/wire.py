"""How a settings value travels between steps: one JSON string that arrives exactly as it left.

KFP's own dicts turn integers into floats and lose None, and its local runner rewrites the text `python3` and expands
`{{$…}}` inside arguments; both only occur inside JSON strings here, where an escape keeps the meaning.
"""

import json
from typing import Any


def dump(value: Any) -> str:
    """Write a JSON value as text that no layer of KFP rewrites."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
    return text.replace("python3", "pytho\\u006e3").replace("{{", "{\\u007b")


def load(text: str) -> Any:
    """Read what `dump` wrote."""
    return json.loads(text)
