"""Load a data set with the library datasets and write its rows as parquet.

`datasets` is imported only here in this step, and only if a data set is used.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from steps.artifacts import size_of
from steps.errors import Outage, OutOfResources, Problem, StepError, UserError
from steps.faults import known
from steps.sources import bounded, hub, storage
from steps.sources.data_sources import SAVED, Dataset

# Bytes that count as much as a second of the processor: fewer than one in a silence is that of waiting alone.
A_SECOND = bounded.LEAST


def write_rows(one: Dataset, place: Path) -> Path:
    """Load one split and write it to <place>.parquet.

    Raises UserError if the data set, configuration or split does not exist or its rows cannot be read; Outage if the
    Hub does not answer.
    """
    import datasets

    datasets.disable_progress_bars()
    target = place.with_suffix(".parquet")
    try:
        rows = _load(one, place)
        rows.to_parquet(str(target))
    except StepError:
        raise
    except Exception as error:  # the library raises dozens of classes; the message quotes them
        raise _explained(one, error) from error
    return target


def _load(one: Dataset, place: Path) -> Any:
    """Load from the Hub, from a folder of files with rows, or from a folder written by save_to_disk."""
    import datasets
    from huggingface_hub import constants

    cache = str(place.with_suffix(".cache"))
    if one.on_hub:
        revision = one.revision or None
        if not constants.is_offline_mode():  # at once, where the library would ask for half a minute
            revision = hub.resolve_dataset(one.parameter, one.name, one.revision or "main")
        load = partial(
            datasets.load_dataset, one.name, _config(one), split=one.split, revision=revision, cache_dir=cache
        )
        return load() if constants.is_offline_mode() else bounded.moving(load, partial(_progress, Path(cache)))
    folder = storage.fetch(one.parameter, one.name, place.with_suffix(".folder"))
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names >= SAVED:
        return datasets.load_from_disk(str(folder))
    if "dataset_dict.json" in names:
        splits = datasets.load_from_disk(str(folder))
        if one.split not in splits:
            raise UserError(_no_split(one, f"the splits {', '.join(splits)} in {one.name}"))
        return splits[one.split]
    return datasets.load_dataset(str(folder), _config(one), split=one.split, cache_dir=cache)


def _progress(cache: Path) -> int:
    """Return a number that grows while the library downloads, unpacks or reads: a hanging connection does neither."""
    return size_of(cache) + int(time.process_time() * A_SECOND)


def _config(one: Dataset) -> str | None:
    return None if one.config == "default" else one.config


def _no_split(one: Dataset, found: str) -> Problem:
    return Problem("DATA-E2102", one.parameter, found, f"a split {one.split!r}", "name one of those that exist")


def _explained(one: Dataset, error: Exception) -> StepError:
    """Turn an error of the library into one of ours, which says who must act."""
    said = _said(error)
    kind = type(error).__name__
    if "nknown split" in str(error):
        return UserError(_no_split(one, said))
    found = known(error, one.parameter)
    if isinstance(found, OutOfResources):
        return found
    if isinstance(found, Outage) or isinstance(error, ConnectionError) or "Offline" in kind:
        return Outage(
            Problem("DATA-E2104", one.parameter, said, f"an answer for the data set {one.name!r}",
                    "run again; without the Hub, pass a folder with the data set")
        )  # fmt: skip
    if kind in ("DatasetNotFoundError", "DataFilesNotFoundError", "EmptyDatasetError"):
        return UserError(
            Problem("DATA-E2101", one.parameter, said, "a data set that exists and is readable with HF_TOKEN",
                    "correct dataset_name, or accept the data set's terms on the Hub")
        )  # fmt: skip
    if "BuilderConfig" in str(error) or "onfig name is missing" in str(error):
        return UserError(
            Problem("DATA-E2103", one.parameter, said, f"a configuration {one.config!r} of {one.name}",
                    "set dataset_config to one of the configurations named here")
        )  # fmt: skip
    return UserError(
        Problem("DATA-E2105", one.parameter, said, f"rows of {one.name} that the library datasets can read",
                "pass its files as train_file_path, so that the message names the file and row")
    )  # fmt: skip


def _said(error: Exception) -> str:
    """Return the library's message on one line, taken from the cause, which holds the reason."""
    inner = error.__cause__ or error
    text = " ".join(f"{type(inner).__name__}: {inner}".split())
    return text if len(text) <= 150 else text[:149] + "…"
