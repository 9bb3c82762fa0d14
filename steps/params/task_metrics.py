"""Which metrics a task can be steered and judged by: each group narrows the choices of training and evaluation."""

from typing import Literal

from steps.params.group import Group

# What is not measured where a row may have several labels, and what is not where it has one.
OF_ONE_LABEL = (
    "accuracy", "balanced_accuracy", "weighted_accuracy", "norm_macro_recall", "mcc", "log_loss",
    "f1_binary", "precision_binary", "recall_binary", "average_precision_binary",
)  # fmt: skip
OF_LABEL_SETS = ("subset_accuracy", "hamming_loss")
# What is not measured where each good answer stands beside a bad one, and what is not where it does not.
OF_RATED = ("reward_auc", "preference_auc")
OF_PAIRS = ("preference_accuracy", "preference_accuracy_per_token")


class WrittenMetrics(Group):
    """For the comparison of models that write text."""

    gate_metric: Literal[
        "loss", "perplexity", "exact_match", "bleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "chrf",
        "rouge1", "rouge2", "rougeL", "rougeLsum",
    ] = "loss"  # fmt: skip
    """Metric of the tuned model that decides whether it is registered."""


class TextMetrics(WrittenMetrics):
    """For models that go on from a text."""

    metric_for_best_model: Literal["loss"] = "loss"
    """Metric on the validation rows that decides which checkpoint is the result."""


class SummaryMetrics(WrittenMetrics):
    """For models that sum up texts; only those with an encoder write summaries while they train."""

    metric_for_best_model: Literal["loss", "rouge1", "rouge2", "rougeL", "rougeLsum"] = "loss"
    """Metric on the validation rows that decides which checkpoint is the result; rouge needs an encoder-decoder."""


class TranslationMetrics(WrittenMetrics):
    """For models that translate texts; only those with an encoder write translations while they train."""

    metric_for_best_model: Literal["loss", "bleu"] = "loss"
    """Metric on the validation rows that decides which checkpoint is the result; bleu needs an encoder-decoder."""


class LossMetrics(Group):
    """For models that learn whole texts: there is no right answer to compare with."""

    metric_for_best_model: Literal["loss"] = "loss"
    """Metric on the validation rows that decides which checkpoint is the result."""

    gate_metric: Literal["loss", "perplexity", "masked_accuracy"] = "loss"
    """Metric of the tuned model that decides whether it is registered."""


class TagMetrics(Group):
    """For models that tag words; whole entities count."""

    metric_for_best_model: Literal["loss", "f1", "accuracy", "precision", "recall"] = "loss"
    """Metric on the validation rows that decides which checkpoint is the result; more of all but loss is better."""

    gate_metric: Literal[
        "loss", "accuracy", "f1", "precision", "recall", "f1_macro", "precision_macro", "recall_macro",
        "f1_micro", "precision_micro", "recall_micro", "f1_weighted", "precision_weighted", "recall_weighted",
    ] = "loss"  # fmt: skip
    """Metric of the tuned model that decides whether it is registered."""


class AnswerMetrics(Group):
    """For models that find answers in texts; all but loss go from 0 to 100."""

    metric_for_best_model: Literal["loss", "f1", "exact"] = "loss"
    """Metric on the validation rows that decides which checkpoint is the result; more of all but loss is better."""

    gate_metric: Literal[
        "loss", "exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1"
    ] = "loss"
    """Metric of the tuned model that decides whether it is registered."""


class LabelMetrics(Group):
    """For models that give a text its label, or several."""

    metric_for_best_model: Literal["loss", "f1_macro", "mcc", "accuracy", "precision_macro", "recall_macro"] = "loss"
    """Metric on the validation rows that decides which checkpoint is the result; more of all but loss is better."""

    gate_metric: Literal[
        "loss", "log_loss", "accuracy", "balanced_accuracy", "weighted_accuracy", "norm_macro_recall", "mcc",
        "f1_macro", "f1_micro", "f1_weighted", "f1_binary",
        "precision_macro", "precision_micro", "precision_weighted", "precision_binary",
        "recall_macro", "recall_micro", "recall_weighted", "recall_binary",
        "average_precision_macro", "average_precision_micro", "average_precision_weighted", "average_precision_binary",
        "AUC_macro", "AUC_micro", "AUC_weighted", "subset_accuracy", "hamming_loss",
    ] = "loss"  # fmt: skip
    """Metric of the tuned model that decides whether it is registered."""


class PreferenceMetrics(Group):
    """For models that learn what people prefer."""

    metric_for_best_model: Literal["loss", "rewards/accuracies", "rewards/margins"] = "loss"
    """Metric on the validation rows that decides which checkpoint is the result; more of all but loss is better."""

    gate_metric: Literal[
        "loss", "reward_accuracy", "reward_margin", "preference_accuracy", "preference_accuracy_per_token",
        "reward_auc", "preference_auc",
    ] = "loss"  # fmt: skip
    """Metric of the tuned model that decides whether it is registered."""
