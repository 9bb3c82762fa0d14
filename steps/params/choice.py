"""Choices computed from the names of records, so that no Literal has to repeat them."""

from typing import Any

from pydantic_core import core_schema


class OneOf:
    """Allowed values of a string; `Annotated[str, OneOf(names)]` is checked like a Literal of these names."""

    def __init__(self, names: Any):
        self.names: tuple[str, ...] = tuple(names)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.literal_schema(list(self.names))
