"""Reasons for refusing a parameter that several kinds of models share."""

from __future__ import annotations

NO_CHAT = "the rows are not conversations"
VOCABULARY_KEPT = "only the vocabulary of a causal language model can be extended"
ENCODER_ONLY = "the model has no encoder"


def without_text(learned: str) -> dict[str, str]:
    """Return parameter → reason for a model that generates no text; `learned` is the reason for the label mask."""
    return {
        "packing": "the model predicts for each row separately, so rows cannot share a sequence",
        "chat_template": NO_CHAT,
        "add_template_tokens": NO_CHAT,
        "additional_special_tokens": VOCABULARY_KEPT,
        "train_on_completions_only": learned,
        "response_template": learned,
        "instruction_template": learned,
        "comma_separated_template": learned,
        "evaluation_max_new_tokens": "nothing is generated",
    }
