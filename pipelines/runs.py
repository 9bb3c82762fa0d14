"""A plan and a run on this machine: the run's folder, result.json, and the summary at the end."""

from __future__ import annotations

import json
import os
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from pipelines.catalog import PIPELINES
from pipelines.live import Terminal
from pipelines.local import LocalRun, StepFailed, environment, run_local
from pipelines.outputs import refuse_in_uri, refuse_unwritable
from pipelines.scratch import scratch_folder
from steps.errors import StepError
from steps.params.group import merged
from steps.params.reading import Reading, read_parameters
from steps.params.registration import database_in
from steps.params.secrets import without_credentials
from steps.running import LOCAL_ROOT, MANIFEST, attempt, masked, run_here, write_durably


def plan(name: str, given: dict[str, Any], root: Path, folder: Path) -> None:
    """Print what would run, and write it to `folder`: plan/plan.json and plan.html.

    Raises the plan's StepError, with every problem of one kind. `root` is where a run would write.
    """
    os.environ[LOCAL_ROOT] = str(root.absolute())
    attempt("plan", pipeline=name, arguments=given, plan=folder / "plan", report=folder / "plan.html")


def run(name: str, given: dict[str, Any], root: Path, cache: bool, quiet: bool) -> dict[str, Any]:
    """Run a pipeline and write `<root>/<pipeline>-<time>/result.json`, also if a step fails; return its content.

    Raises UserError before anything is written if a parameter is invalid, or nothing can be written to `root`.
    """
    refuse_unwritable("--root", root)
    refuse_in_uri("--root", root)
    reading = read_parameters(name, given)
    folder = _new_folder(root, name)
    show = (lambda line: None) if quiet else Terminal().show
    started = time.monotonic()
    done = LocalRun(folder)
    published = PIPELINES[name]
    # Pass the parameters as the user wrote them, so that the plan can report requested and effective values.
    passed = _passable(name, given)
    try:
        with scratch_folder() as scratch:
            planned, error = _plan(name, passed, root, scratch)
            if not error:
                warm = published.parameters.loads_weights
                done = run_local(published.load(), passed, root, folder, cache, show, warm, planned)
    except StepFailed as failure:
        error, done = failure.outcome, failure.run
        done.outputs = _finished(done.records)
    result = _told(_result(reading, done, error, root, time.monotonic() - started))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "result.json", json.dumps(result, indent=1, ensure_ascii=False), bool(error))
    return result


def _write(file: Path, text: str | bytes, failed: bool) -> None:
    """Write a file whole or not at all; that the disk is full is no news of a run that has failed."""
    with suppress(OSError) if failed else nullcontext():
        write_durably(file, text)


def _plan(name: str, passed: dict[str, Any], root: Path, scratch: Path) -> tuple[Path | None, dict[str, Any] | None]:
    """Plan in this process, before KFP is loaded; return the folder with the plan for its task, or the plan's error.

    Returns neither after an unexpected exception: the plan's task will meet it too and write it to log.txt.
    """
    try:
        with environment(root):
            places = {"plan": scratch / "plan", "report": scratch / "report.html"}
            made = run_here("plan", pipeline=name, arguments=passed, **places)
    except StepError as problem:
        return None, problem.as_json("plan")
    except Exception:
        return None, None
    (scratch / "outputs.json").write_text(json.dumps(made._asdict()), encoding="utf-8")
    return scratch, None


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


def _told(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without credentials; the paths that others read from it stay, as --root holds none."""
    paths = {name: result[name] for name in ("artifacts", "folder", "uses") if name in result}
    return {**masked(result, without_credentials), **paths}


def _finished(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the outputs of the steps that were finished before one failed, as far as later steps name them."""
    outputs: dict[str, Any] = {}
    for record in records:
        for key, path in (record.get("paths") or {}).items():
            name = {"evaluation": "evaluation_result"}.get(key, key)
            own = name == "report" and record["step"] == "report" and not record["error"]  # others have one too
            kept = ("plan", "data", "tuned", "merged", "evaluation_result", "generations")
            if own or (name in kept and _is_whole(path)):
                outputs[name] = path
    return outputs


def _is_whole(path: str) -> bool:
    return Path(path, MANIFEST).is_file()


def _result(
    reading: Reading, done: LocalRun, error: dict[str, Any] | None, root: Path, seconds: float
) -> dict[str, Any]:
    folder = done.folder
    outputs = done.outputs
    metrics: dict[str, Any] = {}
    if "evaluation_result" in outputs:
        metrics = json.loads(Path(outputs["evaluation_result"], "metrics.json").read_text("utf-8"))
    artifacts = {key: value for key, value in outputs.items() if isinstance(value, str)}
    if named := _path_of(done.records, "register-model", "registration", "report.html"):
        artifacts["report"] = named  # the same report, with the registered version
    if scored := _path_of(done.records, "score", "scores", "metrics.json"):
        artifacts["scores"] = str(Path(scored).parent)
        metrics["answers"] = json.loads(Path(scored).read_text("utf-8"))["answers"]
        artifacts["report"] = _path_of(done.records, "score", "report", "")  # the same report, with the scores
    if "report" in artifacts:
        _write(folder / "report.html", Path(artifacts["report"]).read_bytes(), bool(error))
        if (folder / "report.html").is_file():
            artifacts["report"] = str(folder / "report.html")
    if {"tuned", "merged"} <= set(artifacts):
        merged = json.loads(Path(artifacts["merged"], MANIFEST).read_text("utf-8"))
        artifacts["model"] = artifacts[merged["same_as"] or "merged"]
    return {
        "pipeline": reading.pipeline,
        "status": "failed" if error else "succeeded",
        "parameters": {
            "requested": reading.requested,
            "effective": _effective(reading, done),
        },
        "metrics": {
            **{which: metrics.get(which, {}) for which in ("base", "tuned")},
            **({"answers": metrics["answers"]} if "answers" in metrics else {}),
        },
        "gate": metrics.get("gate"),
        "registered": _registered(done.records),
        "artifacts": artifacts,
        "steps": [{"step": record["step"], "seconds": record.get("seconds")} for record in done.records],
        "reused": done.reused,
        "seconds": round(seconds, 1),
        "folder": str(folder),
        "uses": _uses(done, root),
        "tracking_uri": getattr(reading.parameters, "mlflow_server_uri", "") or _store(root),
        "error": error,
    }


def _effective(reading: Reading, done: LocalRun) -> dict[str, Any]:
    """Return the effective parameters: from plan.json, or as they were read if the plan wrote none."""
    written = [record["paths"]["plan"] for record in done.records if record["step"] == "plan" and not record["error"]]
    for folder in (*written, done.outputs.get("plan")):
        if folder and (file := Path(folder, "plan.json")).is_file():
            return dict(json.loads(file.read_text("utf-8"))["effective"])
    return reading.parameters.model_dump(mode="json", exclude={"overrides"})


def _store(root: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or database_in(root)


def _uses(done: LocalRun, root: Path) -> list[str]:
    """Return the folders of earlier runs of which this one used a result; they must stay as long as it does."""
    paths = [path for record in done.records for path in record.get("paths", {}).values()]
    paths += [value for value in done.outputs.values() if isinstance(value, str)]
    place = root.absolute()
    inside = [Path(path).relative_to(place) for path in paths if Path(path).is_relative_to(place)]
    return sorted({str(place / path.parts[0]) for path in inside if path.parts[1:2] == ("steps",)} - {str(done.folder)})


def _path_of(records: list[dict[str, Any]], step: str, name: str, file: str) -> str:
    """Return the path of a file in a folder that a step wrote, if it ran and the file exists; else an empty string."""
    folders = [record["paths"].get(name, "") for record in records if record["step"] == step and not record["error"]]
    return next((str(Path(folder, file)) for folder in folders if folder and Path(folder, file).is_file()), "")


def _registered(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    for record in records:
        if record["step"] == "register-model" and not record["error"]:
            file = Path(record["paths"]["registration"], "registration.json")
            if file.is_file():
                return json.loads(file.read_text("utf-8"))
    return None


def screen(result: dict[str, Any]) -> str:
    """Format a result for a terminal: metrics of base and tuned model, gate, registered version, and paths.

    The error of a run that failed is not part of it: it is told on stderr.
    """
    lines = ["", f"{result['pipeline']}  {result['status']} in {result['seconds']:.0f} s", ""]
    log = Path(result["folder"], "log.txt")
    more = [f"log     {log}"] if result["error"] and log.is_file() else []
    if result["error"] and not result["metrics"]["tuned"]:
        return "\n".join([*lines, *more, ""])
    if not PIPELINES[result["pipeline"]].trains:
        made = {name: result["artifacts"].get(name) for name in ("result", "generations", "report")}
        scores = {name: value for name, value in result["metrics"].get("answers", {}).items() if value is not None}
        width = max(map(len, scores), default=0) + 4
        lines += [f"  {name:<{width}}{value:>12.4f}" for name, value in scores.items()] + [""] * bool(scores)
        lines += [f"{'answers' if name == 'generations' else name:<7} {path}" for name, path in made.items() if path]
        return "\n".join([*lines, *_reused(result), f"facts   {result['folder']}/result.json"])
    lines += _compared(result)
    if version := result["registered"]:
        alias = f", alias {version['alias']}" if version.get("alias") else ""
        lines.append(f"version {version['name']} {version['version']}{alias}  ({version['model_uri']})")
    else:
        lines.append("version none registered")
    lines += _reused(result)
    named = {"report": result["artifacts"].get("report"), "model": result["artifacts"].get("model"),
             "mlflow": result["tracking_uri"], "result": f"{result['folder']}/result.json"}  # fmt: skip
    lines += ["", *(f"{name:<7} {value}" for name, value in named.items() if value or not more), *more]
    return "\n".join([*lines, ""] if more else lines)


def _compared(result: dict[str, Any]) -> list[str]:
    """Return the table of metrics and the line of the gate."""
    base, tuned = result["metrics"]["base"], result["metrics"]["tuned"]
    both = [name for name in tuned if name in base]
    width = max(map(len, both), default=0) + 4
    rows = [f"  {name:<{width}}{base[name]:>12.4f}{tuned[name]:>12.4f}" for name in both]
    return [
        f"  {'':<{width}}{'base':>12}{'tuned':>12}",
        *rows,
        "",
        f"gate    {(result['gate'] or {}).get('reason', '')}",
    ]


def _reused(result: dict[str, Any]) -> list[str]:
    if not result["reused"]:
        return []
    return [f"reused  {', '.join(result['reused'])}: inputs and code unchanged"]
