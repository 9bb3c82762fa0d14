"""Comparison of base and tuned model, and the gate for registration."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from steps.errors import Problem
from steps.params.choice import OneOf
from steps.params.group import Group
from steps.params.metrics import JUDGING, direction_of
from steps.params.several import JSON

NO_BOUND = -1.0  # no useful bound is below -1


class EvaluatedRows(Group):
    """How much is evaluated."""

    evaluation_max_rows: int = Field(-1, ge=-1)
    """Maximum number of test rows to evaluate, the first ones in file order; -1 evaluates all."""

    evaluation_max_new_tokens: int = Field(128, ge=1)
    """Maximum length of a generated answer in tokens."""


class EvaluationEngine(Group):
    """What writes the answers that are evaluated."""

    evaluation_engine: Literal["auto", "accelerate", "vllm"] = "auto"
    """What writes answers: accelerate (transformers), vllm; auto: vllm with a GPU where it is installed."""


class EvaluationConfig(Group):
    """How texts are compared."""

    evaluation_config: str = ""
    """JSON file with the metrics to report and options for comparing texts, as for azureml-metrics too."""

    evaluation_config_params: Annotated[str, JSON] = ""
    """The same as evaluation_config, as JSON text instead of a file."""

    @field_validator("evaluation_config", "evaluation_config_params", mode="before")
    @classmethod
    def _config_as_text(cls, value: Any) -> Any:
        """A configuration file may hold the object itself."""
        return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) and value else value

    def conflicts(self) -> Iterator[Problem]:
        """Refuse two configurations."""
        if self.evaluation_config and self.evaluation_config_params:
            yield Problem("PARAM-E0214", "evaluation_config_params", "set with evaluation_config", "one of them",
                          "leave one of the two out")  # fmt: skip


class Gate(Group):
    """The gate for registration."""

    gate_metric: Annotated[str, OneOf(JUDGING)] = "loss"
    """Metric of the tuned model that decides whether it is registered."""

    gate_min_value: float = Field(NO_BOUND, ge=NO_BOUND)
    """Minimum of gate_metric to pass, for metrics where higher is better; -1 sets no bound."""

    gate_max_value: float = Field(NO_BOUND, ge=NO_BOUND)
    """Maximum of gate_metric to pass, for metrics where lower is better; -1 sets no bound."""

    gate_must_beat_base: bool = True
    """Register the tuned model only if its gate_metric is strictly better than the base model's."""


class EvaluationParams(Gate, EvaluationConfig, EvaluationEngine, EvaluatedRows):
    """Evaluation on the test rows and the gate."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse a bound on the wrong side, which every model would pass."""
        wrong, right = (
            ("gate_max_value", "gate_min_value")
            if direction_of(self.gate_metric)
            else ("gate_min_value", "gate_max_value")
        )
        if getattr(self, wrong) != NO_BOUND:
            better = "higher" if direction_of(self.gate_metric) else "lower"
            yield Problem("PARAM-E0205", wrong, f"a bound on {self.gate_metric}, where {better} is better",
                          f"{right} for this metric", f"set {right} instead")  # fmt: skip
