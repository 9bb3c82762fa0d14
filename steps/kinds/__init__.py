"""What there are several kinds of, one record each: everything that differs between them stands in the record.

    adapter_kind.py   the slots of a kind of adapter
    adapters/         one file per kind of adapter; ADAPTER_KINDS lists them

A record holds values, small functions of plain numbers, and names of what needs torch or another room: a module, or
`module:attribute`, which `load` imports where it is used. So every room may read the records, the parameters included.
"""

from importlib import import_module
from typing import Any


def load(name: str) -> Any:
    """Import what a record names: a module, or `module:attribute`."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute) if attribute else import_module(module)
