"""One record for each kind of model, method of learning and kind of adapter.

    model_kind.py, models/       what a model puts out: the next token, a class, tags, …
    method.py, methods/          how it learns: from right answers, or from preferences (DPO, KTO, …)
    recipe.py                    both together: which code writes the rows, trains, evaluates and serves
    adapter_kind.py, adapters/   what is trained in place of every weight: LoRA, IA3, …

Whatever differs between two kinds stands in their records, so a new kind is one file and one line in the `__init__.py`
beside it. A record holds values, small functions of plain numbers, and names of what needs torch or another room, as
"module:attribute" or "module", which `load` imports where it is used. So every room may read the records, the
parameters included.
"""

from importlib import import_module
from typing import Any


def load(name: str) -> Any:
    """Import what a record names: a module, or `module:attribute`."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute) if attribute else import_module(module)
