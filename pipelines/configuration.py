"""Reads configuration files: parameters by name, or an experiment in sections, as YAML or JSON.

YAML 1.1 reads some plain words as something else: `no` (Norwegian) as false, `1:30` as 90, `2026-01-01` as a date,
`010` as 8, `1.10` as 1.1. A parameter that is a text gets the word as it is written, and any other parameter the value
that the word has after -p. Inside an object (`model_args: {…}`) words have their YAML value, but there are no dates and
no numbers in base 60.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.errors import Problem, UserError, nearest, shown
from steps.params.text_file import LONG_NUMBER, MOST_VALUES, decoded, read_json

if TYPE_CHECKING:
    from steps.params.group import Group

LARGEST_CONFIG = 1024 * 1024
DEEPEST = 64
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
INT = re.compile(r"[-+]?(0b[0-1_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)")
KINDS = {"list": "a list", "str": "one text", "NoneType": "an empty file", "int": "one number", "float": "one number"}

Words = dict[tuple[str | int, ...], str]
"""Place of a value → the word in the file, where YAML reads that word as something other than text."""


def read_config(file: Path) -> tuple[dict[str, Any], Words]:
    """Read a YAML or JSON file of parameters by name; also return the words that YAML reads as no text.

    Raises UserError if it cannot be read, is not a text file, invalid YAML, not a mapping, larger than LARGEST_CONFIG
    bytes, gives a key twice, or uses YAML aliases (which can expand without limit).
    """
    text = decoded(str(file), _content(file))
    if text.lstrip().startswith("{"):
        try:
            return read_json(text), {}
        except ValueError:
            pass  # YAML also writes mappings in braces, and says in which line an error is
    return _read_yaml(file, text)


def _content(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise _refused(file, "a folder" if file.is_dir() else "a device", "a YAML file", "name a file after -f")
        if size > LARGEST_CONFIG:
            raise _refused(file, f"{size} bytes", f"at most {LARGEST_CONFIG} bytes", "remove data from the file")
        return file.read_bytes()
    except FileNotFoundError:
        names = os.listdir(file.parent) if file.parent.is_dir() else []
        raise _refused(
            file, "no such file", "a YAML file", nearest(file.name, names) or "correct the path after -f"
        ) from None
    except PermissionError:
        raise _refused(file, "a file that you may not read", "a YAML file", "give yourself read access") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        found = getattr(error, "strerror", None) or str(error)
        raise _refused(file, found, "a YAML file", "correct the path after -f") from None


def _refused(file: Path, found: str, expected: str, fix: str, mark: Any = None) -> UserError:
    place = f"{file}:{mark.line + 1}" if mark else str(file)
    return UserError(Problem("CONFIG-E0101", place, found, expected, fix))


def _read_yaml(file: Path, text: str) -> tuple[dict[str, Any], Words]:
    import yaml

    try:
        _refuse_aliases(file, text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        words: Words = {}
        values = _value(file, node, (), words) if node else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "invalid YAML"
        problem = str(problem).removeprefix("but found ")
        fix = "indent with blanks, not with tabs" if "\\t" in problem else "correct that line"
        raise UserError(Problem("CONFIG-E0102", where, problem, "valid YAML", fix)) from None
    except (ValueError, OverflowError):  # of PyYAML's reader of "\\U00110000"
        raise UserError(
            Problem("CONFIG-E0102", str(file), "an escape of no character, such as \\U00110000", "valid YAML",
                    "write the character itself")
        ) from None  # fmt: skip
    if not isinstance(values, dict):
        kind = KINDS.get(type(values).__name__, "one value")
        raise _refused(file, kind, "a mapping of parameters", "write lines like learning_rate: 1e-5")
    return values, words


def _refuse_aliases(file: Path, text: str) -> None:
    import yaml

    depth, count = 0, 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        count += isinstance(event, yaml.NodeEvent)
        if count > MOST_VALUES:
            found = f"more than {MOST_VALUES:,} names and values"
            raise _refused(file, found, "the parameters of a run", "remove data from the file", event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            raise _refused(file, "a YAML alias (*name)", "no aliases", "write the value out")
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and LONG_NUMBER.fullmatch(event.value):
            found = f"a number of {len(event.value):,} characters"
            raise _refused(file, found, "a number that fits", "correct it", event.start_mark)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise _refused(file, f"nesting {depth} deep", f"at most {DEEPEST}", "write plain values")


def _value(file: Path, node: Any, place: tuple[str | int, ...], words: Words) -> Any:
    """Return the value of a YAML node; `words` gets the plain words that it reads as no text."""
    import yaml

    if not isinstance(node, yaml.ScalarNode) and node.tag not in COLLECTIONS:
        raise yaml.constructor.ConstructorError(None, None, f"the YAML tag {node.tag}", node.start_mark)
    if isinstance(node, yaml.MappingNode):
        return {key: _value(file, one, (*place, key), words) for key, one in _entries(file, node)}
    if isinstance(node, yaml.SequenceNode):
        return [_value(file, one, (*place, number), words) for number, one in enumerate(node.value)]
    loader: Any = yaml.SafeLoader("")
    quoted = node.style is not None  # or a block of text; a tag such as !!int still counts
    if not quoted and node.tag in TYPED and not _is_typed(node):
        node.tag = "tag:yaml.org,2002:str"
    elif not quoted and node.tag.endswith(":str") and FLOAT.fullmatch(node.value):  # YAML 1.1 reads 1e-5 as text
        node.tag = "tag:yaml.org,2002:float"
    try:
        value = float(node.value) if not quoted and node.tag.endswith(":float") and "." not in node.value else None
        value = loader.construct_object(node) if value is None else value
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # those of PyYAML's readers of tagged values
        raise yaml.constructor.ConstructorError(None, None, f"{shown(node.value)} ({error})", node.start_mark) from None
    if not quoted and not isinstance(value, str) and value is not None:
        words[place] = node.value
    return value


COLLECTIONS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
TYPED = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp")}


def _is_typed(node: Any) -> bool:
    """Return whether a word is a number also in YAML 1.2, which has neither dates nor numbers in base 60."""
    return bool((INT if node.tag.endswith(":int") else FLOAT).fullmatch(node.value.replace("_", "")))


def _entries(file: Path, node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a mapping, keys as they are written; raises UserError for a key that is given twice."""
    import yaml

    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            found = "a key that is a list or a mapping"
            raise yaml.constructor.ConstructorError(None, None, found, key.start_mark)
        if key.value in lines:
            raise UserError(
                Problem("CONFIG-E0106", f"{file}:{line}", f"{key.value} again, after line {lines[key.value]}",
                        "each name once", "remove one of the two lines")
            )  # fmt: skip
        lines[key.value] = line
        yield key.value, value


def as_declared(
    model: type[Group], values: dict[str, Any], words: Words, place: tuple[str | int, ...] = ()
) -> dict[str, Any]:
    """Give each parameter that is a text, or one of a few words, the word as it is in the file."""
    from steps.params.group import old_names

    names = old_names(model)
    declared = {}
    for name, value in values.items():
        here = (*place, name)
        if name == "overrides" and isinstance(value, dict):
            declared[name] = as_declared(model, value, words, here)
        else:
            declared[name] = written(model.model_fields.get(names.get(name, name)), value, here, words)
    return declared


def written(field: Any, value: Any, place: tuple[str | int, ...], words: Words) -> Any:
    """Return the value of one parameter as -p would pass it; `field` is its declaration, None if it has none."""
    if isinstance(value, list):
        return [written(field, one, (*place, number), words) for number, one in enumerate(value)]
    word = words.get(place)
    if word is None or field is None:
        return value
    if isinstance(value, bool):
        return value if field.annotation is bool else word
    return value if field.annotation in (int, float) and _is_decimal(word, value) else word


def _is_decimal(word: str, value: Any) -> bool:
    """Return whether a word is the same number in base 10, as it would be after -p; 010 is not, in YAML."""
    try:
        return float(word) == value
    except ValueError:
        return False
