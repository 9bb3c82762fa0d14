"""Read MLTable folders: which files hold the rows, and in which format.

A table may name only files inside its folder and only the options that are supported here. Everything else is refused,
not ignored: without a transformation, training would use other rows than the table's owner sees.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from steps.errors import Problem, SecurityRefusal, UserError, shown

NAME = "MLTable"
LARGEST = 64 * 1024  # bytes; an MLTable file is a page of text
DEEPEST = 16
TOP = ("$schema", "type", "paths", "transformations")
KINDS = ("file", "folder", "pattern")

# Transformation → option → the values that match what the readers do.
SUPPORTED: dict[str, dict[str, tuple[Any, ...]]] = {
    "read_json_lines": {
        "encoding": ("utf8", "utf-8"), "invalid_lines": ("error",), "include_path_column": (False,),
    },
    "read_delimited": {
        "delimiter": (), "header": ("all_files_same_headers", "all_files_different_headers", "no_header"),
        "encoding": ("utf8", "utf-8"), "include_path_column": (False,), "support_multi_line": (True,),
        "infer_column_types": (False,), "empty_as_string": (True,),
    },
    "read_parquet": {"include_path_column": (False,)},
}  # fmt: skip
FORMATS = {"read_json_lines": "jsonl", "read_delimited": "csv", "read_parquet": "parquet", "": ""}


@dataclass(frozen=True)
class Table:
    """The content of an MLTable file."""

    files: tuple[str, ...]
    """Names of its files, relative to the folder, in the order of `paths`."""
    format: str = ""
    """jsonl, csv or parquet; if empty, there is no transformation and each file's suffix decides."""
    delimiter: str = ""
    header: bool = True


def read_table(where: str, text: bytes, names: list[str]) -> Table:
    """Read the text of an MLTable file; `names` are the files of its folder, `where` the folder as the user wrote it.

    Raises SecurityRefusal for a path outside the folder, UserError with everything that is not supported.
    """
    place = f"{where.rstrip('/')}/{NAME}"
    value = _load(place, text)
    if not isinstance(value, dict) or not isinstance(value.get("paths"), list) or not value["paths"]:
        raise UserError(
            Problem("DATA-E2006", place, shown(value), "an object with a list of paths", "add paths: [{file: ./…}]")
        )
    problems = list(_unknown_keys(place, value))
    reader, options = _transformation(place, value.get("transformations") or [], problems)
    files: dict[str, None] = {}
    for number, entry in enumerate(value["paths"]):
        files |= dict.fromkeys(_matching(f"{place} paths[{number}]", entry, names, problems))
    if problems:
        raise UserError(problems)
    delimiter = options.get("delimiter", ",") if reader == "read_delimited" else ""
    return Table(tuple(files), FORMATS[reader], delimiter, options.get("header") != "no_header")


def _load(place: str, text: bytes) -> Any:
    """Parse YAML without objects and aliases: nine levels of aliases can expand to a billion values."""
    import yaml

    if len(text) > LARGEST:
        raise UserError(
            Problem("DATA-E2003", place, f"{len(text)} bytes", f"at most {LARGEST}", "list folders instead of files")
        )
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:  # PyYAML's time grows with the square of the depth
                raise UserError(
                    Problem("DATA-E2011", place, f"nesting {depth} deep", f"at most {DEEPEST}", "write plain values")
                )
            if isinstance(event, yaml.AliasEvent):
                raise UserError(
                    Problem("DATA-E2004", place, f"the alias *{event.anchor}",
                            "plain YAML without anchors and aliases", "write the value out")
                )  # fmt: skip
        return yaml.safe_load(text)
    # Those behind ValueError: what PyYAML's readers of tagged values raise for `!!bool maybe` and its like.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError, AttributeError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        said = str(getattr(error, "problem", None) or f"{type(error).__name__}: {error}").splitlines()[0]
        raise UserError(
            Problem("DATA-E2005", f"{place}:{mark.line + 1}" if mark else place, shown(said),
                    "YAML of plain values", "correct it; objects (!!python/…) are not allowed")
        ) from None  # fmt: skip


def _unknown_keys(place: str, value: dict[str, Any]) -> Iterator[Problem]:
    for key in value:
        if key not in TOP:
            yield Problem("DATA-E2007", f"{place} {key}", f"the key {shown(key)}", f"one of {', '.join(TOP)}",
                          "remove it")  # fmt: skip
    if value.get("type", "mltable") != "mltable":
        yield Problem("DATA-E2007", f"{place} type", shown(value["type"]), "mltable", "write type: mltable")


def _transformation(place: str, steps: Any, problems: list[Problem]) -> tuple[str, dict[str, Any]]:
    """Return the single reader and its options; append what is not supported to `problems`."""
    supported = "; ".join(f"{name} ({', '.join(options)})" for name, options in SUPPORTED.items())
    if not isinstance(steps, list) or len(steps) > 1:
        found = f"{len(steps)} transformations" if isinstance(steps, list) else shown(steps)
        problems.append(
            Problem("DATA-E2008", f"{place} transformations", found, f"one of {supported}",
                    "apply the others to the files, and keep one reader")
        )  # fmt: skip
        return "", {}
    if not steps:
        return "", {}
    name, options = next(iter(steps[0].items())) if isinstance(steps[0], dict) and steps[0] else (steps[0], None)
    if not isinstance(name, str) or name not in SUPPORTED:
        problems.append(
            Problem("DATA-E2008", f"{place} transformations[0]", f"the transformation {shown(name)}",
                    f"one of {supported}", "apply it to the files, and remove it")
        )  # fmt: skip
        return "", {}
    options = options if isinstance(options, dict) else {}
    for option, value in options.items():
        known = SUPPORTED[name].get(option)
        path = f"{place} transformations[0].{name}.{option}"
        if known is None:
            problems.append(
                Problem("DATA-E2009", path, f"the option {shown(option)}",
                        f"one of {', '.join(SUPPORTED[name])}", "remove it, after changing the files accordingly")
            )  # fmt: skip
        elif known and _plain(value) not in known:
            problems.append(
                Problem("DATA-E2009", path, shown(value), " or ".join(str(choice).lower() for choice in known),
                        "write one of them, after changing the files accordingly")
            )  # fmt: skip
        elif option == "delimiter" and (not isinstance(value, str) or len(value) != 1 or value in '"\r\n'):
            problems.append(Problem("DATA-E2009", path, shown(value), "one character", "write the delimiter itself"))
    return name, options


def _plain(value: Any) -> Any:
    """Convert the text 'true' to YAML's true: both are common in these files."""
    return {"true": True, "false": False}.get(value.lower(), value.lower()) if isinstance(value, str) else value


def _matching(place: str, entry: Any, names: list[str], problems: list[Problem]) -> list[str]:
    """List the files of one entry of `paths`. Raises SecurityRefusal for a path outside the folder."""
    if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in KINDS:
        problems.append(
            Problem("DATA-E2006", place, shown(entry), f"one of {', '.join(KINDS)} with a path", "correct the entry")
        )
        return []
    kind, path = next(iter(entry.items()))
    path = str(path)
    inside = posixpath.normpath(path)
    if "://" in path or path.startswith(("/", "~")) or inside.split("/")[0] == ".." or re.match(r"[A-Za-z]:", path):
        raise SecurityRefusal(
            Problem("DATA-E2001", place, f"{shown(path)}, outside the table's folder", "a path inside the folder",
                    "move the files into the folder, or pass them as train_file_path")
        )  # fmt: skip
    if kind == "file":
        found = [name for name in names if name == inside]
    elif kind == "folder":
        found = [name for name in names if inside == "." or name.startswith(inside + "/")]
    else:
        found = [name for name in names if _fits(name.split("/"), inside.split("/"))]
    found = [name for name in found if name != NAME]
    if not found:
        present = ", ".join(name for name in names[:6] if name != NAME) or "no file"
        problems.append(
            Problem("DATA-E2010", place, f"no file for the {kind} {shown(path)}",
                    f"a file in the folder, which contains {present}", "correct the path")
        )  # fmt: skip
    return found


def _fits(name: list[str], pattern: list[str]) -> bool:
    """Return whether a pattern matches a name, both by folders; `**` stands for any number of them.

    A regular expression of the whole pattern could take for ever, as each `*` tries every length.
    """
    reached = {0}  # how many parts of the name may be used up so far
    for part in pattern:
        if part == "**":
            reached = set(range(min(reached, default=len(name) + 1), len(name) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(name) and fnmatchcase(name[at], part)}
    return len(name) in reached
