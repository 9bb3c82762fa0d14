"""Run one step without Kubeflow: `python -m steps <step> --name value …`.

The flags are the parameters of the step: a path for each folder, and every field of its settings by name.
`--settings JSON` takes complete settings, as written by the plan; `--settings @FILE` reads them from a file.
"""

from __future__ import annotations

from steps.outlets import open_outlets, wholly
from steps.stopping import ending, stop_when_asked

if __name__ == "__main__":  # before anything else is loaded
    open_outlets()
    stop_when_asked()

import argparse
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from steps import STEPS
from steps.child_output import mask_children
from steps.errors import Problem, UserError, shown
from steps.limited import watch_memory
from steps.params.text_file import read_json
from steps.running import leave, load, reported, run_step


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run the step; exits with the exit code of the step."""
    open_outlets()
    words = sys.argv[1:] if arguments is None else arguments
    overview = argparse.ArgumentParser(prog="python -m steps", description="Run one step of a pipeline on its own.")
    overview.add_argument("step", choices=list(STEPS), help="name of the step; add --help to list its flags")
    name = overview.parse_args(words[:1]).step
    watch_memory(name, leave)
    with reported(name):
        parser, model = _parser(name)
        given = vars(parser.parse_args(words[1:]))
        settings = _settings(model, given) if model else None
        hints = get_type_hints(load(name))
        values = {key: _json(key, value) if _is_json(hints[key]) and value else value for key, value in given.items()}
    result = run_step(name, settings, **values)
    if isinstance(result, bool | str | float | dict):
        with reported(name), wholly():
            print(json.dumps(result))


def _parser(name: str) -> tuple[argparse.ArgumentParser, type[BaseModel] | None]:
    step = load(name)
    hints = get_type_hints(step)
    parser = argparse.ArgumentParser(prog=f"python -m steps {name}", description=(step.__doc__ or "").split("\n")[0])
    for parameter in inspect.signature(step).parameters.values():
        hint = hints[parameter.name]
        if parameter.name == "settings" or _is_function(hint):
            continue
        # A folder that may be missing need not be given, also where a caller in Python has to say so.
        required = parameter.default is inspect.Parameter.empty and hint != Path | None
        kind = "DIR" if hint in (Path, Path | None) else "JSON" if _is_json(hint) else "TEXT"
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        how = {"action": "append", "help": "repeatable"} if get_origin(hint) is list else {}
        parser.add_argument(
            _flag(parameter.name), required=required, metavar=kind, default=default, dest=parameter.name, **how
        )
    model = hints.get("settings")
    if model is not None:
        parser.add_argument(
            "--settings", metavar="JSON", default="{}", help="settings as written by the plan, or @FILE"
        )
        for field, (path, text) in _fields(model).items():
            parser.add_argument(_flag(field), metavar="VALUE", dest=path, default=argparse.SUPPRESS, help=text)
    return parser, model


def _json(name: str, text: str) -> dict[str, Any]:
    """Read the JSON object of a flag. Raises UserError for anything else."""
    try:
        value = read_json(text)
    except ValueError as error:
        value = str(error)
    if isinstance(value, dict):
        return value
    raise UserError(Problem("PARAM-E0119", _flag(name), shown(value), "a JSON object", "quote it for the shell"))


def _is_function(hint: Any) -> bool:
    """Return whether a parameter takes a function, which only a caller in Python can give."""
    return any(get_origin(one) is Callable for one in (hint, *get_args(hint)))


def _is_json(hint: Any) -> bool:
    return "dict" in str(hint)


def _fields(model: type[BaseModel], prefix: str = "") -> dict[str, tuple[str, str]]:
    """Return every settings field by name → (dotted path, description); groups are flattened."""
    fields: dict[str, tuple[str, str]] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            fields.update(_fields(kind, f"{prefix}{name}."))
        else:
            fields[name] = (f"settings.{prefix}{name}", (field.description or "").replace("%", "%%"))
    return fields


def _settings(model: type[BaseModel], given: dict[str, Any]) -> str:
    """Remove the settings from the given values and return them as JSON; single fields override `--settings`.

    Raises UserError for every invalid field.
    """
    text = given.pop("settings")
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(
                Problem("PARAM-E0120", "--settings", shown(text), f"a file that can be read ({error})", "name one")
            ) from None
    value = _json("settings", text)
    for path in [path for path in given if path.startswith("settings.")]:
        *groups, last = path.split(".")[1:]
        place = value
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = given.pop(path)
    try:
        model.model_validate(value)
    except ValidationError as error:
        raise UserError(_wrong(_flag(str(detail["loc"][-1])), detail) for detail in error.errors()) from None
    return json.dumps(value)


def _wrong(flag: str, detail: Any) -> Problem:
    """Turn pydantic's error about a value of the settings, or a value that is not there, into a Problem."""
    if detail["type"] == "missing":
        return Problem("PARAM-E0104", flag, "nothing", "a value", f"give {flag}, or --settings with all of them")
    return Problem("PARAM-E0104", flag, shown(detail["input"]), detail["msg"], "correct it")


def _flag(name: str) -> str:
    return "--" + name.rstrip("_").replace("_", "-")  # from_ is the flag --from, a Python keyword


if __name__ == "__main__":
    with ending():
        mask_children()
        main()
