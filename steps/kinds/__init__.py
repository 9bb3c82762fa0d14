"""One record for each kind of model, training method and kind of adapter.

    model_kind.py, models/       kinds of models by their output: the next token, a class, tags, …
    method.py, methods/          training methods: supervised, or from preferences (DPO, KTO, …)
    recipe.py                    a kind and a method together: the code that writes rows, trains, evaluates and serves
    adapter_kind.py, adapters/   kinds of adapters: LoRA, IA3, …

All differences between kinds are in their records, so a new kind is one file and one line in the `__init__.py` beside
it. A record contains values, small functions of plain numbers, and the names of code that needs torch or another
package, as "module:attribute" or "module", which `load` imports on use. So every package can read the records,
including `steps/params/`.
"""

from importlib import import_module
from typing import Any


def load(name: str) -> Any:
    """Import and return the object named in a record: a module, or `module:attribute`."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute) if attribute else import_module(module)
