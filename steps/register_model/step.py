"""Register the tuned model as a version in the registry."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steps import wire
from steps.artifacts import new_artifact
from steps.errors import Outage, Problem, UserError
from steps.faults import refuses_access
from steps.params.settings import RegistrationSettings
from steps.register_model import registry
from steps.register_model.candidate import Candidate, Target, read_candidate
from steps.register_model.model_card import write_card
from steps.register_model.packaging import write_package
from steps.register_model.provenance import PROVENANCE_DIGEST, SIGNATURE_DIGEST, attest, version_tags
from steps.register_model.weights import masked
from steps.signing.keys import Key, signing_key
from steps.tracking import UNSENT
from steps.tracking.facts import REPORT, tell_facts
from steps.tracking.records import read_unsent
from steps.tracking.store import is_refusal
from steps.tracking.target import is_off
from steps.tracking.unsent import send_records

log = logging.getLogger("finetune")

TRIES = 3  # if other processes register the same model at the same time


def register_model(
    settings: RegistrationSettings,
    tuned: Path,
    merged: Path,
    evaluation: Path,
    registration: Path,
    tuned_uri: str = "",
    merged_uri: str = "",
    report: Path | None = None,
) -> str:
    """Register the tuned model at its URI and return its MLflow URI, such as models:/name@alias.

    `registration` gets registration.json, report.html, the model card, and the folder mlflow_model: the version as a
    plain MLflow model, for use from the run instead of the registry.
    `tuned_uri` and `merged_uri` are the URIs of the two folders after the run; empty means their present paths.
    `report` is the run's report; `registration` and MLflow get a copy that names the version.
    The version has a provenance, and a signature if FINETUNE_SIGNING_KEY names a key.
    Raises UserError if the model cannot be registered (no tracking server, a name MLflow refuses, missing weights, a
    gate that did not pass, a key that cannot sign), Outage if MLflow does not respond; a repetition then continues
    where this one stopped.
    """
    key = signing_key()
    candidate = read_candidate(settings, tuned, merged, evaluation, tuned_uri, merged_uri)
    target = candidate.target
    card = write_card(candidate)
    folders = {"tuned": tuned, "merged": merged, "evaluation": evaluation, "registration": registration}
    again = _command(settings, {**folders, "tuned-uri": tuned_uri, "merged-uri": merged_uri})
    inputs = {**candidate.digests, "weights": candidate.weights.manifest.digest}
    with new_artifact(registration, "registration", {"inputs": inputs}) as draft:
        (draft / "model_card.md").write_text(card, encoding="utf-8")
        with TemporaryDirectory() as scratch:
            write_package(Path(scratch) / "package", candidate, card)
            shutil.copytree(Path(scratch) / "package", draft / "mlflow_model")
        with _reachable(target, again):
            client = registry.connect(target)
            candidate = _with_metrics(candidate, tuned)
            version = _version(client, candidate, card, draft / "mlflow_model", key)
            moved = registry.move_alias(client, target, version)
        model_uri = f"models:/{target.name}@{target.alias}" if moved else f"models:/{target.name}/{version.version}"
        registered = {
            "name": target.name,
            "version": str(version.version),
            "alias": target.alias if moved else "",
            "model_uri": model_uri,
            "run_id": version.run_id or "",
            "tracking_uri": masked(target.uri),
            "weights_uri": version.tags["weights_uri"],
        }
        (draft / "registration.json").write_text(json.dumps(registered, indent=1), encoding="utf-8")
        if report:
            from steps.reports.page import name_version

            told = f"Registered as version {version.version} of {candidate.target.name} ({model_uri})."
            name_version(report, draft / REPORT, told)
    log.info("registered %s as version %s of %s", model_uri, version.version, target.name)
    _tell_run(candidate, version, registration / REPORT)
    return model_uri


def _tell_run(candidate: Candidate, version: Any, page: Path) -> None:
    """Send parameters, verdict and report to the training's run."""
    run_id = candidate.history.get("mlflow_run_id") or version.run_id
    if run_id and not is_off():
        effective = candidate.settings.parameters
        named = page if page.is_file() else None
        tell_facts(candidate.target.uri, run_id, effective, candidate.metrics["gate"], named)


def _with_metrics(candidate: Candidate, tuned: Path) -> Candidate:
    """Send the metrics that the training could not send; the version then belongs to their run."""
    file = tuned / UNSENT
    if not file.is_file() or is_off():
        return candidate
    try:
        run_id = send_records(candidate.target.uri, *read_unsent(file))
    except Exception as error:
        if not is_refusal(error):
            raise
        log.warning("WARNING MLflow refuses the metrics of %s: %s", file, masked(str(error))[:200])
        return candidate
    return replace(candidate, history={**candidate.history, "mlflow_run_id": run_id})


def _version(client: Any, candidate: Candidate, card: str, package: Path, key: Key | None) -> Any:
    """Return the version of this model: the one that was registered before, completed, or a new one."""
    from mlflow.exceptions import MlflowException

    for _ in range(TRIES):
        try:
            version = _known_version(client, candidate)
            if version is None:
                version = _new_version(client, candidate, card, package, key)
            else:
                registry.complete_run(client, candidate, version)
                version = _completed(client, candidate, version, package, key)
            registry.delete_other_runs(client, candidate, version)
            return version
        except MlflowException as error:  # another process has just registered this model, and deleted our run
            if not registry.is_deleted_run(error):
                raise
            deleted = error
    raise deleted


def _known_version(client: Any, candidate: Candidate) -> Any | None:
    """Return the version of the same model that was registered before, unless its weights are missing."""
    usable = []
    for version in registry.find_versions(client, candidate.target.name, candidate.key):
        if missing := registry.weights_gone(version):
            log.warning("WARNING version %s of %s is this model too, but cannot be loaded any more: %s",
                        version.version, candidate.target.name, missing)  # fmt: skip
            continue
        usable.append(version)
    if not usable:
        return None
    log.info("%s already has this model, as version %s", candidate.target.name, usable[0].version)
    return registry.keep_first(client, usable)


def _new_version(client: Any, candidate: Candidate, card: str, package: Path, key: Key | None) -> Any:
    run, ours = registry.open_run(client, candidate)
    told = attest(package, candidate, run.info.run_id, key)
    # A repetition writes the same files to the same path; the same model from another folder is told about otherwise.
    place = f"model-{told[PROVENANCE_DIGEST][:12]}"
    registry.upload(client, run.info.run_id, package, place)
    if candidate.copies:
        registry.copy_weights(client, run.info.run_id, candidate.weights, place)
    about = card.partition("\n## Parameters")[0][:4900]  # MLflow keeps 5,000 characters
    tags = {**version_tags(candidate), **told}
    version = registry.create_version(
        client, candidate, run.info.run_id, f"{run.info.artifact_uri}/{place}", about, tags
    )
    if version.run_id != run.info.run_id:  # of another process
        registry.complete_run(client, candidate, version)
        return version
    registry.describe_run(client, run.info.run_id, candidate, version)
    if ours:
        client.set_terminated(run.info.run_id)
    return version


def _completed(client: Any, candidate: Candidate, version: Any, package: Path, key: Key | None) -> Any:
    """Return a version that was registered before, with the copy, the provenance or the signature that it lacks."""
    told = attest(package, candidate, version.run_id, key)
    signed, copied = SIGNATURE_DIGEST in version.tags, registry.COPIED in version.tags
    copies = candidate.copies and not copied
    if not copies and PROVENANCE_DIGEST in version.tags and (signed or key is None):
        return version
    if signed and key is None:
        raise UserError(
            Problem("REGISTER-E0211", f"version {version.version} of {version.name}", "a signature, and no key here",
                    "the key, to sign it with the copy of the weights", "set FINETUNE_SIGNING_KEY to its path")
        )  # fmt: skip
    if copied and not candidate.copies:  # the copy may have other files than the weights of this run
        log.warning("WARNING version %s of %s stays without %s: register it with copy_weights_to_mlflow=true to add it",
                    version.version, version.name, "a signature" if key else "a provenance")  # fmt: skip
        return version
    place = registry.place_of(version)
    registry.upload(client, version.run_id, package, place)  # its weights may be in other files than those of then
    if candidate.copies:
        registry.copy_weights(client, version.run_id, candidate.weights, place)
        log.info("copied the weights into version %s of %s", version.version, version.name)
    more = {registry.COPIED: "true"} if candidate.copies else {}
    for tag, value in {**version_tags(candidate), **told, **more}.items():
        if version.tags.get(tag) != value:
            client.set_model_version_tag(version.name, str(version.version), tag, value)
    return client.get_model_version(version.name, str(version.version))


def _command(settings: RegistrationSettings, given: dict[str, Any]) -> str:
    """Return the command line that repeats this registration."""
    words = ["python", "-m", "steps", "register-model", "--settings", wire.dump(masked(settings.model_dump()))]
    for name, value in given.items():
        words += [f"--{name}", str(masked(str(value)))] if str(value) else []
    return shlex.join(words)


@contextmanager
def _reachable(target: Target, again: str) -> Iterator[None]:
    """Convert MLflow's errors to UserError if the user must act, and to Outage if MLflow does not respond."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, ConnectionError) as error:
        if isinstance(error, registry.StoreError) and (refusal := refuses_access(error)):
            raise UserError(
                Problem("REGISTER-E0210", error.store, f"{type(refusal).__name__}: {masked(str(refusal))[:300]}",
                        "credentials that may write there", "give the task's service account or secret write access")
            ) from error  # fmt: skip
        code = getattr(error, "error_code", "")
        said = f"{code or type(error).__name__}: {masked(str(error))[:300]}"
        where = f"MLflow at {masked(target.uri)}"
        if code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
            raise UserError(
                Problem("REGISTER-E0208", where, said, "credentials that may register models",
                        "set MLFLOW_TRACKING_TOKEN, or user and password, from a secret")
            ) from error  # fmt: skip
        if code == "RESOURCE_DOES_NOT_EXIST":
            raise UserError(
                Problem("REGISTER-E0209", where, said, "the run of MLFLOW_RUN_ID and the experiment of experiment_name",
                        "correct or unset MLFLOW_RUN_ID and experiment_name")
            ) from error  # fmt: skip
        raise Outage(
            Problem("REGISTER-E0401", where, said, "a response", "run again when MLflow answers: the tuned model and "
                    "its evaluation are kept and reused, only the registration is repeated"),
            resume_from=again,
            transient=not is_refusal(error),
        ) from error  # fmt: skip
