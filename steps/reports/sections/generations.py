"""The generations section: throughput, lengths, stop reasons and the first answers of batch inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.artifacts import MANIFEST, has_manifest, read_manifest
from steps.reports.charts import length_chart
from steps.reports.facts import FIRST_SHARD
from steps.reports.formats import cut
from steps.reports.page import Section

READS = "generations"

ANSWERS_SHOWN = 8
REASONS = {"stop": "ended by themselves", "length": "ended at the longest allowed length"}


def section(generations: Path) -> Section:
    """Read the facts in the manifest of the artifact `generations`, and the first answers."""
    if not has_manifest(generations):
        return Section("generations", "Generations", missing=f"The folder of the generations has no {MANIFEST}.")
    manifest = read_manifest(generations, "generations")
    facts = manifest.facts
    decoding = (manifest.lineage.get("settings") or {}).get("decoding") or {}
    charts = {
        name: length_chart(facts[f"{name}_length"]["histogram"], limit, of)
        for name, of, limit in (("prompt", "prompts", None),
                                ("completion", "answers", decoding.get("max_new_tokens") or None))
    }  # fmt: skip
    return Section(
        "generations",
        "Generations",
        {
            **facts,
            "reasons": _reasons(facts),
            "charts": charts,
            "limit": decoding.get("max_new_tokens") or None,
            "shown": _first(generations / FIRST_SHARD) if (generations / FIRST_SHARD).is_file() else [],
        },
    )


def _reasons(facts: dict[str, Any]) -> list[dict[str, Any]]:
    counts, total = facts["finish_reasons"], facts["answers"]
    return [
        {"name": name, "told": told, "count": counts.get(name, 0), "share": 100 * counts.get(name, 0) / total}
        for name, told in REASONS.items()
    ]


def _first(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    shards = pq.ParquetFile(file)
    wanted = ["row", "sample", "prompt_text", "messages", "reference", "generations", "finish_reason", "truncated"]
    columns = [name for name in wanted if name in shards.schema_arrow.names]
    batch = next(shards.iter_batches(ANSWERS_SHOWN, columns=columns), None)
    return [_shown(row) for row in batch.to_pylist()] if batch else []


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    prompt = row["prompt_text"]
    if prompt is None:  # a server renders conversations itself
        prompt = "\n".join(f"{one['role']}: {one['content']}" for one in row.get("messages") or ())
    return {
        **row,
        "prompt": cut(prompt),
        "answer": cut(row["generations"]),
        "reference": None if row["reference"] is None else cut(row["reference"]),
    }
