"""Read a cluster's profile from a file, and print one with every key."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from pipelines.catalog import PIPELINES
from pipelines.configuration import read_config
from pipelines.profile import Part, Profile
from steps.errors import Problem, SecurityRefusal, UserError, nearest, shown
from steps.params.secrets import secret_in


def read_profile(file: Path) -> Profile:
    """Read a profile.

    Raises UserError with every unknown key and wrong value, SecurityRefusal for values that look like secrets, and as
    `read_config`.
    """
    values, _ = read_config(file)
    secrets = [(where, kind) for where, text in _texts(values) if (kind := secret_in(text))]
    if secrets:
        raise SecurityRefusal(
            Problem("PROFILE-E0301", f"{file}: {where}", kind, "the name of a secret",
                    "create a Kubernetes secret and write its name", why="it would be part of every compiled pipeline")
            for where, kind in secrets
        )  # fmt: skip
    try:
        profile = Profile.model_validate(values)
    except ValidationError as error:
        raise UserError(_problem(file, detail) for detail in error.errors()) from None
    if problems := list(_wrong_defaults(file, profile.defaults)):
        raise UserError(problems)
    return profile


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _texts(part, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _texts(part, f"{where}[{number}]")
    else:
        yield where, value


def _problem(file: Path, detail: Any) -> Problem:
    path = [str(part) for part in detail["loc"]]
    where = f"{file}: {'.'.join(path) or 'volumes'}"
    if detail["type"] == "extra_forbidden":
        known = _keys(path[:-1])
        fix = nearest(path[-1], known) or f"use one of {', '.join(known)}"
        return Problem("PROFILE-E0101", where, "an unknown key", "a key of the profile", fix)
    message = detail["msg"].removeprefix("Value error, ")
    return Problem("PROFILE-E0102", where, shown(detail["input"]), message, "see `finetune profile`")


def _keys(path: list[str]) -> list[str]:
    """Return the keys of the section at a path."""
    kind: Any = Profile
    for part in path:
        field = getattr(kind, "model_fields", {}).get(part)
        if field is None:  # a place in a list or dict
            continue
        inner = [argument for argument in getattr(field.annotation, "__args__", ()) if isinstance(argument, type)]
        kind = inner[-1] if inner else field.annotation
    return list(getattr(kind, "model_fields", {}))


def _wrong_defaults(file: Path, defaults: dict[str, Any]) -> Iterator[Problem]:
    known = {name for made in PIPELINES.values() for name in made.parameters.model_fields} - {"overrides"}
    for name, value in defaults.items():
        where = f"{file}: defaults.{name}"
        if name not in known:
            fix = nearest(name, known) or "see `finetune describe PIPELINE`"
            yield Problem("PROFILE-E0103", where, "an unknown parameter", "a parameter of a pipeline", fix)
            continue
        for pipeline, made in PIPELINES.items():
            if refused := _refused(made.parameters.model_fields.get(name), value):
                fix = f"see {name} in `finetune describe {pipeline}`"
                yield Problem("PROFILE-E0104", where, shown(value), f"for {pipeline}: {refused}", fix)
                break


def _refused(field: FieldInfo | None, value: Any) -> str:
    """Return why a value cannot be the default of a parameter as KFP passes it; empty if it can."""
    if field is None:
        return ""
    try:
        declared: Any = Annotated[field.annotation, field]
        TypeAdapter(declared).validate_python(value, strict=True)
    except ValidationError as error:
        return str(error.errors()[0]["msg"])
    return ""


def as_yaml() -> str:
    """Return a profile with every key and its default, with the meaning of each as a comment."""
    head = "# A profile with every key. Keep the keys that your cluster needs: those left out have these values.\n"
    return head + "\n".join(_written(Profile(), 0)) + "\n"


def _written(part: Part, depth: int) -> Iterator[str]:
    pad = "  " * depth
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        text = field.description or (type(value).__doc__ if isinstance(value, Part) else "") or ""
        if depth == 0:
            yield ""
        for line in textwrap.wrap(" ".join(text.split()), 100 - len(pad), break_on_hyphens=False):
            yield f"{pad}# {line}"
        if isinstance(value, Part):
            yield f"{pad}{name}:"
            yield from _written(value, depth + 1)
        else:
            yield f"{pad}{name}: {json.dumps(value)}"
