"""Choices computed from the names of records, so that no Literal has to repeat them, and switches in any spelling."""

from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import core_schema

_BOOLEAN = TypeAdapter(bool)


class OneOf:
    """Allowed values of a string; `Annotated[str, OneOf(names)]` is checked like a Literal of these names."""

    def __init__(self, names: Any):
        self.names: tuple[str, ...] = tuple(names)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.literal_schema(list(self.names))


def switch(value: Any) -> Any:
    """Convert every spelling of a boolean (True, 1, yes, "False", …) to "true" or "false"; leave other values."""
    text = str(value).strip().lower()
    if text == "auto":
        return text
    try:
        return str(_BOOLEAN.validate_python(text)).lower()
    except ValidationError:
        return value
