"""Checks that depend on this version and on where the pipeline runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from steps.artifacts import MANIFEST
from steps.errors import Problem, UserError, shown
from steps.params.compute import WORKSPACE
from steps.params.evaluation import EvaluationEngine
from steps.params.packages import packages_of
from steps.params.pipeline import PipelineParameters
from steps.params.training import SAVED_AS, SWITCHES
from steps.plan.completion_engine import packages_of_completions
from steps.plan.packages import missing_for, missing_here
from steps.plan.rewards import packages_of_rewards
from steps.plan.seen import Seen, runs_here
from steps.plan.verl import packages_of_verl
from steps.sources.object_folder import ObjectFolder, uri_problems, within
from steps.sources.storage import NoCredentials, check_uri, local_path
from steps.tracking.target import MEANS_OFF, is_off, store_of
from steps.writing import mount_of, nearest_there, with_home, write_error

# Parameter → the form of such a name in Kubernetes.
_OBJECT = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?")
KUBERNETES_NAMES = (
    ("mlflow_config_map", _OBJECT, "the name of a config map: lower-case letters, digits, - and dots"),
    ("endpoint_key_secret", _OBJECT, "the name of a secret: lower-case letters, digits, - and dots"),
    ("huggingface_token_secret", _OBJECT, "the name of a secret: lower-case letters, digits, - and dots"),
    ("node_pool_label", _LABEL, "the key of a node label, such as node-pool or example.com/pool"),
)
LONGEST_NAME = 253
STORE_SECONDS = 20.0  # the plan waits so long for an object store of checkpoints


def place_problems(seen: Seen) -> list[Problem]:
    """Check that checkpoints, resuming and registration are possible where the pipeline runs."""
    p, problems = seen.parameters, []
    here = runs_here()
    problems += kept_problems("checkpoint_dir", p.checkpoint_dir)
    named = p.resume_from_checkpoint not in SWITCHES and local_path(p.resume_from_checkpoint) is None
    if p.resume_from_checkpoint != "false" and not (p.checkpoint_dir or here or named):
        problems.append(
            Problem("PLAN-E0302", "resume_from_checkpoint", f"{p.resume_from_checkpoint} without checkpoint_dir",
                    "a checkpoint_dir that is kept after the pod ends",
                    "set checkpoint_dir to a URI of an object store, or to a folder on a mounted volume")
        )  # fmt: skip
    if p.resume_from_checkpoint not in SWITCHES:
        problems += _checkpoint_problems(p.resume_from_checkpoint, here)
    if p.register_tuned_model and not (p.mlflow_server_uri or os.environ.get("MLFLOW_TRACKING_URI") or here):
        problems.append(
            Problem("PLAN-E0303", "mlflow_server_uri", "nothing, and no MLFLOW_TRACKING_URI in the environment",
                    "the MLflow server for the registered version", "set it, or register_tuned_model=false")
        )  # fmt: skip
    return problems


def kept_problems(parameter: str, value: str) -> list[Problem]:
    """Check that a folder or an object store can be written, as far as it can be reached from here."""
    if not value:
        return []
    if local_path(value) is None:
        return _store_problems(parameter, value, runs_here())
    return check_uri(parameter, value) or list(_folder_problems(parameter, value, runs_here()))


def name_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse names that Kubernetes cannot have; on a cluster they would end the pod before it starts."""
    yield from names_problems(seen.parameters)


def names_problems(p: PipelineParameters) -> Iterator[Problem]:
    """Do the same for the parameters of any pipeline."""
    for name, form, expected in KUBERNETES_NAMES:
        value = getattr(p, name, None)
        if value is None:
            continue
        if not form.fullmatch(value) or len(value) > LONGEST_NAME:
            yield Problem("PLAN-E0366", name, shown(value), expected, "correct it, or leave it out")


def _folder_problems(parameter: str, value: str, here: bool) -> Iterator[Problem]:
    """Check that a folder can be written; on a cluster only if its volume is mounted into the plan's pod too."""
    path = with_home(value.removeprefix("file://"))
    if here and path.is_relative_to(WORKSPACE):  # kfp would replace it by a temporary folder
        yield Problem("PLAN-E0367", parameter, f"{value}, in the workspace of a run on a cluster",
                      "a folder of this machine", "leave it out: local runs keep checkpoints below --root")  # fmt: skip
        return
    mounted = here or mount_of(nearest_there(path.absolute())) != Path("/")
    if mounted and (error := write_error("PLAN-E0363", parameter, path)):
        yield from error.problems


def _store_problems(parameter: str, uri: str, here: bool) -> list[Problem]:
    """Check that an object store can be written; without credentials only where the task runs."""
    if problems := uri_problems(parameter, uri, "PLAN-E0301"):
        return problems
    try:
        within(STORE_SECONDS, ObjectFolder(parameter, uri).try_writing, parameter, uri)
    except NoCredentials as error:
        return error.problems if here else []
    except UserError as error:
        return error.problems
    return []


def _checkpoint_problems(value: str, here: bool) -> Iterator[Problem]:
    """Check a checkpoint that is named by its path; on a cluster it may be on a volume that the plan does not have."""
    path = local_path(value)
    expected = "a checkpoint folder, which finetune wrote"
    if path is None:
        yield from _stored_checkpoint_problems(value.rstrip("/"), here, expected)
    elif not path.is_dir() and (here or path.exists()):
        found = "a file" if path.exists() else "nothing"
        yield Problem("PLAN-E0364", "resume_from_checkpoint", f"{found} at {value!r}", expected,
                      "correct the path, or set resume_from_checkpoint=true for the newest one")  # fmt: skip
    elif path.is_dir() and not (path / MANIFEST).is_file():
        yield _no_checkpoint(value, [one.name for one in path.iterdir() if one.name.startswith(SAVED_AS)], expected)


def _stored_checkpoint_problems(uri: str, here: bool, expected: str) -> Iterator[Problem]:
    """Check a checkpoint that is named by its URI."""
    if problems := uri_problems("resume_from_checkpoint", uri, "PLAN-E0364"):
        yield from problems
        return
    folder = ObjectFolder("resume_from_checkpoint", uri)
    try:
        names = within(STORE_SECONDS, folder.sizes, "resume_from_checkpoint", uri)
    except NoCredentials as error:
        yield from error.problems if here else ()
    except UserError as error:
        yield from error.problems
    else:
        if not names:
            yield Problem("PLAN-E0364", "resume_from_checkpoint", f"nothing at {uri!r}", expected,
                          "correct the URI, or set resume_from_checkpoint=true for the newest one")  # fmt: skip
        elif MANIFEST not in names:
            inside = {name.partition("/")[0] for name in names if name.startswith(SAVED_AS) and "/" in name}
            yield _no_checkpoint(uri, list(inside), expected)


def _no_checkpoint(value: str, inside: list[str], expected: str) -> Problem:
    """Return the problem of a folder that is no checkpoint, and name one inside of it."""
    newest = max(inside, key=lambda name: (len(name), name), default="")
    fix = f"name one of them, such as {str(Path(value)) if '://' not in value else value}/{newest}"
    return Problem("PLAN-E0364", "resume_from_checkpoint", f"{value!r} without {MANIFEST}", expected,
                   fix if newest else "name another folder")  # fmt: skip


def package_problems(seen: Seen) -> list[Problem]:
    """Check that required packages are installed; the image has all of them, this machine may not."""
    p = seen.parameters
    return [
        Problem("PLAN-E0311", where, f"{value}, but the package {package} is missing", f"{package} installed",
                f"install it (pip install {package}), or {otherwise}")
        for where, value, package, otherwise in (
            *packages_of(p, p, p.apply_deepspeed), *_of_evaluation(p), *packages_of_completions(p),
            *packages_of_rewards(p),
            *packages_of_verl(p),
        )
        if missing_here(package)
    ]  # fmt: skip


def _of_evaluation(p: EvaluationEngine) -> Iterator[tuple[str, str, str, str]]:
    if package := missing_for(p.evaluation_engine):
        yield "evaluation_engine", p.evaluation_engine, package, "set evaluation_engine=accelerate"


def tracking_notes(seen: Seen) -> Iterator[str]:
    """Note when metrics are not sent to the given server."""
    given = seen.parameters.mlflow_server_uri
    if is_off():
        yield (f"{MEANS_OFF} is set: metrics go into history.json and the reports only; "
               "the tuned model is still registered")  # fmt: skip
    if (store := store_of(given)) != given:
        yield f"mlflow_server_uri: {store} is used, because MLflow 3 does not support plain folders"
