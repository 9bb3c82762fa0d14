"""Parameters as a notebook gives them: by name in a dict, or a configuration file, and keywords that override it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.catalog import published_as
from pipelines.flags import for_pipeline, parameters_in
from pipelines.values import plain
from steps.errors import Problem, UserError, shown
from steps.params.group import merged

Parameters = Mapping[str, Any] | str | os.PathLike[str] | None
"""Parameters by name, or the path of a file with them: parameters by name, or an experiment in sections."""


def given(pipeline: str, parameters: Parameters, more: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of the pipeline and its parameters, of which those in `more` override the others.

    Raises UserError for an unknown pipeline, and for a file that cannot be read or names another one.
    """
    published = published_as(text_of("pipeline", pipeline))
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


def text_of(what: str, value: Any) -> str:
    """Return a name. Raises UserError for anything but a text."""
    if isinstance(value, str):
        return value
    raise UserError(Problem("PARAM-E0112", what, shown(value), f"the name of a {what}", "write it as text"))
