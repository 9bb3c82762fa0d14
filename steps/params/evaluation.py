"""How base and tuned model are compared, and which result may be registered."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from steps.errors import Problem
from steps.params.group import Group

# Every metric that evaluate computes for generated text, and whether more of it is better.
HIGHER_IS_BETTER = {
    "loss": False,
    "perplexity": False,
    "exact_match": True,
    "bleu": True,
    "rouge1": True,
    "rouge2": True,
    "rougeL": True,
    "rougeLsum": True,
}

GateMetric = Literal["loss", "perplexity", "exact_match", "bleu", "rouge1", "rouge2", "rougeL", "rougeLsum"]
NO_BOUND = -1.0  # no metric is ever negative, so this bound refuses nothing


class EvaluationParams(Group):
    """What is measured on the test rows."""

    evaluation_max_rows: int = Field(-1, ge=-1)
    """Test rows that are evaluated, the first ones in file order; -1 takes all."""

    evaluation_max_new_tokens: int = Field(128, ge=1)
    """Longest generated answer in tokens."""

    gate_metric: Literal["loss", "perplexity", "exact_match", "bleu", "rouge1", "rouge2", "rougeL", "rougeLsum"] = (
        "loss"
    )
    """Metric of the tuned model that decides whether it is registered."""

    gate_min_value: float = Field(NO_BOUND, ge=NO_BOUND)
    """Lowest gate_metric that passes, for metrics where more is better; -1 sets no bound."""

    gate_max_value: float = Field(NO_BOUND, ge=NO_BOUND)
    """Highest gate_metric that passes, for loss and perplexity; -1 sets no bound."""

    gate_must_beat_base: bool = True
    """Register only a model whose gate_metric is strictly better than the base model's."""

    def conflicts(self) -> Iterator[Problem]:
        """A bound on the wrong side would let every model pass."""
        wrong, right = (
            ("gate_max_value", "gate_min_value")
            if HIGHER_IS_BETTER[self.gate_metric]
            else ("gate_min_value", "gate_max_value")
        )
        if getattr(self, wrong) != NO_BOUND:
            better = "more" if HIGHER_IS_BETTER[self.gate_metric] else "less"
            yield Problem("PARAM-E0205", wrong, f"a bound on {self.gate_metric}, of which {better} is better",
                          f"{right} for this metric", f"set {right} instead")  # fmt: skip
