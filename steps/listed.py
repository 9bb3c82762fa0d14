"""What lists of artifacts and metrics show: KFP stores it as the metadata of an artifact, and shows no file.

KFP's driver writes the metadata of an artifact into the pods of all tasks that read it, so facts are few and short.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps.artifacts import Manifest, has_manifest, read_manifest

Fact = str | int | float | bool
LONGEST = 60  # characters of a text
MOST_METRICS = 10  # rows of a page in KFP's interface


def listed(folder: Path | str, base: Path | str | None = None) -> dict[str, Fact]:
    """Return the facts that a list shows of an artifact folder; `base` is the model that it was made from.

    A folder without a manifest has none.
    """
    if not has_manifest(Path(folder)):
        return {}
    manifest = read_manifest(Path(folder))
    tell = TOLD.get(manifest.kind, _weights)
    facts = {name: _short(value) for name, value in tell(manifest, Path(folder)).items() if value not in (None, "")}
    source = _source(Path(base)) if base else ""
    return {"base_model": _short(source), **facts} if source else facts


def few_metrics(measured: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of metrics.json that KFP's interface shows, at most MOST_METRICS.

    They are the gate's metric with the base's value, then the tuned model's others: the interface sorts them by name,
    on one page if they are so few. All of them, with the base's values, are in the report.
    """
    gate, base, tuned = measured["gate"]["metric"], measured["base"], measured["tuned"]
    rows = [(gate, tuned.get(gate)), (f"{gate}_base", base.get(gate))]
    rows += [(name, value) for name, value in tuned.items() if name != gate]
    return {name: _rounded(value) for name, value in rows[:MOST_METRICS] if value is not None}


def some_metrics(measured: dict[str, float | None]) -> dict[str, float]:
    """Do the same for metrics of one set of answers."""
    known = [(name, value) for name, value in measured.items() if value is not None]
    return {name: _rounded(value) for name, value in known[:MOST_METRICS]}


def given(folder: Path | str) -> str | None:
    """Return the path of a model or an adapter; None if the artifact only says that there is none to import."""
    return None if read_manifest(Path(folder)).facts.get("given") is False else str(folder)


def has_references(data: Path | str) -> bool:
    """Return whether prompts have right answers."""
    splits = read_manifest(Path(data), "data").facts["splits"].values()
    return any(split.get("references") for split in splits)


def _weights(manifest: Manifest, _folder: Path) -> dict[str, Any]:
    """Facts of a model, an adapter or a tool's result."""
    parameters = manifest.facts.get("parameters")
    counted = parameters if isinstance(parameters, dict) else {"total": parameters}
    size = sum(entry["size"] for entry in manifest.files.values())
    return {
        "base_model": manifest.lineage.get("source"),
        "kind": manifest.kind if manifest.kind != "model" else None,
        "same_as": manifest.same_as,
        "parameters": counted.get("total"),
        "trained": counted.get("trainable"),
        "steps": manifest.facts.get("steps"),
        "fits": manifest.facts.get("fits"),
        "size_mb": round(size / 1e6, 2) if manifest.files else None,
    }


def _data(manifest: Manifest, _folder: Path) -> dict[str, Any]:
    splits = manifest.facts.get("splits", {})
    return {("rows" if name == "train" else f"{name}_rows"): split.get("rows") for name, split in splits.items()}


def _evaluation(_manifest: Manifest, folder: Path) -> dict[str, Any]:
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    gate = measured["gate"]
    return {
        "passed": gate["passed"], "metric": gate["metric"], "score": gate["tuned"], "score_base": gate["base"],
        "rows": measured["rows"],
    }  # fmt: skip


def _registration(_manifest: Manifest, folder: Path) -> dict[str, Any]:
    registered = json.loads((folder / "registration.json").read_text(encoding="utf-8"))
    return {name: registered[name] for name in ("name", "version", "alias", "model_uri")}


def _plan(_manifest: Manifest, folder: Path) -> dict[str, Any]:
    planned = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    models = [source["uri"] for source in planned.get("sources") or () if source.get("what") == "model"]
    return {"base_model": models[0] if models else None, "warnings": len(planned.get("warnings") or ())}


def _generations(manifest: Manifest, _folder: Path) -> dict[str, Any]:
    return {name: manifest.facts.get(name) for name in ("rows", "answers", "engine")}


def _scores(_manifest: Manifest, folder: Path) -> dict[str, Any]:
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {name: measured.get(name) for name in ("rows", "answered", "judged")}


TOLD: dict[str, Callable[[Manifest, Path], dict[str, Any]]] = {
    "data": _data, "evaluation": _evaluation, "registration": _registration, "plan": _plan,
    "generations": _generations, "scores": _scores,
    "tokenizer": lambda _manifest, _folder: {},
    "mlflow_model": lambda _manifest, _folder: {},
    "trial": lambda manifest, _folder: manifest.facts,
    "sweep": lambda manifest, _folder: manifest.facts,
}  # fmt: skip


def _source(base: Path) -> str:
    """Return where a base model came from; a plain folder without a manifest does not say it."""
    return str(read_manifest(base).lineage.get("source", "")) if has_manifest(base) else ""


def _short(value: Any) -> Fact:
    """Return a number as it is, and a text without its beginning if it is long: the end of an address tells more."""
    if isinstance(value, float):
        return _rounded(value)
    if isinstance(value, int):
        return value
    text = str(value)
    return text if len(text) <= LONGEST else f"...{text[3 - LONGEST :]}"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
