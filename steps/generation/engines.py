"""Engines by name; choosing one imports that one only.

To add an engine: a module with `open_engine(settings, model, adapter) -> Engine` and `missing(settings) -> str`, which
says in words what this machine lacks for it (empty: nothing), a row here, its name in `steps/params/generation.py`, and
a test.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from steps.generation.requests import Engine
from steps.params.settings import GenerateSettings

ENGINES = {
    "accelerate": "steps.generation.transformers_engine",
    "deepspeed": "steps.generation.deepspeed_engine",
    "deepspeed_zero": "steps.generation.zero_engine",
    "vllm": "steps.generation.vllm_engine",
    "endpoint": "steps.generation.endpoint_engine",
}


def open_engine(settings: GenerateSettings, model: Path | None, adapter: Path | None = None) -> Engine:
    """Load the model of `settings.engine` (never `auto` here); `adapter` is served beside it.

    `model` is None for an endpoint. Raises UserError if this machine lacks what the engine needs.
    """
    made: Engine = module_of(settings.engine.inference_type).open_engine(settings, model, adapter)
    return made


def module_of(name: str) -> ModuleType:
    """Import the module of an engine."""
    return importlib.import_module(ENGINES[name])
