"""How results look: plain lines in a terminal, tables in a notebook."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any


def lines(rows: Iterable[tuple[str, Any]]) -> str:
    """Return names and values in two columns; rows without a value are left out."""
    told = [(name, str(value)) for name, value in rows if value not in ("", None)]
    width = max((len(name) for name, _ in told), default=0) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in told)


def columns(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as text, each column as wide as its widest value."""
    whole = [[str(value) for value in row] for row in (heads, *rows)]
    widths = [max(len(row[place]) for row in whole) for place in range(len(heads))]
    return "\n".join("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
                     for row in whole)  # fmt: skip


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as HTML; addresses become links."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    text = html.escape(str(value))
    return f'<a href="{text}" target="_blank">{text}</a>' if text.startswith(("http://", "https://")) else text


class Shown(ABC):
    """Something with rows of names and values, which a terminal and a notebook show."""

    @abstractmethod
    def rows(self) -> list[tuple[str, Any]]:
        """Names and values."""

    def __repr__(self) -> str:
        return lines(self.rows())

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return table(("", ""), [row for row in self.rows() if row[1] not in ("", None)])


class ShownList(list[Any]):
    """A list of things that is shown as one table."""

    heads: tuple[str, ...] = ()

    def cells(self) -> list[Sequence[Any]]:
        """The values of each row."""
        return [[dict(one.rows()).get(head, "") or "" for head in self.heads] for one in self]

    def __repr__(self) -> str:
        return columns(self.heads, self.cells())

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return table(self.heads, self.cells())
