"""The lines of a run as they come: printed, and those of a training's progress each in the place of the one before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click


def shown_lines(show: bool = True) -> Callable[[str], None]:
    """Return what takes the lines of one run: for a cell of a notebook, for a terminal, or for nobody."""
    if not show:
        return lambda line: None
    return _Cell().show if _in_notebook() else Terminal().show


def is_progress(line: str) -> bool:
    """Return whether a line tells how far a training is, or the answers to rows."""
    return (line.startswith("step ") and "loss" in line) or (line.startswith("row ") and "tokens/s" in line)


class Terminal:
    """Prints the lines of a run; on a terminal each line of progress overwrites the one before."""

    def __init__(self) -> None:
        self.replaces = sys.stdout.isatty()
        self._open = False

    def show(self, line: str) -> None:
        """Print a line."""
        passing = self.replaces and is_progress(line)
        start = "\r\033[K" if passing and self._open else "\n" if self._open else ""
        click.echo(f"{start}{line}", nl=not passing)
        self._open = passing


class _Cell:
    """Prints the lines of a run into a cell, in which all progress of a training is one output that changes."""

    def __init__(self) -> None:
        self._progress: Any = None

    def show(self, line: str) -> None:
        from IPython.display import display

        if not is_progress(line):
            self._progress = None
            print(line, flush=True)
        elif self._progress:
            self._progress.update({"text/plain": line}, raw=True)
        else:
            self._progress = display({"text/plain": line}, raw=True, display_id=True)


class Line:
    """One line that changes: in its place on a terminal and in a cell, and printed anew elsewhere."""

    def __init__(self) -> None:
        self._in_place = sys.stdout.isatty()
        self._cell = _in_notebook()
        self._display: Any = None
        self._open = False

    def show(self, line: str) -> None:
        """Show the line instead of the one before."""
        if self._cell:
            self._show_in_cell(line)
        elif self._in_place:
            click.echo(f"\r\033[K{line}", nl=False)
            self._open = True
        else:
            click.echo(line)

    def _show_in_cell(self, line: str) -> None:
        from IPython.display import display

        if self._display:
            self._display.update({"text/plain": line}, raw=True)
        else:
            self._display = display({"text/plain": line}, raw=True, display_id=True)

    def end(self) -> None:
        """End the line."""
        if self._open:
            click.echo()
            self._open = False


def _in_notebook() -> bool:
    """Return whether a kernel runs this: its front end can change what it has displayed."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")
