"""Values shared by all methods that train on preferences: rows, evaluation, parameters without effect."""

from __future__ import annotations

from typing import Any

_ANSWERS_COMPARED = "the loss compares answers; prompt tokens never have loss"

PREFERENCES: dict[str, Any] = {
    "kinds": ("causal_lm",),
    "writer": "steps.prepare_data.write.preferences",
    "evaluator": "steps.evaluate.preferred:compare",
    "report": ("preferences", "steps.reports.preference_facts:preference_facts"),
    "rated": False,
    "rewarded": False,
    "sums_losses": False,
    "answers_per_row": 2,  # both answers of a pair are in the same batch
    "best_metrics": True,
    "takes_new_tokens": True,
    "takes_prompts": False,
    "unfit": {
        "packing": "the log probability of each answer is computed separately",
        "train_on_completions_only": _ANSWERS_COMPARED,
        "response_template": _ANSWERS_COMPARED,
        "instruction_template": _ANSWERS_COMPARED,
        "comma_separated_template": _ANSWERS_COMPARED,
        "evaluation_engine": "given answers are compared; the few that are shown are written by transformers",
        "lora_dropout": "dropout is disabled, because rewards are small differences of log probabilities",
    },
}
# Methods with a reference model.
WITH_REFERENCE: dict[str, Any] = {
    **PREFERENCES,
    "asks_reference": True,
    "whole_logits": False,
    "pads_to_max_length": True,
}
# Methods without a reference model: TRL's experimental trainers.
WITHOUT_REFERENCE: dict[str, Any] = {
    **PREFERENCES,
    "asks_reference": False,
    "whole_logits": True,
    "pads_to_max_length": False,
}
# Parameters of the reference model.
REFERENCE = frozenset({"reference_model_path", "precompute_ref_log_probs"})
