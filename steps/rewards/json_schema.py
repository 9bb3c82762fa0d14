"""Reward of JSON that fits a schema (JSON Schema, draft 2020-12 unless the schema names another).

The JSON is the content of <answer>, else of the last ``` block, else everything behind the thoughts. NaN and Infinity
are not JSON. Schemas are not fetched: a $ref must stay inside the schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import Field

from steps.errors import Problem, shown
from steps.params.group import Group
from steps.rewards.library import Function, Judged, by_row
from steps.rewards.texts import without_thoughts
from steps.rewards.worker import Worker

LONGEST = 200_000  # characters of JSON


class Options(Group):
    """The schema, and what JSON earns that does not fit it."""

    json_schema: dict[str, Any] | str = ""
    """The schema, as an object or as JSON text; empty if every row has its own in `column`."""

    column: str = ""
    """Column with the schema of each row, if `json_schema` is empty."""

    valid_json: float = Field(0.0, ge=0, le=1)
    """Reward of JSON that does not fit the schema."""

    timeout_seconds: float = Field(5.0, ge=0.1, le=60)
    """Computing time of one check; a text on which it runs out earns 0."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield the problems of a missing or wrong schema."""
        if bool(self.json_schema) == bool(self.column):
            yield Problem("REWARD-E0222", "json_schema", "both" if self.column else "neither json_schema nor column",
                          "a schema, or a column of schemas", "set one of them")  # fmt: skip
        elif self.json_schema:
            wrong = _worker(60.0).run("schema", _as_text(self.json_schema))
            if wrong != "":
                yield Problem("REWARD-E0214", "json_schema", shown(self.json_schema),
                              f"a JSON schema ({wrong or 'its check takes more than a minute'})",
                              "correct it")  # fmt: skip


def columns(options: Options) -> tuple[str, ...]:
    """Return the column of schemas, if each row has its own."""
    return (options.column,) if options.column else ()


def reward(options: Options) -> Function:
    """Return the reward: 1 if it fits, valid_json if it is JSON, else 0; None for a row without a schema of its own."""
    worker = _worker(options.timeout_seconds)

    def judge(text: str, schema: Any = options.json_schema) -> Judged:
        given = _as_text(schema) if isinstance(schema, str | dict) and schema else ""
        if not given or (options.column and worker.run("schema", given) != ""):
            return Judged(None)
        found = _json_in(text)
        verdict = worker.run("fits", given, found) if len(found) <= LONGEST else None
        return Judged({"fits": 1.0, "json": options.valid_json}.get(verdict or "", 0.0), found)

    return by_row(judge, columns(options))


def _json_in(text: str) -> str:
    text = without_thoughts(text)
    if "<answer>" in text:
        text = text.rsplit("<answer>", 1)[1].split("</answer>", 1)[0]
    parts = text.split("```")
    if len(parts) >= 3:  # the text in a block is every second part; the last closed block counts
        text = parts[len(parts) - 2 if len(parts) % 2 else len(parts) - 3]
        first, _, rest = text.partition("\n")
        text = rest if first.strip().isalpha() else text
    return text.strip()


def _as_text(schema: dict[str, Any] | str) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema)


@cache
def _worker(seconds: float) -> Worker:
    return Worker("steps.rewards.json_checked:judge", seconds)
