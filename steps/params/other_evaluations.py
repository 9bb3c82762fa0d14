"""What evaluation_config files of other systems say: their keys and metrics, in our terms.

Source: the keyword arguments and metric names of azureml-metrics 0.0.91, and the public configuration files of its
pipelines.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

# Key → ours.
OTHER_KEYS = {"ignore_punctuations": "ignore_punctuation", "stemmer": "use_stemmer"}

_JUDGES = "no other model judges the answers"
_CODE = "generated code is never run"
_LABELS = "the labels are those of the training rows"
_ONE_PROCESS = "it belongs to another system's process"
_GENERATION = "evaluation_max_new_tokens, num_beams and max_seq_length say how answers are generated"
_PERPLEXITY = "perplexity is computed with the model itself, on all tokens of the answers"
_INTERVALS = "no confidence intervals are computed"
_POSITIVE = "of two labels the second in the order of the classes is the positive one"
_OF_JUDGES = (
    "questions", "contexts", "openai_api_batch_size", "use_openai_endpoint", "openai_params", "openai_config_params",
    "max_concurrent_requests", "use_chat_completion_api", "openai_embedding_engine", "llm_params", "llm_api_batch_size",
    "llm_use_chat_completion_payload", "score_version", "use_previous_conversation", "score_all_conversations",
)  # fmt: skip
_OF_GENERATION = ("tokenizer_config", "generator_config", "generation_config", "pipeline_init_args", "model_params")
# Key without effect → the values that ask for what is done anyway, and the reason to tell for any other.
IDLE_KEYS: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_binary": ((False,), "metrics of the positive label have names of their own, such as f1_binary"),
    "positive_label": ((None,), _POSITIVE),
    "enable_metric_confidence": ((False,), _INTERVALS),
    "confidence_metrics": (([], None), _INTERVALS),
    "aggregator": ((True,), "scores are means over all rows; predictions.parquet has each answer"),
    "use_static_script": ((True, False), ""),
    **dict.fromkeys(("class_labels", "train_labels", "train_label_list", "label_list"), ((None,), _LABELS)),
    "y_transformer": ((None,), _LABELS),
    "sample_weight": ((None,), "every row has the same weight"),
    "tokenizer": ((None,), "BLEU and ROUGE use their own words"),
    **dict.fromkeys(("lang", "model_type", "idf", "rescale_with_baseline"), ((), "bertscore is not computed")),
    **dict.fromkeys(("model_id", "batch_size", "add_start_token"), ((), _PERPLEXITY)),
    **dict.fromkeys(_OF_JUDGES, ((None,), _JUDGES)),
    "sub_task": ((None, "", "text"), _CODE),
    **dict.fromkeys(("test_cases", "allow_code_eval", "no_of_candidates", "num_workers", "timeout", "dataset"),
                    ((None, False), _CODE)),
    **dict.fromkeys(_OF_GENERATION, ((None, {}), _GENERATION)),
    **dict.fromkeys(("custom_dimensions", "log_activity", "log_traceback", "task_type"), ((None,), _ONE_PROCESS)),
    **dict.fromkeys(("source_lang", "target_lang"), ((None,), "the parameters of this name count")),
}  # fmt: skip

# Metric → ours, the first one that the task has; a name that is one of the task's metrics is not translated.
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "matthews_correlation": ("mcc",),
    "exact_match": ("exact",),
    "macro_averaged_exact_match": ("exact", "exact_match"),
    "f1_score": ("f1", "word_f1"),
    "macro_averaged_f1": ("f1", "word_f1"),
    "perplexities": ("perplexity",),
    "accuracy": ("subset_accuracy",),
    **{
        f"{measure}_score_{average}": (f"{measure}_{average}",)
        for measure in ("f1", "precision", "recall", "average_precision")
        for average in ("binary", "macro", "micro", "weighted")
    },
}
_CLASSES = ("precision_score", "recall_score", "f1_score", "iou", "average_precision_score", "AUC")
# Metric that is no number, or that is not computed → the reason.
NOT_REPORTED = {
    **dict.fromkeys(("accuracy_table", "confusion_matrix", "classification_report"), "the report shows it in any case"),
    **{f"{name}_classwise": "the report shows the scores of each class in any case" for name in _CLASSES},
    **dict.fromkeys(("bertscore", "ada_similarity", "conversation_groundedness_score"), _JUDGES),
    **{
        f"{judge}_{quality}": _JUDGES
        for judge in ("gpt", "llm")
        for quality in ("similarity", "coherence", "relevance", "groundedness", "fluency", "retrieval_score")
    },
    "code_eval": _CODE,
}


def our_name(name: str, known: Collection[str]) -> str:
    """Return our name of a metric."""
    if name in known:
        return name
    return next((ours for ours in OTHER_NAMES.get(name, ()) if ours in known), OTHER_NAMES.get(name, (name,))[0])


def idle_key(key: str, value: Any) -> str | None:
    """Return the reason why a key of another system has no effect; empty if it asks for what is done anyway.

    None for a key that no other system has.
    """
    if key not in IDLE_KEYS:
        return None
    same, reason = IDLE_KEYS[key]
    return "" if any(value is one or (value == one and type(value) is type(one)) for one in same) else reason
