"""A local run for the user: its folder, result.json and the summary at the end."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

from pipelines.catalog import PIPELINES
from pipelines.local import LocalRun, StepFailed, default_store, run_local
from steps.params.group import merged
from steps.params.reading import Reading, read_parameters


def run(name: str, given: dict[str, Any], root: Path, cache: bool, quiet: bool) -> dict[str, Any]:
    """Run a pipeline and write `<root>/<pipeline>-<time>/result.json`, also if a step fails; return its content.

    Raises UserError for a wrong parameter, before anything is written.
    """
    reading = read_parameters(name, given)
    folder = _new_folder(root, name)
    show = (lambda line: None) if quiet else _Terminal().show
    started = time.monotonic()
    done = LocalRun(folder)
    error = None
    try:
        # Pass the values as the user wrote them: the plan reports requested and effective values.
        published = PIPELINES[name]
        done = run_local(published.load(), _passable(name, given), root, folder, cache, show, warm=published.trains)
    except StepFailed as failure:
        error = failure.outcome
    result = _result(reading, done, error, root, time.monotonic() - started)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
    return result


class _Terminal:
    """Prints a run's lines; on a terminal, each line of a training step overwrites the previous one."""

    def __init__(self) -> None:
        self.replaces = sys.stdout.isatty()
        self._open = False

    def show(self, line: str) -> None:
        passing = self.replaces and line.startswith("step ") and "loss" in line
        start = "\r\033[K" if passing and self._open else "\n" if self._open else ""
        click.echo(f"{start}{line}", nl=not passing)
        self._open = passing


def _new_folder(root: Path, name: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = root / f"{name}-{stamp}"
    number = 2
    while folder.exists():
        folder = root / f"{name}-{stamp}-{number}"
        number += 1
    folder.mkdir(parents=True)
    return folder.absolute()


def _passable(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Pass all parameters in `overrides`: KFP's types would reject text such as "1e-5" before the plan reads it."""
    values = {key: value for key, value in given.items() if key != "overrides" and value is not None}
    return {"overrides": merged(PIPELINES[name].parameters, values, given.get("overrides") or {})}


def _result(
    reading: Reading, done: LocalRun, error: dict[str, Any] | None, root: Path, seconds: float
) -> dict[str, Any]:
    folder = done.folder
    outputs = done.outputs
    metrics: dict[str, Any] = {}
    if "evaluation_result" in outputs:
        metrics = json.loads(Path(outputs["evaluation_result"], "metrics.json").read_text("utf-8"))
    artifacts = {key: value for key, value in outputs.items() if isinstance(value, str)}
    if "report" in artifacts:
        artifacts["report"] = str(shutil.copyfile(artifacts["report"], folder / "report.html"))
    if "tuned" in artifacts:
        merged = json.loads(Path(artifacts["merged"], "manifest.json").read_text("utf-8"))
        artifacts["model"] = artifacts[merged["same_as"] or "merged"]
    return {
        "pipeline": reading.pipeline,
        "status": "failed" if error else "succeeded",
        "parameters": {
            "requested": reading.requested,
            "effective": reading.parameters.model_dump(mode="json", exclude={"overrides"}),
        },
        "metrics": {which: metrics.get(which, {}) for which in ("base", "tuned")},
        "gate": metrics.get("gate"),
        "registered": _registered(done.records),
        "artifacts": artifacts,
        "steps": [{"step": record["step"], "seconds": record.get("seconds")} for record in done.records],
        "reused": done.reused,
        "seconds": round(seconds, 1),
        "folder": str(folder),
        "tracking_uri": getattr(reading.parameters, "mlflow_server_uri", "") or _store(root),
        "error": error,
    }


def _store(root: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or default_store(root)


def _registered(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    for record in records:
        if record["step"] == "register-model" and not record["error"]:
            file = Path(record["paths"]["registration"], "registration.json")
            if file.is_file():
                return json.loads(file.read_text("utf-8"))
    return None


def screen(result: dict[str, Any]) -> str:
    """Format a result for a terminal: metrics of base and tuned model, gate, version and paths."""
    lines = ["", f"{result['pipeline']}  {result['status']} in {result['seconds']:.0f} s", ""]
    if error := result["error"]:
        return "\n".join([*lines, *error["problems"], "", f"log     {result['folder']}/log.txt"])
    if not PIPELINES[result["pipeline"]].trains:
        return "\n".join([*lines, f"result  {result['artifacts'].get('result', '')}", *_reused(result),
                          f"facts   {result['folder']}/result.json"])  # fmt: skip
    base, tuned = result["metrics"]["base"], result["metrics"]["tuned"]
    both = [name for name in tuned if name in base]
    width = max(map(len, both), default=0) + 4
    lines.append(f"  {'':<{width}}{'base':>12}{'tuned':>12}")
    lines += [f"  {name:<{width}}{base[name]:>12.4f}{tuned[name]:>12.4f}" for name in both]
    gate = result["gate"] or {}
    lines += ["", f"gate    {gate.get('reason', '')}"]
    if version := result["registered"]:
        alias = f", alias {version['alias']}" if version.get("alias") else ""
        lines.append(f"version {version['name']} {version['version']}{alias}  ({version['model_uri']})")
    else:
        lines.append("version none registered")
    lines += _reused(result)
    lines += [
        "",
        f"report  {result['artifacts'].get('report', '')}",
        f"model   {result['artifacts'].get('model', '')}",
        f"mlflow  {result['tracking_uri']}",
        f"result  {result['folder']}/result.json",
    ]
    return "\n".join(lines)


def _reused(result: dict[str, Any]) -> list[str]:
    if not result["reused"]:
        return []
    return [f"reused  {', '.join(result['reused'])}: their inputs did not change"]
