"""What a version is made of, and the signature over it: written into its MLflow model before it is uploaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from steps import __version__
from steps.artifacts import MANIFEST, describe_files, sha256_of
from steps.models.layout import COPY_FOLDER
from steps.outages import KFP_POD
from steps.params.registration import COMPILED_AS
from steps.register_model.candidate import Candidate
from steps.register_model.registry import KEY
from steps.register_model.weights import masked
from steps.signing import PROVENANCE, SIGNATURE
from steps.signing.keys import Key
from steps.signing.signature import sign
from steps.signing.statement import BUILD, TAGS, resource, write

PROVENANCE_DIGEST, SIGNATURE_DIGEST, SIGNED_WITH = "provenance_sha256", "signature_sha256", "signed_with"


def attest(package: Path, candidate: Candidate, run_id: str, key: Key | None) -> dict[str, str]:
    """Write provenance and, with a key, signature into the MLflow model; return the version's tags about them.

    The statement lists every file of the package and of the weights. The signature covers every file that the version
    has in the registry, the statement included. The same model, run and key give the same bytes.
    """
    for old in (PROVENANCE, SIGNATURE):
        (package / old).unlink(missing_ok=True)
    own = _digests(describe_files(package))
    text = write({**own, **weight_digests(candidate)}, _predicate(candidate, run_id))
    (package / PROVENANCE).write_text(text, encoding="utf-8")
    tags = {PROVENANCE_DIGEST: sha256_of(package / PROVENANCE)}
    if key is None:
        return tags
    signed = {**own, PROVENANCE: tags[PROVENANCE_DIGEST], **(weight_digests(candidate) if candidate.copies else {})}
    sign(signed, key, candidate.target.name, package / SIGNATURE)
    return {**tags, SIGNATURE_DIGEST: sha256_of(package / SIGNATURE), SIGNED_WITH: key.fingerprint}


def weight_digests(candidate: Candidate) -> dict[str, str]:
    """Return the sha256 of each file of the weights, by the path that a copy of it has in the version."""
    weights = candidate.weights
    files = {**_digests(weights.manifest.files), MANIFEST: sha256_of(weights.folder / MANIFEST)}
    return {f"{COPY_FOLDER}/{name}": digest for name, digest in files.items()}


def _digests(files: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in files.items()}


def version_tags(candidate: Candidate) -> dict[str, str]:
    """Return the tags of a version that its provenance repeats."""
    numbers = {name: f"{value:.6g}" for name, value in candidate.numbers.items()}
    return {**candidate.tags, **numbers, KEY: candidate.key}


def _predicate(candidate: Candidate, run_id: str) -> dict[str, Any]:
    settings = candidate.settings
    compiled = json.loads(os.environ.get(COMPILED_AS) or "{}")
    lineage = masked(settings.lineage)
    digests = candidate.digests
    code = {"finetune-pipelines": __version__, "code": str(candidate.weights.manifest.lineage.get("code", ""))}
    return {
        "buildDefinition": {
            "buildType": BUILD,
            "externalParameters": {
                "pipeline": settings.pipeline,
                "task": settings.task,
                "registered_model_name": candidate.target.name,
                "parameters": masked(settings.parameters),
            },
            "internalParameters": {"pipeline_spec_sha256": compiled.get("spec", "")},
            "resolvedDependencies": [
                *_sources(lineage),
                resource("artifact base_model", "", digests["base"]),
                resource("artifact data", "", digests["data"]),
            ],
        },
        "runDetails": {
            "builder": {
                "id": "urn:finetune-pipelines:kubeflow" if KFP_POD in os.environ else "urn:finetune-pipelines:local",
                "version": code,
                "builderDependencies": [_image(reference) for reference in compiled.get("images", ())],
            },
            "metadata": {"invocationId": run_id},
            "byproducts": [resource("artifact evaluation", "", digests["evaluation"])],
            TAGS: version_tags(candidate),
        },
    }


def _sources(lineage: dict[str, Any]) -> list[dict[str, Any]]:
    """Describe the model, adapter and reference that the run began with, and each file of rows."""
    found = {"model": lineage.get("model", {})}
    found |= {name: lineage[name]["source"] for name in ("adapter", "reference") if name in lineage}
    found |= {f"{split} rows": rows for split, rows in lineage.get("data", {}).items()}
    return [resource(name, str(one.get("uri", "")), str(one.get("digest", ""))) for name, one in found.items()]


def _image(reference: str) -> dict[str, Any]:
    name, _, digest = reference.partition("@sha256:")
    return resource("image", name, digest)
