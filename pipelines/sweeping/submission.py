"""The runs of a sweep on Kubeflow Pipelines: found by their name, and sent.

Every run of a sweep has the sweep's name and all of its trials so far. A run that is sent again, or with more trials,
takes the trials that were trained before from KFP's cache: their settings are the same.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

from pipelines.client.connection import Server, quiet
from pipelines.client.following import ENDED
from pipelines.client.uploading import where
from pipelines.sweeping.described import GRID, LISTED, Described, describe
from pipelines.sweeping.search import Search
from steps.errors import Problem, UserError, nearest, shown
from steps.params.batch import BatchParams
from steps.params.deepspeed import DeepSpeedParams
from steps.params.lora import LoraParams
from steps.params.preference import PreferenceMethod
from steps.params.quantisation import QuantisationParams
from steps.params.settings import DataSettings
from steps.params.training import TrainingParams

PAGE = 100
ALL_KNOWN = (GRID, LISTED, "random")  # searches whose trials do not depend on results
GOES_ON = "goes_on"  # key of sweep_search: this run is a batch of trials, after which another run follows
BEST, CHOICE, TRIALS = "best-trial", "choose-trial", "trials"  # tasks of the compiled sweep
# Parameters that change neither the model nor the data that trials start from.
OF_TRAINING = {
    name
    for group in (TrainingParams, BatchParams, DeepSpeedParams, LoraParams, QuantisationParams, PreferenceMethod)
    for name in group.model_fields
    if name not in (*DataSettings.model_fields, "kto_rows", "reference_model_path")
}


def runs_of(server: Server, name: str) -> list[Any]:
    """Return the runs of a sweep, the newest first."""
    with quiet():
        answer = server.client.list_runs(page_size=PAGE, sort_by="created_at desc", namespace=server.namespace,
                                         filter=where("display_name", name))  # fmt: skip
    return [made for made in answer.runs or () if is_sweep_run(made)]


def existing_runs(server: Server, name: str) -> list[Any]:
    """Do the same. Raises UserError with the nearest name if there is none."""
    if found := runs_of(server, name):
        return found
    with quiet():
        answer = server.client.list_runs(page_size=PAGE, sort_by="created_at desc", namespace=server.namespace)
    known = list(dict.fromkeys(made.display_name for made in answer.runs or () if is_sweep_run(made)))
    fix = nearest(name, known) or (f"one of {', '.join(known[:10])}" if known else "start one first")
    raise UserError(Problem("SWEEP-E0311", "name", shown(name), f"a sweep in {server.ui}", fix))


def is_sweep_run(made: Any) -> bool:
    """Return whether a run is one of a compiled sweep."""
    return isinstance(inputs_of(made).get("trials"), list)


def inputs_of(made: Any) -> dict[str, Any]:
    """Return the inputs of a run."""
    return dict((made.runtime_config.parameters if made.runtime_config else None) or {})


def value_of(inputs: dict[str, Any], name: str, usual: Any = "") -> Any:
    """Return a parameter of a run, which may be an input or stand in overrides."""
    return (inputs.get("overrides") or {}).get(name) or inputs.get(name) or usual


def has_ended(made: Any) -> bool:
    """Return whether a run has ended."""
    return str(made.state) in ENDED


def goes_on(made: Any) -> bool:
    """Return whether another run follows when this one has succeeded."""
    return bool((inputs_of(made).get("sweep_search") or {}).get(GOES_ON))


def parameters_of(described: Described, name: str, trials: list[dict[str, Any]], last: bool) -> dict[str, Any]:
    """Return the parameters of a run with these trials."""
    space = {key: one.as_json() for key, one in described.space.items()}
    search = {"pipeline": described.pipeline, "search": described.search, "space": space, "budget": described.budget,
              "seed": described.seed, **({} if last else {GOES_ON: True})}  # fmt: skip
    return {**described.parameters, **described.own(name, trials), "sweep_search": search}


def described_in(inputs: dict[str, Any]) -> Described:
    """Return what was searched, from the inputs of a run."""
    search = inputs["sweep_search"]
    return describe(
        search["pipeline"], {}, search["space"], search=search["search"], budget=search.get("budget"),
        metric=inputs["sweep_metric"], max_parallel=inputs["parallelism"], seed=search.get("seed", 42),
        name=inputs["sweep_name"],
    )  # fmt: skip


def next_trials(described: Described, done: list[dict[str, Any]], most: int | None = None) -> list[dict[str, Any]]:
    """Return the parameters of the next trials, at most so many; `done` are those so far, as in sweep.json."""
    search = Search(described)
    # A trial counts by its place: those that a plan refused are no trials of a run.
    so_far = [{**one, "number": place} for place, one in enumerate(done)]
    found: list[dict[str, Any]] = []
    while most is None or len(found) < most:
        asked = search.ask(so_far)
        if asked is None:
            break
        found.append(asked)
        so_far.append({"number": len(so_far), "parameters": asked, "state": "running"})
    return found


def refuse_prepared(described: Described) -> None:
    """Raise UserError for parameters of model and data in a search whose trials are sent in several runs."""
    if described.search in ALL_KNOWN or Search(described).total <= described.max_parallel:
        return
    if wrong := [name for name in described.varied if name not in OF_TRAINING]:
        raise UserError(
            Problem("SWEEP-E0309", "space", f"{', '.join(wrong)} with search={described.search} on a cluster",
                    "parameters that change neither the model nor the prepared data", "set search=random, whose trials "
                    "are one run", why="each batch of trials is a run, and would prepare and train again what an "
                    "earlier one did")
        )  # fmt: skip


def trials_only(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a compiled sweep that ends with its trials: nothing is chosen, evaluated or registered.

    It has the name of the whole pipeline, so that KFP's cache has one entry for a trial of both.
    """
    spec, *platform = copy.deepcopy(documents)
    trials = spec["components"][spec["root"]["dag"]["tasks"][TRIALS]["componentRef"]["name"]]
    for holder, task in ((spec["root"], BEST), (trials, CHOICE)):
        del holder["dag"]["tasks"][task]
        holder["dag"].pop("outputs", None)
        holder.pop("outputDefinitions", None)
    used, waiting = set(), [spec["root"]]
    while waiting:
        for task in waiting.pop().get("dag", {}).get("tasks", {}).values():
            if (name := task["componentRef"]["name"]) not in used:
                used.add(name)
                waiting.append(spec["components"][name])
    spec["components"] = {name: made for name, made in spec["components"].items() if name in used}
    labels = {made["executorLabel"] for made in spec["components"].values() if "executorLabel" in made}
    deployed = [spec["deploymentSpec"], *(one["platforms"]["kubernetes"]["deploymentSpec"] for one in platform)]
    for one in deployed:
        one["executors"] = {label: made for label, made in one["executors"].items() if label in labels}
    return [spec, *platform]


def documents_in(made: Any) -> list[dict[str, Any]]:
    """Return the compiled pipeline that stands in a run; empty if the run names an uploaded version."""
    whole = made.pipeline_spec or {}
    if "pipeline_spec" not in whole:
        return [whole] if whole else []
    return [whole["pipeline_spec"], *([whole["platform_spec"]] if whole.get("platform_spec") else [])]


def send(
    server: Server,
    name: str,
    inputs: dict[str, Any],
    experiment: str,
    account: str = "",
    version: tuple[str, str] | None = None,
    documents: list[dict[str, Any]] | None = None,
) -> Any:
    """Start a run of an uploaded version (its pipeline's id and its own), or of a compiled pipeline itself."""
    import yaml

    with tempfile.TemporaryDirectory() as folder, quiet():
        file = Path(folder, "pipeline.yaml")
        if not version:
            file.write_text(yaml.safe_dump_all(documents or []), encoding="utf-8")
        return server.client.run_pipeline(
            experiment_id=experiment,
            job_name=name,
            params=inputs,
            pipeline_package_path=None if version else str(file),
            pipeline_id=version[0] if version else None,
            version_id=version[1] if version else None,
            service_account=account or None,
        )


def send_again(server: Server, made: Any) -> Any:
    """Start the same run again."""
    named = made.pipeline_version_reference
    version = (named.pipeline_id, named.pipeline_version_id) if named and named.pipeline_version_id else None
    return send(server, made.display_name, inputs_of(made), made.experiment_id, made.service_account or "", version,
                documents_in(made))  # fmt: skip
