"""How base and tuned model are compared, and which result may be registered."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from steps.errors import Problem
from steps.params.choice import OneOf
from steps.params.group import Group
from steps.params.metrics import JUDGING, direction_of

NO_BOUND = -1.0  # nobody asks for a metric below -1


class EvaluationParams(Group):
    """What is measured on the test rows."""

    evaluation_max_rows: int = Field(-1, ge=-1)
    """Test rows that are evaluated, the first ones in file order; -1 takes all."""

    evaluation_max_new_tokens: int = Field(128, ge=1)
    """Longest generated answer in tokens."""

    evaluation_config: str = ""
    """JSON file with the metrics that are reported and how texts are compared: {"metrics": ["rougeL"], …}."""

    evaluation_config_params: str = ""
    """The same as JSON text, in place of a file."""

    gate_metric: Annotated[str, OneOf(JUDGING)] = "loss"
    """Metric of the tuned model that decides whether it is registered."""

    gate_min_value: float = Field(NO_BOUND, ge=NO_BOUND)
    """Lowest gate_metric that passes, for metrics where more is better; -1 sets no bound."""

    gate_max_value: float = Field(NO_BOUND, ge=NO_BOUND)
    """Highest gate_metric that passes, for metrics where less is better; -1 sets no bound."""

    gate_must_beat_base: bool = True
    """Register only a model whose gate_metric is strictly better than the base model's."""

    def conflicts(self) -> Iterator[Problem]:
        """A bound on the wrong side would let every model pass; one configuration is enough."""
        if self.evaluation_config and self.evaluation_config_params:
            yield Problem("PARAM-E0214", "evaluation_config_params", "set beside evaluation_config", "one of them",
                          "leave one of the two out")  # fmt: skip
        wrong, right = (
            ("gate_max_value", "gate_min_value")
            if direction_of(self.gate_metric)
            else ("gate_min_value", "gate_max_value")
        )
        if getattr(self, wrong) != NO_BOUND:
            better = "more" if direction_of(self.gate_metric) else "less"
            yield Problem("PARAM-E0205", wrong, f"a bound on {self.gate_metric}, of which {better} is better",
                          f"{right} for this metric", f"set {right} instead")  # fmt: skip
