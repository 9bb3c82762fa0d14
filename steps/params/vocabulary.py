"""Additional tokens and the padding token."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import field_validator

from steps.errors import Problem, shown
from steps.params.group import Group

# Strategy → the special token that becomes the padding token.
REPURPOSED = {
    "eos-repurpose": "eos_token",
    "bos-repurpose": "bos_token",
    "unk-repurpose": "unk_token",
    "unk-convert-to-eos": "unk_token",
}


class VocabularyParams(Group):
    """Changes to the model's vocabulary."""

    additional_special_tokens: str = ""
    """Tokens to add to the vocabulary, separated by commas or as a JSON list; empty adds none."""

    add_template_tokens: bool = True
    """Add control tokens of a built-in chat_template that the model lacks; false refuses the run if any is missing."""

    missing_pad_token_strategy: Literal["eos-repurpose", "bos-repurpose", "unk-repurpose", "unk-convert-to-eos"] = (
        "eos-repurpose"
    )
    """Token for padding if the tokenizer has none; unk-convert-to-eos saves unk and trains with eos."""

    @field_validator("additional_special_tokens", mode="before")
    @classmethod
    def _tokens_as_text(cls, value: Any) -> Any:
        """A configuration file may hold the list itself."""
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value

    @property
    def special_tokens(self) -> list[str]:
        """The additional tokens in order, without repetition. Raises ValueError if the text is not a list of tokens."""
        text = self.additional_special_tokens.strip()
        if not text:
            return []
        tokens = json.loads(text) if text.startswith("[") else [token.strip() for token in text.split(",")]
        if not all(isinstance(token, str) and token and token == token.strip() for token in tokens):
            raise ValueError("an empty token, or one with blanks around it")
        return list(dict.fromkeys(tokens))

    def conflicts(self) -> Iterator[Problem]:
        """Refuse a value that is not a list of tokens."""
        try:
            _ = self.special_tokens
        except ValueError as error:
            found = f"{shown(self.additional_special_tokens)}: {error}"
            yield Problem("PARAM-E0285", "additional_special_tokens", found,
                          'tokens such as <|call|>,<|result|>, or ["<|call|>", "<|result|>"]',
                          "write each token once, without blanks around it")  # fmt: skip
