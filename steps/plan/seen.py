"""Everything that the plan has read: the input of its checks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steps.kinds.recipe import Recipe
from steps.launch.deepspeed_plan import DeepSpeedPlan
from steps.models.new_tokens import NewTokens
from steps.params.data import DataSource
from steps.params.evaluation_config import OptionsRead
from steps.params.pipeline import SupervisedParameters
from steps.params.reading import Reading
from steps.params.settings import Resolved, RewardSettings
from steps.plan.hardware import Hardware
from steps.plan.sources import DataFound, ModelFound
from steps.plan.templates import TemplateFound
from steps.running import LOCAL_ROOT


@dataclass(frozen=True)
class RewardsFound:
    """The rewards of a run, as read by the plan."""

    settings: RewardSettings
    needs: dict[str, tuple[str, ...]]
    """Columns that each reward needs, by the names that it takes them by."""
    sources: dict[str, tuple[Resolved, int]]
    """File or model of each reward that has one, with its bytes, by the name of the reward."""
    system_prompt: str
    """Instruction before prompts without one; empty: none."""
    told: str
    """Weights and names, in words."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that any reward needs, each once."""
        return tuple(dict.fromkeys(column for columns in self.needs.values() for column in columns))

    def who(self, column: str) -> str:
        """Return the rewards that need a column."""
        return " and ".join(name for name, columns in self.needs.items() if column in columns)


@dataclass(frozen=True)
class Seen:
    """Everything that the plan has read; None or empty where reading failed and its problems were recorded."""

    reading: Reading
    """The requested and the effective parameters."""
    recipe: Recipe
    """Kind of model and training method."""
    model: ModelFound | None = None
    reference: ModelFound | None = None
    """Reference model of preference training, if it is not the base model."""
    new_tokens: NewTokens = field(default_factory=NewTokens)
    data: dict[str, DataFound] = field(default_factory=dict)
    """The given splits."""
    source: DataSource | None = None
    """The data parameters with Hub revisions pinned."""
    template: TemplateFound = field(default_factory=TemplateFound)
    function_digest: str = ""
    options: OptionsRead | None = None
    rewards: RewardsFound | None = None
    """What judges completions; None without rewards."""
    hardware: dict[str, Hardware] = field(default_factory=dict)
    zero: DeepSpeedPlan | None = None
    """DeepSpeed configuration; None without DeepSpeed."""

    @property
    def parameters(self) -> SupervisedParameters:
        """The effective parameters."""
        assert isinstance(self.reading.parameters, SupervisedParameters)
        return self.reading.parameters

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's configuration; empty without a model."""
        return self.model.layout.config if self.model else {}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...] | None]:
        """Tensor of the model → shape; None where only the name is known, empty where nothing is."""
        return self.model.shapes if self.model else {}

    @property
    def named_by(self) -> str:
        """The parameter that names the model."""
        return self.model.files.parameter if self.model else ""

    @property
    def positions(self) -> int | None:
        """Positions of the model; None if it has no limit."""
        return self.model.layout.max_positions if self.model else None


def runs_here() -> bool:
    """Return whether a local runner started this process; it has its own folder for checkpoints and MLflow."""
    return LOCAL_ROOT in os.environ
