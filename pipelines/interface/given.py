"""Parameters as a notebook gives them: by name in a dict, or a configuration file, and keywords that override it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.catalog import published_as
from pipelines.flags import for_pipeline, parameters_in
from steps.errors import Problem, UserError, shown
from steps.params.group import merged

Parameters = Mapping[str, Any] | str | os.PathLike[str] | None
"""Parameters by name, or the path of a file with them: parameters by name, or an experiment in sections."""


def given(pipeline: str, parameters: Parameters, more: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of the pipeline and its parameters, of which those in `more` override the others.

    Raises UserError for an unknown pipeline, and for a file that cannot be read or names another one.
    """
    if not isinstance(pipeline, str):
        raise UserError(
            Problem("PARAM-E0112", "pipeline", shown(pipeline), "the name of a pipeline", "write it as text")
        )
    published = published_as(pipeline)
    values: Mapping[str, Any]
    if isinstance(parameters, str | os.PathLike):
        values = parameters_in(Path(parameters), published.parameters)
    elif parameters is None or isinstance(parameters, Mapping):
        values = parameters or {}
    else:
        raise UserError(
            Problem("PARAM-E0113", "parameters", f"{shown(parameters)}, a {type(parameters).__name__}",
                    "a dict of parameters, or the path of a configuration file", "write {'learning_rate': 1e-5}")
        )  # fmt: skip
    return published.name, for_pipeline(published.name, plain(merged(published.parameters, values, more)))


def plain(value: Any) -> Any:
    """Return a value as a configuration file could have it: paths as text, and numbers of numpy as those of Python."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of numpy, pandas or torch
        return value.item()
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
