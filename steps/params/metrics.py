"""Every metric: whether higher is better, and which tasks can use it for the gate and for the best checkpoint.

To add a metric: put its name into the tuples of its tasks and, unless higher is better, into one of the two sets below.
Its computation is in `steps/scoring/`.
"""

from typing import Annotated

from steps.params.choice import OneOf
from steps.params.group import Group

LESS_IS_BETTER = {"loss", "perplexity", "log_loss", "hamming_loss", "chosen_loss"}
# Counts and thresholds, which are reported but not used for decisions.
NEITHER_IS_BETTER = {
    "rejected_loss", "gen_len", "finished", "total", "HasAns_total", "NoAns_total", "best_exact_thresh",
    "best_f1_thresh",
}  # fmt: skip

# Metrics of evaluate, in the order of the choices of gate_metric.
WRITTEN = (
    "loss", "perplexity", "exact_match", "word_f1", "bleu", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "chrf",
    "rouge1", "rouge2", "rougeL", "rougeLsum",
)  # fmt: skip
WHOLE_TEXTS = ("loss", "perplexity", "masked_accuracy")
TAGS = (
    "loss", "accuracy", "f1", "precision", "recall", "f1_macro", "precision_macro", "recall_macro",
    "f1_micro", "precision_micro", "recall_micro", "f1_weighted", "precision_weighted", "recall_weighted",
)  # fmt: skip
ANSWERS = ("loss", "exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1")
LABELS = (
    "loss", "log_loss", "accuracy", "balanced_accuracy", "weighted_accuracy", "norm_macro_recall", "mcc",
    "f1_macro", "f1_micro", "f1_weighted", "f1_binary",
    "precision_macro", "precision_micro", "precision_weighted", "precision_binary",
    "recall_macro", "recall_micro", "recall_weighted", "recall_binary",
    "average_precision_macro", "average_precision_micro", "average_precision_weighted", "average_precision_binary",
    "AUC_macro", "AUC_micro", "AUC_weighted", "AUC_binary", "subset_accuracy", "hamming_loss",
    "iou", "iou_macro", "iou_micro", "iou_weighted",
)  # fmt: skip
RANKED = ("loss", "mrr", "ndcg_10", "average_precision_binary", "f1_binary", "accuracy")
PREFERRED = (
    "loss", "reward_accuracy", "reward_margin", "preference_accuracy", "preference_accuracy_per_token",
    "reward_auc", "preference_auc",
)  # fmt: skip
REWARDED = ("reward",)
OF_COMPLETIONS = ("gen_len", "finished")  # mean length in tokens, share that ended by itself
JUDGING = tuple(dict.fromkeys((*WRITTEN, *WHOLE_TEXTS, *TAGS, *ANSWERS, *LABELS, *RANKED, *PREFERRED, *REWARDED)))

# Metrics that exist only for one label per row, and only for several.
OF_ONE_LABEL = (
    "accuracy", "balanced_accuracy", "weighted_accuracy", "norm_macro_recall", "mcc", "log_loss",
    "f1_binary", "precision_binary", "recall_binary", "average_precision_binary", "AUC_binary",
)  # fmt: skip
OF_LABEL_SETS = ("subset_accuracy", "hamming_loss", "iou", "iou_macro", "iou_micro", "iou_weighted")
# Metrics that exist only for rated answers, and only for pairs.
OF_RATED = ("reward_auc", "preference_auc")
OF_PAIRS = ("preference_accuracy", "preference_accuracy_per_token")

# Metrics on the validation rows during training; names with a slash are TRL's.
OF_SUMMARIES = ("loss", "rouge1", "rouge2", "rougeL", "rougeLsum")
OF_TRANSLATIONS = ("loss", "bleu")
OF_TAGS = ("loss", "f1", "accuracy", "precision", "recall")
OF_ANSWERS = ("loss", "f1", "exact")
OF_LABELS = ("loss", "f1_macro", "mcc", "accuracy", "precision_macro", "recall_macro")
OF_PREFERENCES = ("loss", "rewards/accuracies", "rewards/margins")
OF_REWARDS = ("reward",)
STEERING = tuple(
    dict.fromkeys((*OF_LABELS, *OF_TAGS, *OF_ANSWERS, *OF_PREFERENCES, *OF_SUMMARIES, *OF_TRANSLATIONS, *OF_REWARDS))
)
KNOWN = {*JUDGING, *STEERING, *LESS_IS_BETTER, *NEITHER_IS_BETTER}
OF_ONE_REWARD = "rewards/"  # before the name of a reward, as in TRL's metrics


def is_known(metric: str) -> bool:
    """Whether a name is that of a metric; those of single rewards follow from the user's rewards."""
    return metric in KNOWN or (metric.startswith(OF_ONE_REWARD) and len(metric) > len(OF_ONE_REWARD))


def direction_of(metric: str) -> bool | None:
    """Whether higher is better; None if neither is, as for counts. Raises KeyError for unknown names."""
    if not is_known(metric):
        raise KeyError(metric)
    return None if metric in NEITHER_IS_BETTER else metric not in LESS_IS_BETTER


class WrittenMetrics(Group):
    """For models that generate text."""

    gate_metric: Annotated[str, OneOf(WRITTEN)] = "loss"
    """Metric of the tuned model that decides whether it is registered."""


class TextMetrics(WrittenMetrics):
    """For models that continue a text."""

    metric_for_best_model: Annotated[str, OneOf(("loss",))] = "loss"
    """Metric on the validation rows that selects the best checkpoint, which is the result."""


class SummaryMetrics(WrittenMetrics):
    """For summarization; only encoder-decoder models generate summaries during training."""

    metric_for_best_model: Annotated[str, OneOf(OF_SUMMARIES)] = "loss"
    """Metric on the validation rows that selects the best checkpoint; rouge needs an encoder-decoder model."""


class TranslationMetrics(WrittenMetrics):
    """For translation; only encoder-decoder models generate translations during training."""

    metric_for_best_model: Annotated[str, OneOf(OF_TRANSLATIONS)] = "loss"
    """Metric on the validation rows that selects the best checkpoint; bleu needs an encoder-decoder model."""


class LossMetrics(Group):
    """For training on whole texts, without answers to compare with."""

    metric_for_best_model: Annotated[str, OneOf(("loss",))] = "loss"
    """Metric on the validation rows that selects the best checkpoint, which is the result."""

    gate_metric: Annotated[str, OneOf(WHOLE_TEXTS)] = "loss"
    """Metric of the tuned model that decides whether it is registered."""


class TagMetrics(Group):
    """For token classification; scores count whole entities."""

    metric_for_best_model: Annotated[str, OneOf(OF_TAGS)] = "loss"
    """Metric on the validation rows that selects the best checkpoint; higher is better, except for loss."""

    gate_metric: Annotated[str, OneOf(TAGS)] = "loss"
    """Metric of the tuned model that decides whether it is registered."""


class AnswerMetrics(Group):
    """For extractive question answering; all metrics but loss range from 0 to 100."""

    metric_for_best_model: Annotated[str, OneOf(OF_ANSWERS)] = "loss"
    """Metric on the validation rows that selects the best checkpoint; higher is better, except for loss."""

    gate_metric: Annotated[str, OneOf(ANSWERS)] = "loss"
    """Metric of the tuned model that decides whether it is registered."""


class LabelMetrics(Group):
    """For text classification with one label or several."""

    metric_for_best_model: Annotated[str, OneOf(OF_LABELS)] = "loss"
    """Metric on the validation rows that selects the best checkpoint; higher is better, except for loss."""

    gate_metric: Annotated[str, OneOf(LABELS)] = "loss"
    """Metric of the tuned model that decides whether it is registered."""


class RankingMetrics(Group):
    """For models that say how relevant passages are, by which those of one query are ranked."""

    metric_for_best_model: Annotated[str, OneOf(OF_LABELS)] = "loss"
    """Metric on the validation rows that decides which checkpoint is the result; more of all but loss is better."""

    gate_metric: Annotated[str, OneOf(RANKED)] = "loss"
    """Metric of the tuned model that decides whether it is registered."""


class PreferenceMetrics(Group):
    """For preference training."""

    metric_for_best_model: Annotated[str, OneOf(OF_PREFERENCES)] = "loss"
    """Metric on the validation rows that selects the best checkpoint; higher is better, except for loss."""

    gate_metric: Annotated[str, OneOf(PREFERRED)] = "loss"
    """Metric of the tuned model that decides whether it is registered."""


class RewardMetrics(Group):
    """For training with rewards."""

    metric_for_best_model: Annotated[str, OneOf(OF_REWARDS)] = "reward"
    """Metric on the validation rows that selects the best checkpoint: the mean weighted sum of the rewards."""

    gate_metric: Annotated[str, OneOf(REWARDED)] = "reward"
    """Metric of the tuned model that decides whether it is registered."""
