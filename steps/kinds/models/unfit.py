"""Reasons, shared by several kinds of models, why a parameter has no effect."""

from __future__ import annotations

NO_CHAT = "the rows are not conversations"
VOCABULARY_KEPT = "new tokens are supported for causal language models only"
ENCODER_ONLY = "the model has no encoder"
NOTHING_WRITTEN = "nothing is generated"


def without_text(learned: str) -> dict[str, str]:
    """Return the parameters without effect for a model that writes no text; `learned` says what it predicts."""
    return {
        "packing": "each row is classified separately, so rows cannot share a sequence",
        "chat_template": NO_CHAT,
        "add_template_tokens": NO_CHAT,
        "additional_special_tokens": VOCABULARY_KEPT,
        "train_on_completions_only": learned,
        "response_template": learned,
        "instruction_template": learned,
        "comma_separated_template": learned,
        "evaluation_max_new_tokens": NOTHING_WRITTEN,
        "evaluation_engine": NOTHING_WRITTEN,
    }
