"""Resolve the data parameters: list every file and data set of a split before any is opened.

The plan digests this list and prepare_data opens it, so both always use the same files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from steps.errors import Problem, UserError, shown, some_of
from steps.params.data import DataSource
from steps.params.mixture import read_mixture
from steps.sources import mltable, storage

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
TEXT_SUFFIX = ".txt"  # plain text, for the tasks that read it; in a folder only if it has no other files with rows
Notes = Callable[[str, str], None]
"""Called with a code (DATA-F… or DATA-W…) and a sentence."""

# Folders named split=…, as Hive and Spark write them → our splits.
SPLIT_WORDS = {"train": {"train", "training"}, "validation": {"validation", "valid", "val", "dev"}, "test": {"test"}}
HIVE_SPLIT = re.compile(r"(?:^|/)split=([^/]+)/")
NO_ROWS = re.compile(r"(?:^|/)(?:_(?:SUCCESS|temporary|committed_|started_|metadata|common_metadata|delta_log)|\.)")
SAVED = {"state.json", "dataset_info.json"}  # save_to_disk writes them beside the Arrow files
NAMES_SHOWN = 5


@dataclass(frozen=True)
class DataFile:
    """A file that holds rows."""

    parameter: str
    uri: str
    """The URI that opens it."""
    relative: str
    """Its path inside the given folder; empty if the file itself was given."""
    size: int
    identity: str = ""
    """Version or etag that an object store reports for its content."""
    weight: float = 1.0
    source: str = ""
    """Name of its source in counts and reports."""
    format: str = ""
    """If empty, the suffix and the content decide."""
    delimiter: str = ""
    header: bool = True


@dataclass(frozen=True)
class Dataset:
    """One split of a data set, read with the library datasets."""

    parameter: str
    name: str
    """Hub id, or the URI of a folder."""
    split: str
    config: str = "default"
    revision: str = ""
    weight: float = 1.0
    source: str = ""

    @property
    def on_hub(self) -> bool:
        """Return whether the name is a Hub id: it has no scheme, and no folder of that name exists."""
        local = storage.local_path(self.name)
        return local is not None and not local.exists() and bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.name))


Found = DataFile | Dataset
LINK_OUT = "DATA-E2001"


def suffix_of(name: str) -> str:
    """Return the suffix that names the format, in lower case: `.jsonl` for rows.jsonl.gz."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix == ".gz" else path.suffix


def look(split: str, given: DataSource, notes: Notes) -> list[Found]:
    """List all files and data sets that the parameters name for one split; empty if there are none.

    Raises UserError with the problems of all sources, SecurityRefusal for a path outside its folder, and the errors of
    `storage.find_files`.
    """
    found: list[Found] = []
    problems: list[Problem] = []
    for search in _searches(split, given, notes):
        try:
            found += search()
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    if len(found) > given.max_files:
        raise UserError(
            Problem("DATA-E0119", found[0].parameter, f"{len(found):,} files",
                    f"at most {given.max_files:,}, max_files", "join the files, or raise max_files")
        )  # fmt: skip
    return found


def digest(found: list[Found]) -> str:
    """Digest the current sources of a split: content of local files, etags, sizes and commits of others.

    Raises as `storage.digest_of` and `hub.resolve_dataset`.
    """
    from steps.artifacts import sha256_of

    made = hashlib.sha256()
    for one in found:
        if isinstance(one, Dataset):
            made.update(f"{one.name} {one.config} {one.split}\0{dataset_digest(one)}\n".encode())
            continue
        local = storage.local_path(one.uri)
        identity = sha256_of(local) if local else f"{one.size} {one.identity}"
        how = f"\0{one.format} {one.delimiter} {one.header}" if one.format else ""
        made.update(f"{one.relative}\0{identity}{how}\n".encode())
    return made.hexdigest()


def dataset_digest(one: Dataset) -> str:
    """Return the commit of a data set on the Hub, or the digest of its folder."""
    if not one.on_hub:
        return storage.digest_of(one.parameter, one.name)
    if re.fullmatch(r"[0-9a-f]{40}", one.revision):
        return one.revision
    from steps.sources import hub

    return hub.resolve_dataset(one.parameter, one.name, one.revision or "main")


def pinned(given: DataSource) -> DataSource:
    """Replace the revision of every data set on the Hub by its current commit. Raises as `digest`."""
    changes: dict[str, str] = {}
    mixture, _ = read_mixture(given.training_data) if given.training_data else (None, [])
    if mixture:
        parts = []
        for number, part in enumerate(mixture.datasets):
            found = _part(number, part, "train", _ignore_note) if part.dataset_name and part.sampling_weight else []
            revisions = [dataset_digest(one) for one in found if isinstance(one, Dataset) and one.on_hub]
            parts.append(part.model_copy(update={"dataset_revision": revisions[0]}) if revisions else part)
        changes["training_data"] = mixture.model_copy(update={"datasets": tuple(parts)}).model_dump_json()
    elif given.dataset_name:
        one = Dataset("dataset_name", given.dataset_name.strip(), given.dataset_split, revision=given.dataset_revision)
        if one.on_hub:
            changes["dataset_revision"] = dataset_digest(one)
    return given.model_copy(update=changes)


def pinned_split(split: str, given: DataSource) -> DataSource:
    """Do the same for data parameters of which only one held-out split is read."""
    name, part = given.dataset_name.strip(), _dataset_split(split, given)
    if not name or not part or getattr(given, f"{split}_file_path") or getattr(given, f"{split}_mltable_path"):
        return given
    one = Dataset("dataset_name", name, part, revision=given.dataset_revision)
    return given.model_copy(update={"dataset_revision": dataset_digest(one)}) if one.on_hub else given


def _ignore_note(code: str, what: str) -> None:
    """Ignore a note: it was reported when the source was searched."""


def description(split: str, given: DataSource) -> str:
    """Return the source of a split as the user wrote it; empty if there is none."""
    mltable_path, files = getattr(given, f"{split}_mltable_path"), getattr(given, f"{split}_file_path")
    if split == "train" and given.training_data:
        mixture, _ = read_mixture(given.training_data)
        return ", ".join(part.label for part in mixture.datasets if part.sampling_weight) if mixture else ""
    if mltable_path or files:
        return ", ".join((mltable_path or files).split("\n")).strip(", ")
    part = _dataset_split(split, given)
    return f"{given.dataset_name.strip()} ({part})" if given.dataset_name and part else ""


def _searches(split: str, given: DataSource, notes: Notes) -> Iterator[Callable[[], list[Found]]]:
    """Yield a search for each source of a split; MLTable takes precedence over files, files over a data set."""
    table, files = getattr(given, f"{split}_mltable_path").strip(), getattr(given, f"{split}_file_path").strip()
    dataset = _dataset_split(split, given) if given.dataset_name else ""
    if split == "train" and given.training_data:
        mixture, problems = read_mixture(given.training_data)
        if mixture is None:
            raise UserError(problems)
        for number, part in enumerate(mixture.datasets):
            if part.sampling_weight:
                yield lambda number=number, part=part: _part(number, part, split, notes)  # type: ignore[misc]
        return
    if table and files:
        notes("DATA-W2001", f"{split}_mltable_path takes precedence over {split}_file_path, which is not read")
    if (table or files) and dataset:
        winner = f"{split}_mltable_path" if table else f"{split}_file_path"
        notes("DATA-W2002", f"{winner} takes precedence over dataset_name, whose split {dataset} is not read")
    if table:
        yield lambda: _table(f"{split}_mltable_path", table)
    elif files:
        parameter = f"{split}_file_path"
        for uri in separate(parameter, files):
            yield lambda uri=uri: _files(parameter, uri, split, notes)  # type: ignore[misc]
    elif dataset:
        name = given.dataset_name.strip()
        yield lambda: [
            Dataset("dataset_name", name, dataset, given.dataset_config, given.dataset_revision, source=name)
        ]


def _dataset_split(split: str, given: DataSource) -> str:
    return given.dataset_split if split == "train" else str(getattr(given, f"dataset_{split}_split"))


def _part(number: int, part: Any, split: str, notes: Notes) -> list[Found]:
    """Find the files or data set of one source of a mixture."""
    parameter = f"training_data[{number}]"
    weight, label = part.sampling_weight, part.label
    if part.dataset_name:
        return [
            Dataset(parameter, part.dataset_name, part.dataset_split, part.dataset_config, part.dataset_revision,
                    weight, label)
        ]  # fmt: skip
    uris = separate(parameter, part.path)
    return [replace(one, weight=weight, source=label) for uri in uris for one in _files(parameter, uri, split, notes)]


def separate(parameter: str, text: str) -> list[str]:
    """Split a list at newlines and commas; a line is not split at commas if a file of that name exists."""
    uris = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        whole = "," not in line or ((local := storage.local_path(line)) is not None and local.exists())
        uris += [line] if whole else [part.strip() for part in line.split(",") if part.strip()]
    return uris


def _files(parameter: str, uri: str, split: str, notes: Notes) -> list[Found]:
    """Find the files or data set that one path, folder or pattern names."""
    if problems := storage.check_uri(parameter, uri):
        raise UserError(problems)
    if storage.is_pattern(uri):
        folder = storage.fixed_folder(uri)
        matches = storage.find_matches(parameter, uri)
        names = {name.removeprefix(folder): info for name, info in matches.items()}
        storage.refuse_links_out(parameter, folder, names, LINK_OUT)
        return _rows_of(parameter, uri, folder, names, split, notes)
    skipped: list[str] = []
    names = storage.find_files(parameter, uri, skipped)
    if "" in names:
        return [DataFile(parameter, uri, "", names[""]["size"], names[""]["identity"], source=uri)]
    if mltable.NAME in names:
        return _table(parameter, uri)
    storage.refuse_links_out(parameter, uri, names, LINK_OUT)
    if names.keys() >= SAVED or "dataset_dict.json" in names:
        return [Dataset(parameter, uri, split, source=uri)]
    if skipped:
        notes("DATA-F0113", f"{uri}: files without rows were skipped: {some_of(skipped, NAMES_SHOWN)}")
    return _rows_of(parameter, uri, uri.rstrip("/") + "/", names, split, notes)


def _rows_of(
    parameter: str, uri: str, folder: str, names: dict[str, dict[str, Any]], split: str, notes: Notes
) -> list[Found]:
    """Select the files of a folder or pattern that hold rows of this split; note which were left out."""
    hidden = [name for name in names if NO_ROWS.search(name)]
    if hidden:
        notes("DATA-F0113", f"{uri}: files without rows were skipped: {some_of(hidden, NAMES_SHOWN)}")
    seen = [name for name in sorted(names) if name not in hidden]
    rows = [name for name in seen if suffix_of(name) in SUFFIXES]
    rows = rows or [name for name in seen if suffix_of(name) == TEXT_SUFFIX]
    if not rows:
        what = "files" if seen else "nothing"
        held = f", which contains {some_of(seen, NAMES_SHOWN)}" if seen else ""
        raise UserError(
            Problem("DATA-E0113", parameter, f"{what} without rows at {uri}{held}" if seen else f"nothing at {uri}",
                    f"files ending in {', '.join(SUFFIXES)}, or .gz of them", "correct the path, or rename the files")
        )  # fmt: skip
    if strange := [name for name in rows if not name.isprintable()]:
        raise UserError(
            Problem("DATA-E0121", parameter, f"a file called {shown(strange[0])} at {uri}",
                    "names without control characters", "rename the file")
        )  # fmt: skip
    if others := [name for name in seen if name not in rows]:
        notes("DATA-W0113", f"{uri}: files without a suffix for rows were left out: {some_of(others, NAMES_SHOWN)}")
    rows = _of_split(parameter, uri, rows, split, notes)
    return [
        DataFile(parameter, folder + name, name, names[name]["size"], names[name]["identity"], source=uri)
        for name in rows
    ]


def _of_split(parameter: str, uri: str, names: list[str], split: str, notes: Notes) -> list[str]:
    """Keep the folders split=… of this split: the test rows of a table must not become training rows."""
    parts = {name: match[1].lower() for name in names if (match := HIVE_SPLIT.search(name))}
    if not parts:
        return names
    own = [name for name in names if parts.get(name, split) in SPLIT_WORDS[split]]
    if not own:
        raise UserError(
            Problem("DATA-E0117", parameter,
                    f"the folders {some_of(sorted({f'split={p}' for p in parts.values()}), NAMES_SHOWN)}",
                    f"split={split}", f"name the folder that holds the rows for {split}")
        )  # fmt: skip
    if left := sorted({f"split={parts[name]}" for name in names if name not in own}):
        notes("DATA-W0114", f"{uri}: {', '.join(left)} is not read for {split}")
    return own


def _table(parameter: str, uri: str) -> list[Found]:
    """Find the files of an MLTable folder."""
    if problems := storage.check_uri(parameter, uri):
        raise UserError(problems)
    names = storage.find_files(parameter, uri)
    if mltable.NAME not in names:
        raise UserError(
            Problem("DATA-E2002", parameter, f"no file {mltable.NAME} at {uri}", "the folder of an MLTable",
                    f"name the folder that holds {mltable.NAME}")
        )  # fmt: skip
    text = storage.read_bytes(parameter, storage.join(uri, mltable.NAME), mltable.LARGEST + 1)
    table = mltable.read_table(uri, text, sorted(names))
    storage.refuse_links_out(parameter, uri, table.files, LINK_OUT)
    return [
        DataFile(parameter, storage.join(uri, name), name, names[name]["size"], names[name]["identity"], 1.0, uri,
                 table.format, table.delimiter, table.header)
        for name in table.files
    ]  # fmt: skip
