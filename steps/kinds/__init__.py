"""One record for each kind of model, method of learning and kind of adapter.

    model_kind.py, models/     what a model puts out: the next token, a class, tags, …
    method.py, methods/        how it learns: from right answers, or from preferences (DPO, KTO, …)
    recipe.py                  both together: which code writes the rows, trains, evaluates and serves

A record names code of other rooms as "module:function"; `load` imports it when it is needed. Whatever differs between
two kinds stands in their records, so a new kind is one file and one line in the `__init__.py` beside it. The records
import the standard library alone: parameters, plan and pipelines read them on any machine.
"""

from __future__ import annotations

import importlib
from typing import Any


def load(name: str) -> Any:
    """Import what a record names as "module:function", or a whole module as "module"."""
    module, _, attribute = name.partition(":")
    imported = importlib.import_module(module)
    return getattr(imported, attribute) if attribute else imported
