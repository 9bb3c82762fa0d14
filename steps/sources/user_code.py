"""User functions, named as file.py:function: checked without running them, loaded by the step that calls them."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steps.errors import Problem, UserError, nearest, shown
from steps.sources import storage
from steps.sources.user_ends import contained


@dataclass(frozen=True)
class UserFunction:
    """File and name of a user function."""

    uri: str
    """The file, as the user wrote it."""
    name: str
    digest: str
    """Of the file's content."""
    arguments: ast.arguments = field(compare=False, repr=False)
    """As they stand in the file."""
    line: int = 0
    """Of its definition."""
    is_async: bool = False


@dataclass(frozen=True)
class LoadedFunction:
    """A user function that is loaded and can be called."""

    call: Callable[..., Any]
    uri: str
    name: str
    file: str
    """Path that it was loaded from, as it appears in tracebacks."""

    def place_of(self, error: BaseException) -> str:
        """Return the last line of the user's file in an exception's traceback: `clean.py:12`."""
        return place_of(error, self.uri, self.file)


def check_function(parameter: str, given: str) -> UserFunction:
    """Check that file.py:function exists and takes one argument, the row, without running the file.

    Raises UserError, and as `storage.find_files`.
    """
    found = find_function(parameter, given)
    arguments = found.arguments
    positional = [*arguments.posonlyargs, *arguments.args]
    needed = len(positional) - len(arguments.defaults)
    named = sum(default is None for default in arguments.kw_defaults)
    if found.is_async or needed > 1 or named or not (positional or arguments.vararg):
        raise UserError(
            Problem("DATA-E2203", f"{found.uri}:{found.line}",
                    f"{'async ' * found.is_async}{found.name}({ast.unparse(arguments)})",
                    "a function of one argument, the row", f"write it as def {found.name}(row):")
        )  # fmt: skip
    return found


def find_function(parameter: str, given: str) -> UserFunction:
    """Find file.py:function, sync or async, without running the file; the caller judges its arguments.

    Raises UserError, and as `storage.find_files`.
    """
    uri, name = _split(parameter, given)
    content = storage.read_bytes(parameter, uri)
    try:
        tree = ast.parse(content, uri)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last one by 100 brackets in brackets
        line, said = getattr(error, "lineno", None) or 0, str(getattr(error, "msg", error)) or "nested too deep"
        raise UserError(Problem("DATA-E2201", f"{uri}:{line}", shown(said), "Python", "correct it")) from None
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    if name not in functions:
        raise UserError(_no_function(parameter, uri, name, list(functions)))
    node = functions[name]
    digest = storage.digest_of(parameter, uri)
    return UserFunction(uri, name, digest, node.args, node.lineno, isinstance(node, ast.AsyncFunctionDef))


def load_function(parameter: str, given: str) -> LoadedFunction:
    """Run the file and return its function of one row. Raises as `check_function` and `load_found`."""
    return load_found(parameter, check_function(parameter, given))


def load_found(parameter: str, found: UserFunction) -> LoadedFunction:
    """Run the file and return its function. Raises UserError when the file itself fails."""
    with TemporaryDirectory() as scratch:
        # Absolute, as it stands in tracebacks.
        file = storage.fetch(parameter, found.uri, Path(scratch) / "user_code.py").absolute()
        spec = importlib.util.spec_from_file_location(f"user_code_{found.digest[:12]}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look up the module of a class there
        try:
            contained(spec.loader.exec_module, str(file))(module)
        except (Exception, SystemExit) as error:  # any error of the user's file is reported with its line
            del sys.modules[spec.name]
            raise UserError(
                Problem("DATA-E2204", place_of(error, found.uri, str(file)), shown(f"{type(error).__name__}: {error}"),
                        "a file that can be imported", "correct it, or add the package to the image")
            ) from error  # fmt: skip
    function = getattr(module, found.name)
    if not callable(function):
        raise UserError(_no_function(parameter, found.uri, found.name, []))
    return LoadedFunction(contained(function, str(file)), found.uri, found.name, str(file))


def place_of(error: BaseException, uri: str, file: str) -> str:
    """Return the last line of the user's file in an exception's traceback: `clean.py:12`."""
    line = 0
    traceback = error.__traceback__
    while traceback:
        if traceback.tb_frame.f_code.co_filename == file:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return f"{uri}:{line}" if line else uri


def _split(parameter: str, given: str) -> tuple[str, str]:
    uri, _, name = given.strip().rpartition(":")
    if not uri.endswith(".py") or not name.isidentifier():
        raise UserError(
            Problem("DATA-E2202", parameter, shown(given), "file.py:function", "name the file and the function in it")
        )
    if problems := storage.check_uri(parameter, uri):
        raise UserError(problems)
    return uri, name


def _no_function(parameter: str, uri: str, name: str, functions: list[str]) -> Problem:
    held = f", which defines {', '.join(functions[:8])}" if functions else ""
    return Problem("DATA-E2202", parameter, f"no function {name!r} in {uri}{held}",
                   "a function at the top level of the file",
                   nearest(name, functions) or "name one of them, or add it")  # fmt: skip
