"""Closed choices that are computed: the names of records instead of a Literal that repeats them."""

from typing import Any

from pydantic_core import core_schema


class OneOf:
    """The allowed values of a text; `Annotated[str, OneOf(names)]` is checked as a Literal of these names is."""

    def __init__(self, names: Any):
        self.names: tuple[str, ...] = tuple(names)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.literal_schema(list(self.names))
