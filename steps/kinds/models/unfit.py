"""Reasons that several kinds of models share for refusing a parameter."""

from __future__ import annotations

NO_CHAT = "the rows are no conversations"
VOCABULARY_KEPT = "only the vocabulary of a model that goes on from its prompt is extended"
ENCODER_ONLY = "the model has no encoder"


def without_text(learned: str) -> dict[str, str]:
    """What means nothing for a model that reads texts and writes none; `learned` says what it learns instead."""
    return {
        "packing": "each row is judged by itself, so rows cannot share a sequence",
        "chat_template": NO_CHAT,
        "add_template_tokens": NO_CHAT,
        "additional_special_tokens": VOCABULARY_KEPT,
        "train_on_completions_only": learned,
        "response_template": learned,
        "instruction_template": learned,
        "comma_separated_template": learned,
        "evaluation_max_new_tokens": "nothing is generated",
    }
