"""The weights to register, and checks of their URI and evaluation."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.artifacts import MANIFEST, Manifest, parse_manifest, read_manifest
from steps.errors import Outage, Problem, SecurityRefusal, UserError
from steps.models.identity import model_digest
from steps.params.secrets import USERINFO
from steps.redaction import masked as masked  # for the files beside this one
from steps.sources import storage

log = logging.getLogger("finetune")


@dataclass(frozen=True)
class Weights:
    """A tuned model: its local folder and its lasting URI."""

    folder: Path
    manifest: Manifest
    uri: str
    """The folder after the run: an absolute path or an object store URI, without credentials."""
    digest: str
    """Digest of the model itself (`steps/models/identity.py`): equal for the same tensors and tokenizer."""


def read_weights(folder: Path, uri: str) -> Weights:
    """Check the model's files, and that `uri` has the same files.

    Raises UserError or SecurityRefusal if `uri` cannot be registered or has other files, Outage if a file is missing or
    was changed.
    """
    manifest = read_manifest(folder, "model")
    uri = _lasting(uri)
    if not any(name.endswith(".safetensors") for name in manifest.files):
        raise UserError(
            Problem("REGISTER-E0204", str(folder), "a model artifact without weights", "a folder with safetensors",
                    "pass both artifacts, that of finetune and that of merge_adapter")
        )  # fmt: skip
    if problem := missing_at(uri, manifest.files):
        raise UserError(
            Problem("REGISTER-E0205", "tuned_uri, merged_uri", problem, f"the files of {folder}",
                    "pass tuned_uri and merged_uri as URIs in the run's artifact store")
        )  # fmt: skip
    return Weights(folder, manifest, uri, model_digest(folder, manifest.files))


def missing_at(uri: str, files: dict[str, dict[str, Any]]) -> str:
    """Describe which of these files (name → size, …) are missing at a URI or have another size; "" if none, or unknown.

    A pod may lack permission to list the object store of its artifacts, so an error of the store is only logged; the
    files were checked when they were downloaded.
    """
    try:
        found = storage.find_files("weights_uri", uri)
    except UserError as error:
        if error.problems[0].code == "URI-E0201":
            return error.problems[0].found
        return _unseen(uri, error)
    except Exception as error:  # every store's client has its own exceptions; a local folder must be readable
        if storage.local_path(uri):
            raise
        return _unseen(uri, error)
    wrong = [name for name, known in files.items() if found.get(name, {}).get("size") != known["size"]]
    largest = sorted(wrong, key=lambda name: -files[name]["size"])[:3]
    return f"{uri} without {', '.join(largest)} ({len(wrong)} of {len(files)} files)" if wrong else ""


def gone(uri: str) -> str:
    """Describe what is missing of an artifact at a URI, by its own manifest; "" if nothing is, or unknown."""
    try:
        manifest = parse_manifest(storage.read_bytes("weights_uri", storage.join(uri, MANIFEST)), Path(uri))
    except UserError as error:
        return f"nothing at {uri}" if error.problems[0].code == "URI-E0201" else _unseen(uri, error)
    except Outage as error:
        return _unseen(uri, error) if error.transient else f"{error.problems[0].found} at {uri}"
    except Exception as error:  # every store's client has its own exceptions
        return _unseen(uri, error)
    return missing_at(uri, manifest.files)


def read_evaluation(folder: Path, weights: Weights) -> tuple[Manifest, dict[str, Any]]:
    """Read the metrics; raises UserError if they belong to another model."""
    manifest = read_manifest(folder, "evaluation")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    measured = manifest.lineage.get("inputs", {}).get("tuned")
    if measured != weights.manifest.digest:
        raise UserError(
            Problem("REGISTER-E0206", "evaluation", f"metrics of the model {str(measured)[:12]}",
                    f"metrics of the model {weights.manifest.digest[:12]} in {weights.folder}", "evaluate this model")
        )  # fmt: skip
    return manifest, metrics


def refuse_unless_passed(metrics: dict[str, Any]) -> None:
    """Raise UserError if the gate did not pass."""
    if metrics["gate"]["passed"] is not True:
        raise UserError(
            Problem("REGISTER-E0207", "evaluation", f"a gate that did not pass ({metrics['gate']['reason']})",
                    "a model that passed", "train longer, or change the gate_* parameters and evaluate again")
        )  # fmt: skip


def _lasting(uri: str) -> str:
    # KFP's scheme for its object store; S3 clients read it as s3, with AWS_ENDPOINT_URL.
    uri = re.sub("^minio://", "s3://", uri)
    if USERINFO.search(uri):
        raise SecurityRefusal(
            Problem("REGISTER-E0301", "tuned_uri, merged_uri", masked(uri), "a URI without credentials",
                    "remove them from the URI", why="the URI is stored in the registry")
        )  # fmt: skip
    if problems := storage.check_uri("tuned_uri, merged_uri", uri):
        raise UserError(problems)
    local = storage.local_path(uri)
    return str(local.absolute()) if local else uri


def _unseen(uri: str, error: Exception) -> str:
    log.info("could not list %s (%s: %s)", uri, type(error).__name__, masked(str(error))[:200])
    return ""
