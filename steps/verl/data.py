"""The parquet files that verl reads, made from the rows that prepare_data wrote.

    rows/train.parquet of the artifact   {"data_source", "prompt", "ability", "reward_model", "extra_info": JSON text}
    train.parquet for verl               {… the same five …, "extra_info": {"index": 0, …}, "images": [{"bytes": …}]}

extra_info becomes an object with the keys of all rows (null where a row lacks one); its index is a whole number, as in
verl's own data. The ground truths of searchR1_* are objects, which verl's rewards for them take; they become objects if
every row has one. Rewards of this project also get the prompt, which verl does not hand to a reward function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.errors import Problem, UserError, some_of
from steps.tasks import verl as task
from steps.tasks.rules.json_text import as_json

TRAIN, VALIDATION = "train", "validation"
PROMPT = "finetune_prompt"  # key of extra_info with the messages as JSON, for rewards of this project
IMAGES = "images"  # column of the rows that prepare_data writes
ROWS_WITH_IMAGES = 64
INDEX, NAMED = "index", "index_text"
SMALLEST, LARGEST = -(2**63), 2**63 - 1  # of a column of whole numbers


@dataclass(frozen=True)
class VerlFiles:
    """The files for verl."""

    train: Path
    validation: Path
    rows: dict[str, int]
    """Split → number of rows."""
    object_truths: bool
    """Whether ground truths are objects."""


def write_data(data: Path, folder: Path, own_rewards: bool = False, image_key: str = IMAGES) -> VerlFiles:
    """Write the files of both splits from the artifact `data` into `folder`.

    `image_key` is the column of the images, which is written if any row has some. With `own_rewards`, each row also
    has its prompt for them, and mixed ground truths stay texts. Raises UserError if a key of extra_info has values of
    different types, or verl's own rewards would get ground truths of both forms.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = {name: list(_rows(data / f"rows/{name}.parquet")) for name in (TRAIN, VALIDATION)}
    objects = _object_truths(splits, own_rewards)
    pictures = any(_has_images(data / f"rows/{name}.parquet") for name in splits)
    files = {}
    for name, rows in splits.items():
        files[name] = folder / f"{name}.parquet"
        made = _table([_for_verl(row, number, objects, own_rewards) for number, row in enumerate(rows)])
        if pictures:
            _write_with_images(files[name], made, data / f"rows/{name}.parquet", image_key)
        else:
            pq.write_table(made, files[name])
    counts = {name: len(rows) for name, rows in splits.items()}
    return VerlFiles(files[TRAIN], files[VALIDATION], counts, objects)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    columns = task.Columns()
    texts = [name for name in task.SCHEMA.names if name != IMAGES]  # images are copied a few rows at a time
    for batch in pq.ParquetFile(file).iter_batches(columns=texts):
        for row in batch.to_pylist():
            yield task.training_row(row, columns)


def _object_truths(splits: dict[str, list[dict[str, Any]]], own_rewards: bool) -> bool:
    """Return whether ground truths are objects. Raises UserError if verl's own rewards would get both forms."""
    sources: dict[bool, set[str]] = {True: set(), False: set()}
    for rows in splits.values():
        for row in rows:
            sources[isinstance(row["reward_model"]["ground_truth"], dict)].add(row["data_source"])
    if sources[True] and sources[False] and not own_rewards:
        raise UserError(
            Problem("VERL-E0201", "data_source", f"ground truths that are objects ({some_of(sorted(sources[True]), 3)})"
                    f" and texts ({some_of(sorted(sources[False]), 3)}) together", "one form for all rows",
                    "train them in separate runs, or set a reward function of your own, which gets all as texts",
                    why="a column of verl's files has one type")
        )  # fmt: skip
    return not sources[False]


def _for_verl(row: dict[str, Any], number: int, objects: bool, own_rewards: bool) -> dict[str, Any]:
    """Return a row with what verl and its rewards expect.

    {"extra_info": {"index": "a-7"}} as the fourth row → {"extra_info": {"index": 3, "index_text": "a-7"}}
    """
    truth = row["reward_model"]["ground_truth"]
    info = {**row["extra_info"]}
    index = info.get(INDEX)
    if not (type(index) is int and SMALLEST <= index <= LARGEST):
        info |= {INDEX: number, **({NAMED: str(index)} if index is not None else {})}
    if own_rewards:
        info[PROMPT] = as_json(row["prompt"], str)
    kept = truth if objects or isinstance(truth, str) else as_json(truth, str)
    return {**row, "reward_model": {**row["reward_model"], "ground_truth": kept}, "extra_info": info}


def _has_images(file: Path) -> bool:
    counted = pq.ParquetFile(file).iter_batches(ROWS_WITH_IMAGES, columns=[IMAGES])
    return any(batch.column(0).null_count < len(batch) for batch in counted if batch.num_columns)


def _write_with_images(file: Path, made: pa.Table, rows: Path, image_key: str) -> None:
    """Write the rows with their images, [{"bytes": …}], a few at a time."""
    kind = pa.list_(pa.struct([("bytes", pa.binary())]))
    start = 0
    with pq.ParquetWriter(file, made.schema.append(pa.field(image_key, kind))) as writer:
        for batch in pq.ParquetFile(rows).iter_batches(ROWS_WITH_IMAGES, columns=[IMAGES]):
            held = [[{"bytes": image} for image in images or ()] for images in batch.column(0).to_pylist()]
            part = made.slice(start, len(batch))
            writer.write_table(part.append_column(image_key, pa.array(held, kind)))
            start += len(batch)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    columns = {}
    for name in rows[0] if rows else ():
        columns[name] = _column(name, [_storable(row[name]) for row in rows])
    return pa.table(columns)


def _column(name: str, values: list[Any]) -> pa.Array:
    """Make a column; keys that no row has a value for are left out. Raises UserError for a key of two types."""
    if name != "extra_info":
        return pa.array(values, pa.string() if all(value is None for value in values) else None)
    keys = dict.fromkeys(key for value in values for key, item in value.items() if item is not None)
    fields, arrays, wrong = [], [], []
    for key in keys:
        try:
            arrays.append(pa.array([value.get(key) for value in values]))
            fields.append(pa.field(key, arrays[-1].type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            wrong.append(
                Problem("VERL-E0202", f"extra_info.{key}", f"values of different types ({str(error)[:60]})",
                        "one type in all rows", "write them in one form, such as text",
                        why="a column of verl's files has one type")
            )  # fmt: skip
    if wrong:
        raise UserError(wrong)
    return pa.StructArray.from_arrays(arrays, fields=fields)


def _storable(value: Any) -> Any:
    """Return a value without empty objects, for which a parquet file has no type."""
    if isinstance(value, dict):
        inside = {key: _storable(item) for key, item in value.items()}
        return inside or None
    return [_storable(item) for item in value] if isinstance(value, list) else value
