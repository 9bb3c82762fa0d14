"""What all methods share that learn from preferences: the rows, the evaluation, what has no meaning for them."""

from __future__ import annotations

from typing import Any

_ANSWERS_COMPARED = "what is learned is which answer is better; the prompt never carries loss"

PREFERENCES: dict[str, Any] = {
    "kinds": ("causal_lm",),
    "writer": "steps.prepare_data.write.preferences",
    "evaluator": "steps.evaluate.preferred:compare",
    "report": ("preferences", "steps.reports.preference_facts:preference_facts"),
    "rated": False,
    "sums_losses": False,
    "answers_per_row": 2,  # both answers of a pair stand in one batch
    "best_metrics": True,
    "takes_new_tokens": True,
    "takes_prompts": False,
    "unfit": {
        "packing": "each answer is measured by itself",
        "train_on_completions_only": _ANSWERS_COMPARED,
        "response_template": _ANSWERS_COMPARED,
        "instruction_template": _ANSWERS_COMPARED,
        "comma_separated_template": _ANSWERS_COMPARED,
        "lora_dropout": "dropout is switched off, for rewards are small differences of probabilities",
    },
}
# Those that measure answers against a reference model.
WITH_REFERENCE: dict[str, Any] = {
    **PREFERENCES,
    "asks_reference": True,
    "whole_logits": False,
    "pads_to_max_length": True,
}
# Those that do not: TRL's experimental trainers.
WITHOUT_REFERENCE: dict[str, Any] = {
    **PREFERENCES,
    "asks_reference": False,
    "whole_logits": True,
    "pads_to_max_length": False,
}
# Parameters of what is measured against.
REFERENCE = frozenset({"reference_model_path", "precompute_ref_log_probs"})
