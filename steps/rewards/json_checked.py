"""Check of JSON against a schema. Runs in a worker process (`worker.py`), which ends it at its limits."""

from __future__ import annotations

import json

import jsonschema
from referencing.jsonschema import EMPTY_REGISTRY


def judge(what: str, schema_text: str, text: str = "") -> str:
    """Return what is wrong with a schema, or what a text is: "fits", "json" or "" for no JSON."""
    try:
        schema = json.loads(schema_text, parse_constant=_refuse)
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
        # An empty registry: the default one fetches a $ref from the network.
        validator = kind(schema, registry=EMPTY_REGISTRY)
    except (ValueError, RecursionError, AttributeError, jsonschema.SchemaError) as error:
        return str(getattr(error, "message", error))[:200] or type(error).__name__
    if what == "schema":
        return ""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return ""
    try:
        return "fits" if validator.is_valid(value) else "json"
    except Exception:  # a number beyond all bounds, a nesting too deep, a $ref to nowhere: it does not fit
        return "json"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
