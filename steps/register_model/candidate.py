"""The model to register, with its name, key and tags; checked before the registry is called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steps import wire
from steps.artifacts import Manifest, has_manifest, read_manifest, resolve_model
from steps.errors import Problem, UserError
from steps.params.settings import RegistrationSettings
from steps.register_model.weights import Weights, masked, read_evaluation, read_weights, refuse_unless_passed
from steps.reports.facts import HISTORY, INPUTS, read
from steps.tasks import load_task
from steps.tracking import target_of
from steps.tracking.target import registry_uri


@dataclass(frozen=True)
class Target:
    """The registry, and the name and alias in it."""

    uri: str
    """MLflow's tracking URI; it may contain a password, so it is masked in all outputs."""
    experiment: str
    name: str
    alias: str


@dataclass(frozen=True)
class Candidate:
    """A tuned model with all information for its version."""

    settings: RegistrationSettings
    target: Target
    weights: Weights
    evaluation: Manifest
    metrics: dict[str, Any]
    """metrics.json of the evaluation."""
    history: dict[str, Any]
    """history.json of the training; empty for a model that was not trained here."""
    base: dict[str, Any]
    """Facts of the base model's manifest."""

    @property
    def key(self) -> str:
        """Digest of the model and how it answers; registrations with the same key are the same version."""
        return hashlib.sha256(f"{self.weights.digest}\0{wire.dump(self.answers)}".encode()).hexdigest()

    @property
    def copies(self) -> bool:
        """Whether MLflow's artifact store gets a copy of the weights."""
        return self.settings.registration.copy_weights_to_mlflow

    @property
    def answers(self) -> dict[str, Any]:
        """How the registered model reads its input and answers, without its weights."""
        settings = self.settings
        return {
            "task": settings.task,
            "kind": settings.kind,
            "max_new_tokens": settings.max_new_tokens,
            "num_beams": settings.num_beams,
            "prompt_form": settings.prompt_form,
            "max_length": settings.max_length,
            "pairs": settings.pairs,
            "columns": settings.columns,
            "chat": is_chat(self),
            **({"system_prompt": settings.system_prompt} if settings.system_prompt else {}),
        }

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each input."""
        inputs = self.evaluation.lineage["inputs"]
        return {"weights": self.weights.digest, "base": inputs["base"], "data": inputs["data"],
                "evaluation": self.evaluation.digest}  # fmt: skip

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics by their names in MLflow, such as tuned/loss."""
        return {f"{side}/{name}": value for side in ("base", "tuned") for name, value in self.metrics[side].items()}

    @property
    def tags(self) -> dict[str, str]:
        """The tags of run and version."""
        return {
            "weights_uri": self.weights.uri,
            **{f"{name}_digest": digest for name, digest in self.digests.items()},
            "base_model": str(masked(self.settings.lineage.get("model", {}).get("uri", ""))),
            "pipeline": self.settings.pipeline,
            "task": self.settings.task,
        }


def is_chat(candidate: Candidate) -> bool:
    """Return whether the model was trained on conversations; for preference training, read from the evaluation."""
    told = candidate.metrics.get("preferences", {}).get("chat", False)
    return load_task(candidate.settings.task).CONVERSATIONS or bool(told)


def read_candidate(
    settings: RegistrationSettings, tuned: Path, merged: Path, evaluation: Path, tuned_uri: str, merged_uri: str
) -> Candidate:
    """Check target, weights and evaluation. Raises as `register_model`, except for outages of MLflow."""
    target = read_target(settings)
    made = read_unjudged(settings, tuned, merged, evaluation, tuned_uri, merged_uri)
    refuse_unless_passed(made.metrics)
    return replace(made, target=target)


def read_unjudged(
    settings: RegistrationSettings, tuned: Path, merged: Path, evaluation: Path, tuned_uri: str, merged_uri: str
) -> Candidate:
    """Do the same for a model that is not registered, whatever the gate says; its target has a name and no registry."""
    folder = resolve_model(tuned, merged)
    if has_manifest(tuned):
        read_manifest(tuned)  # for its history and unsent metrics, also if the weights are in `merged`
    weights = read_weights(folder, (tuned_uri if folder == tuned else merged_uri) or str(folder))
    measured, metrics = read_evaluation(evaluation, weights)
    told = read(tuned / HISTORY)
    target = Target("", "", settings.registration.registered_model_name or settings.pipeline, "")
    return Candidate(settings, target, weights, measured, metrics, told, read(evaluation / INPUTS).get("base") or {})


def read_target(settings: RegistrationSettings) -> Target:
    """Check registry, name and alias; raises UserError with every problem."""
    wanted = settings.registration
    uri = registry_uri(settings.tracking)
    name, alias = wanted.registered_model_name or settings.pipeline, wanted.registered_model_alias
    problems = []
    if not uri:
        problems.append(
            Problem("REGISTER-E0201", "mlflow_server_uri", "nothing, and no MLFLOW_TRACKING_URI", "an MLflow server",
                    "set mlflow_server_uri to http(s)://…, or to sqlite:///… for a registry in one file")
        )  # fmt: skip
    problems += wanted.conflicts()
    if problems:
        raise UserError(problems)
    return Target(uri, target_of(settings.tracking).experiment, name, alias)
