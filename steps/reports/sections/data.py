"""The data section: counts, findings, lengths, and samples with the tokens to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.artifacts import MANIFEST, has_manifest, read_manifest
from steps.reports.charts import length_chart
from steps.reports.facts import INPUTS, read
from steps.reports.page import Section

READS = "data"


def section(data: Path) -> Section:
    """Read the facts in the manifest of the artifact `data`, or what the evaluation artifact tells of it."""
    if not has_manifest(data):
        return Section("data", "Data", missing=f"The data folder has no {MANIFEST}.")
    told = data / INPUTS
    facts = (read(told).get("data") or {}) if told.is_file() else read_manifest(data, "data").facts
    splits = facts.get("splits") or {}
    if not splits:
        return Section("data", "Data", missing="The data manifest does not describe the splits.")
    train = splits.get("train") or {}
    chart = length_chart(train["histogram"], facts.get("max_length")) if train.get("histogram") else None
    return Section(
        "data", "Data", {**facts, "splits": splits, "chart": chart, "samples": _samples(facts.get("samples") or [])}
    )


def _samples(samples: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Join adjacent tokens of the same kind into runs, to reduce markup."""
    joined = []
    for sample in samples:
        runs: list[dict[str, Any]] = []
        for token in sample.get("tokens") or ():
            if runs and runs[-1]["supervised"] == token["supervised"]:
                runs[-1]["text"] += token["text"]
            else:
                runs.append(dict(token))
        joined.append(runs)
    return joined
