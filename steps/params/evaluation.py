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
    "bleu_1": True,
    "bleu_2": True,
    "bleu_3": True,
    "bleu_4": True,
    "chrf": True,
    "rouge1": True,
    "rouge2": True,
    "rougeL": True,
    "rougeLsum": True,
}

# The same for the metrics of labels, tags and spans; None where neither more nor less is better.
_LABELLED: dict[str, bool | None] = {
    "accuracy": True,
    "balanced_accuracy": True,
    "weighted_accuracy": True,
    "subset_accuracy": True,
    "norm_macro_recall": True,
    "mcc": True,
    **{
        f"{measure}_{average}": True
        for measure in ("f1", "precision", "recall", "average_precision", "AUC")
        for average in ("binary", "macro", "micro", "weighted")
        if (measure, average) != ("AUC", "binary")
    },
    **dict.fromkeys(("f1", "precision", "recall"), True),
    "masked_accuracy": True,
    "log_loss": False,
    "hamming_loss": False,
}
_ANSWERED: dict[str, bool | None] = {
    **{f"{asked}{measure}": True for asked in ("", "HasAns_", "NoAns_") for measure in ("exact", "f1")},
    **dict.fromkeys(("total", "HasAns_total", "NoAns_total"), None),
    **dict.fromkeys(("best_exact", "best_f1"), True),
    **dict.fromkeys(("best_exact_thresh", "best_f1_thresh"), None),
}
# Of what people prefer; the names with a slash are TRL's, of the validation rows.
_PREFERRED: dict[str, bool | None] = {
    **dict.fromkeys(("rewards/accuracies", "rewards/margins", "reward_accuracy", "reward_margin", "reward_auc"), True),
    **dict.fromkeys(("preference_accuracy", "preference_accuracy_per_token", "preference_auc"), True),
    "chosen_loss": False,
    "rejected_loss": None,
}
DIRECTIONS: dict[str, bool | None] = {**HIGHER_IS_BETTER, **_LABELLED, **_ANSWERED, **_PREFERRED, "gen_len": None}

# A pipeline's own parameters narrow the choice to what its task can be judged by (`task_metrics.py`).
GateMetric = Literal[
    "loss", "perplexity", "masked_accuracy", "exact_match", "bleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "chrf",
    "rouge1", "rouge2", "rougeL", "rougeLsum",
    "f1", "precision", "recall",
    "exact", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1",
    "log_loss", "accuracy", "balanced_accuracy", "weighted_accuracy", "norm_macro_recall", "mcc",
    "f1_macro", "f1_micro", "f1_weighted", "f1_binary",
    "precision_macro", "precision_micro", "precision_weighted", "precision_binary",
    "recall_macro", "recall_micro", "recall_weighted", "recall_binary",
    "average_precision_macro", "average_precision_micro", "average_precision_weighted", "average_precision_binary",
    "AUC_macro", "AUC_micro", "AUC_weighted", "subset_accuracy", "hamming_loss",
    "reward_accuracy", "reward_margin", "preference_accuracy", "preference_accuracy_per_token",
    "reward_auc", "preference_auc",
]  # fmt: skip
NO_BOUND = -1.0  # nobody asks for a metric below -1


def direction_of(metric: str) -> bool | None:
    """Whether more of a metric is better; None where neither is, as for counts. Raises KeyError for unknown names."""
    return DIRECTIONS[metric]


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

    gate_metric: GateMetric = "loss"
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
