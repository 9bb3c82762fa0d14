"""Sections of the reports, one module each; `READS` names the artifact that a section shows.

A page shows for each of its artifacts the section with the artifact's name, then every other section that reads it, by
name. To add a section: a module here with `READS` and `section(folder)`, and its template.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def sections_of(artifact: str) -> list[Callable[[Path], Any]]:
    """Return the functions that make the sections of an artifact, in the order of the page."""
    names = sorted(
        (module.name for module in pkgutil.iter_modules(__path__)), key=lambda name: (name != artifact, name)
    )
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return [module.section for module in modules if artifact == module.READS]
