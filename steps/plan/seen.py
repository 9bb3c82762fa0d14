"""The sources and values that the plan's checks read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steps.kinds.recipe import Recipe
from steps.launch.deepspeed_plan import DeepSpeedPlan
from steps.models.new_tokens import NewTokens
from steps.params.data import DataSource
from steps.params.evaluation_config import EvaluationOptions
from steps.params.pipeline import SupervisedParameters
from steps.params.reading import Reading
from steps.plan.hardware import Hardware
from steps.plan.sources import DataFound, ModelFound
from steps.running import LOCAL_ROOT


@dataclass(frozen=True)
class Seen:
    """All resolved sources; None, or empty, if one could not be read and its problems are recorded."""

    reading: Reading
    """The requested and the effective parameters."""
    recipe: Recipe
    """Kind of model and training method."""
    model: ModelFound | None = None
    reference: ModelFound | None = None
    """The reference model of preference methods, if it is not the base model itself."""
    new_tokens: NewTokens = field(default_factory=NewTokens)
    data: dict[str, DataFound] = field(default_factory=dict)
    """The given splits."""
    source: DataSource | None = None
    """The data parameters, with pinned Hub revisions."""
    template_digest: str = ""
    function_digest: str = ""
    options: EvaluationOptions | None = None
    hardware: dict[str, Hardware] = field(default_factory=dict)
    zero: DeepSpeedPlan | None = None
    """The DeepSpeed configuration; None without DeepSpeed."""

    @property
    def parameters(self) -> SupervisedParameters:
        """The effective parameters."""
        assert isinstance(self.reading.parameters, SupervisedParameters)
        return self.reading.parameters

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's configuration; empty if there is no model."""
        return self.model.layout.config if self.model else {}

    @property
    def named_by(self) -> str:
        """The parameter that names the model."""
        return self.model.files.parameter if self.model else ""

    @property
    def positions(self) -> int | None:
        """Number of positions of the model; None if it has no limit."""
        return self.model.layout.max_positions if self.model else None


def runs_here() -> bool:
    """Return whether a local runner started this process; it has its own folder for checkpoints and MLflow."""
    return LOCAL_ROOT in os.environ
