"""One record for each kind of model, training method and kind of adapter.

    model_kind.py, models/       kinds of models by their output: the next token, a class, tags, …
    method.py, methods/          training methods: supervised, or from preferences (DPO, KTO, …)
    recipe.py                    a kind of model and a method: the code that writes rows, trains, evaluates and serves
    adapter_kind.py, adapters/   kinds of adapters: LoRA, IA3, …

All differences between two kinds are in their records, so a new kind needs one file and one line in the `__init__.py`
beside it. A record contains values, small functions of plain numbers, and names of code that needs torch or another
room, as "module:attribute" or "module"; `load` imports them where they are used. So every room, including the
parameters, can import the records.
"""

from importlib import import_module
from typing import Any


def load(name: str) -> Any:
    """Import a name from a record: a module, or `module:attribute`."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute) if attribute else import_module(module)
