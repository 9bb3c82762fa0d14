"""The architectures that transformers knows, read from its source text: importing it takes seconds."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

NAMED = re.compile(r"\"([^\"\n]+)\"(?:,|:) \"\w+Config\"")  # ("llama", "LlamaConfig") and "llama": "LlamaConfig"
FILES = ("auto_mappings.py", "configuration_auto.py")  # of transformers 5.17
FEWEST = 100  # fewer names mean that they are written in another form


@cache
def known_types() -> frozenset[str]:
    """Return the values of model_type that transformers knows; none where it is not installed or written otherwise."""
    found = find_spec("transformers")
    folders = [Path(place, "models/auto") for place in (found.submodule_search_locations or ())] if found else []
    texts = [(folder / name).read_text(encoding="utf-8") for folder in folders for name in FILES
             if (folder / name).is_file()]  # fmt: skip
    names = frozenset(name for text in texts for name in NAMED.findall(text))
    return names if len(names) >= FEWEST else frozenset()
