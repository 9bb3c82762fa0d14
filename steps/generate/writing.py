"""From the journal to the artifact: shards of Parquet and a list in YAML, in the order of the input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from steps.artifacts import Draft, has_manifest, read_manifest
from steps.generate.answering import Inputs
from steps.generate.columns import Columns
from steps.generate.counting import Tally
from steps.generate.journal import Journal, read_at
from steps.generate.rows import InputRow, InputRows
from steps.generate.survey import Survey
from steps.generate.yaml_list import TEST_TYPE, YamlList
from steps.redaction import masked

ROW_GROUP = 512  # rows of the input
ANSWERS_FILE = "answers.yaml"
OPEN_INPUT = "open-input"  # the name of prompts that no file holds, as in the seed
PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "version": "2.6"}

Answered = tuple[InputRow, list[dict[str, Any]]]


def shard(number: int) -> str:
    """Return the name of a shard."""
    return f"generations_{number:05}.parquet"


def write_answers(draft: Draft, inputs: Inputs, rows: InputRows, journal: Journal, seen: Survey) -> Tally:
    """Write all answers of a whole journal; return their numbers."""
    decoding = inputs.settings.decoding
    columns = Columns(seen, decoding.logprobs)
    dataset, collection = _source(inputs.data)
    tally = Tally()
    with open(draft / ANSWERS_FILE, "w", encoding="utf-8") as stream:
        listed = YamlList(stream, gen_params(inputs))
        for segment in range(rows.segments):
            with pq.ParquetWriter(draft / shard(segment), columns.schema, **PARQUET) as writer:
                for group in _groups(_answered(rows, journal, segment, decoding.num_return_sequences)):
                    writer.write_table(columns.table(group))
                    for row, answers in group:
                        tally.add(row.reference, answers)
                        for answer in answers:
                            listed.append(_entry(row, answer, answers[0].get("prompt_text"), dataset, collection))
    return tally


def _answered(rows: InputRows, journal: Journal, segment: int, samples: int) -> Iterator[Answered]:
    """Give the rows of a segment with their answers. Raises KeyError if one is missing, which is a bug."""
    places = journal.places(segment)
    with ExitStack() as stack:
        opened: dict[Path, IO[bytes]] = {}
        stack.callback(lambda: [file.close() for file in opened.values()])
        for row in rows.between(*rows.bounds(segment)):
            yield row, [read_at(places[row.number, sample], opened) for sample in range(samples)]


def _groups(answered: Iterator[Answered]) -> Iterator[list[Answered]]:
    while group := list(islice(answered, ROW_GROUP)):
        yield group


def _entry(row: InputRow, answer: dict[str, Any], prompt: str | None, dataset: str, collection: str) -> dict[str, Any]:
    given = row.text if row.messages is None else row.messages
    return {
        "dataset": dataset,
        "id": row.id if row.id is not None else row.number,
        "prompt": given,
        "answer": answer["text"],
        "correct_answers": [] if row.reference is None else [row.reference],
        "test_type": TEST_TYPE,
        "data_collection": collection,
        "truncated": answer["truncated"],
        "all_text_raw": (prompt or "") + answer["text"],
    }


def gen_params(inputs: Inputs) -> dict[str, Any]:
    """Return the settings of the answers, with those of the model and of its quantisation."""
    settings = inputs.settings
    engine = settings.engine
    model = {
        "model": engine.endpoint_model if inputs.model is None else source_of(inputs.model),
        "adapter": None if inputs.adapter is None else source_of(inputs.adapter),
        "inference_type": engine.inference_type,
        "inference_precision": engine.inference_precision,
    }
    if engine.endpoint_url:
        model["endpoint_url"] = engine.endpoint_url
    told = settings.decoding.model_dump(mode="json")
    told |= {"quant_conf": settings.quantisation.model_dump(mode="json"), "model_conf": model}
    return dict(masked(told))


def source_of(folder: Path) -> str:
    """Return where a model came from, as its manifest tells; else its folder's name."""
    if has_manifest(folder):
        told = read_manifest(folder).lineage.get("source")
        told = told.get("uri") if isinstance(told, dict) else told
        if isinstance(told, str) and told:
            return told
    return folder.name


def _source(data: Path) -> tuple[str, str]:
    """Return the name of the data set, and where it came from."""
    splits = read_manifest(data, "data").facts.get("splits") or {}
    source = (splits.get("test") or {}).get("source") or OPEN_INPUT
    name = str(source).rstrip("/").rpartition("/")[2]
    return name.partition(".")[0] or name, str(masked(source))
