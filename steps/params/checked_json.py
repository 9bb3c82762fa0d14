"""JSON that carries a checksum: what is read later is what was written, or it is refused."""

import hashlib
import json
from typing import Any

from steps.params.text_file import read_json

CHECKSUM = "checksum"
VALUE = "value"


def checksum_of(value: Any) -> str:
    """Return the sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sealed(value: Any) -> str:
    """Return the text of a JSON value with its checksum."""
    plain = json.loads(json.dumps(value))  # keys are texts from here on
    return json.dumps({VALUE: plain, CHECKSUM: checksum_of(plain)})


def unsealed(text: str | bytes) -> Any:
    """Return the value in a text that `sealed` wrote. Raises ValueError for any other text."""
    told = read_json(text.decode("utf-8") if isinstance(text, bytes) else text)
    if not isinstance(told, dict) or told.keys() != {VALUE, CHECKSUM} or told[CHECKSUM] != checksum_of(told[VALUE]):
        raise ValueError("text that is damaged, or that another program wrote")
    return told[VALUE]
