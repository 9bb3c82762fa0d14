"""Open the sources of a split: fetch and unpack files, so that they can be read.

Messages name a fetched or unpacked file as the user wrote it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from steps.artifacts import sha256_of
from steps.errors import Problem, UserError
from steps.params.data import DataSource
from steps.prepare_data.read.json_faults import Bounds
from steps.prepare_data.read.json_field import take_field
from steps.prepare_data.read.unpacking import MAGIC, unpack
from steps.sources import storage
from steps.sources.data_sources import Dataset, Found, Notes, look, suffix_of

START = 1024  # leading bytes of each file, compared before its whole content


@dataclass(frozen=True)
class SourceFile:
    """A local file with rows."""

    path: Path
    name: str
    """Its name in messages."""
    weight: float = 1.0
    """How often rows are drawn from its source, relative to the others."""
    source: str = ""
    """Name of its source in counts; a source may have several files."""
    format: str = ""
    """jsonl, json, csv, tsv, parquet or txt; if empty, name and content decide."""
    delimiter: str = ""
    """Delimiter of csv and tsv columns; if empty, the name decides."""
    escapechar: str = ""
    header: bool = True
    """Whether the first line of a csv or tsv file names the columns; if not, they are Column1, Column2, …"""
    folder: Path | None = None
    """Local folder that the file is in, which paths in its rows start from; None for a file that was fetched."""
    sample_by: str = "line"
    """What a row of a plain text is: line, paragraph or document."""
    max_row_mib: int = 64
    max_nesting: int = 64
    max_expand: int = 100

    @property
    def bounds(self) -> Bounds:
        """Limits of a JSON row."""
        return Bounds(self.max_row_mib, self.max_nesting)


def open_source(split: str, given: DataSource, scratch: Path, notes: Notes) -> list[SourceFile]:
    """Open all files and data sets that the parameters name for one split; empty if there are none.

    Fetched and unpacked files are written to `scratch`, which must exist as long as the files are read. `notes` is
    called with a code (DATA-F…, DATA-W…) and a sentence. Raises UserError with the problems of all files, and the
    errors of `steps.sources.data_sources.look`.
    """
    found = look(split, given, notes)
    folder = scratch / split
    folder.mkdir(parents=True, exist_ok=True)

    def open_one(number: int) -> SourceFile | list[Problem]:
        try:
            return _open(found[number], given, folder / str(number))
        except UserError as error:
            return error.problems

    with ThreadPoolExecutor(storage.DOWNLOADS_AT_ONCE) as pool:
        opened = list(pool.map(open_one, range(len(found))))
    if problems := [problem for one in opened if isinstance(one, list) for problem in one]:
        raise UserError(problems)
    files = [one for one in opened if isinstance(one, SourceFile)]
    _note_twins(files, notes)
    return files


def _open(one: Found, given: DataSource, place: Path) -> SourceFile:
    """Fetch, unpack or convert one file; files that are written have names that start with `place`."""
    opened = SourceFile(
        place, "", one.weight, one.source, escapechar=given.escapechar, max_row_mib=given.max_row_mib,
        max_nesting=given.max_nesting, max_expand=given.max_expand,
    )  # fmt: skip
    if isinstance(one, Dataset):
        from steps.prepare_data.read.dataset_rows import write_rows

        return replace(opened, path=write_rows(one, place), name=f"{one.name} ({one.split})", format="parquet")
    local = storage.local_path(one.uri)
    path = local or storage.fetch(one.parameter, one.uri, place)
    if not os.access(path, os.R_OK):
        raise UserError(
            Problem(
                "DATA-E0112",
                one.parameter,
                f"no permission to read {one.uri!r}",
                "a readable file",
                "change its permissions",
            )
        )
    if one.uri.lower().endswith(".gz"):
        path = _unpacked(path, one.uri, place.with_suffix(".unpacked"), given.max_expand)
    if given.json_field and suffix_of(one.uri) == ".json":
        path = take_field(path, one.uri, given.json_field, place.with_suffix(".rows"))
    delimiter = one.delimiter or given.delimiter
    folder = local.parent if local else None
    return replace(
        opened, path=path, name=one.uri, folder=folder, format=one.format, delimiter=delimiter, header=one.header
    )


def _unpacked(path: Path, name: str, target: Path, max_expand: int) -> Path:
    with open(path, "rb") as stream:
        first = stream.read(2)
    if first == MAGIC:
        return unpack(path, name, target, max_expand)
    what = f"bytes that are not gzip: {first!r}" if first else "0 bytes"
    raise UserError(
        Problem(
            "DATA-E0118",
            name,
            what,
            "a gzip file, because of its suffix",
            "remove .gz from the name, or compress the file",
        )
    )


def _note_twins(files: list[SourceFile], notes: Notes) -> None:
    """Warn of files with equal content: their rows would count twice."""
    alike: dict[tuple[int, bytes], list[SourceFile]] = defaultdict(list)
    for file in files:
        with open(file.path, "rb") as stream:
            alike[file.path.stat().st_size, stream.read(START)].append(file)
    for group in alike.values():
        if len(group) == 1:  # the usual case: only files with equal leading bytes are read completely
            continue
        first: dict[str, str] = {}
        for file in group:
            content = sha256_of(file.path)
            if content in first:
                notes("DATA-W0115", f"{file.name} has the same content as {first[content]}: its rows count twice")
            first.setdefault(content, file.name)
