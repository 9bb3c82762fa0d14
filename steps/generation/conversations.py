"""Prompts and right answers of conversations, as the chat template of the data writes them.

A template may write more than the text of an answer, such as an empty think block before it. A model that was trained
on such answers writes it as well, so the right answer has it too:

    {"role": "assistant", "content": "4"}  →  "<think>\\n\\n</think>\\n\\n4"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.generation.tokenizer import load_tokenizer
from steps.models.chat_templates import STORED, TRAINING

ANSWER = "A5an"


class Conversations:
    """Renders conversations with the template of the data, or of the model in `model` if the data has none."""

    def __init__(self, model: Path, data: Path):
        self._tokenizer = load_tokenizer(model)
        template, training = data / STORED, data / TRAINING
        if template.is_file():
            self._tokenizer.chat_template = template.read_text(encoding="utf-8")
        self._training = training.read_text(encoding="utf-8") if training.is_file() else None
        self._closing = ""
        self.added = 0
        """Tokens that the template writes before the text of an answer, such as those of an empty think block."""

    def prompt(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> str:
        """Return the prompt for the next answer."""
        return self._rendered(messages, tools, asking=True, template=None)

    def answer(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> str:
        """Return what the template writes for the last message, without the end of the turn.

        The message's own text, if the template adds nothing but blanks to it, or if it does not write the prompt for an
        answer in front of one.
        """
        own = str(messages[-1]["content"])
        prompt = self._rendered(messages[:-1], tools, asking=True, template=self._training)
        whole = self._rendered(messages, tools, asking=False, template=self._training)
        if not whole.startswith(prompt):
            return own
        written = whole.removeprefix(prompt)
        if not (self._closing and written.endswith(self._closing)):
            closed = [*messages[:-1], {**messages[-1], "content": ANSWER}]
            told = self._rendered(closed, tools, asking=False, template=self._training)
            self._closing = told.rpartition(ANSWER)[2]  # the end of the turn
        written = written.removesuffix(self._closing)
        if written.strip() == own.strip():
            return own
        if not self.added:
            plain = [*messages[:-1], {"role": "assistant", "content": ANSWER}]
            told = self._rendered(plain, tools, asking=False, template=self._training).removeprefix(prompt)
            before = told.partition(ANSWER)[0]
            self.added = len(self._tokenizer(before, add_special_tokens=False)["input_ids"])
        return written

    def _rendered(
        self, messages: list[dict[str, Any]], tools: list[Any] | None, asking: bool, template: str | None
    ) -> str:
        how: dict[str, Any] = {"chat_template": template, "tokenize": False, "add_generation_prompt": asking}
        return str(self._tokenizer.apply_chat_template(messages, tools=tools, **how))
