"""Find reasoning that the chat template does not write, which would be left out silently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steps.tasks.rules.standard import REASONING

QUESTION, ANSWER, THOUGHT = "Q3qu", "A5an", "R7th"


class Reasoning:
    """Which keys of a message with reasoning a template writes."""

    def __init__(self, tokenizer: Any, template: str | None = None):
        self.tokenizer, self.template = tokenizer, template
        self._written: dict[tuple[str, bool], bool] = {}

    def left_out(self, messages: list[dict[str, Any]]) -> Iterator[str]:
        """Yield a sentence for each kind of reasoning in a conversation that the template does not write."""
        if not any(key in message for message in messages for key in REASONING):
            return
        asked = max((number for number, message in enumerate(messages) if message["role"] == "user"), default=-1)
        for number, message in enumerate(messages):
            for key in REASONING:
                if message.get(key) and not self._writes(key, number > asked):
                    early = "" if number > asked else " before the last question"
                    yield f"{key} of messages{early} that the chat template does not write: it is not learned"

    def _writes(self, key: str, last: bool) -> bool:
        if (key, last) not in self._written:
            turn = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER, key: THOUGHT}]
            later = [] if last else [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
            try:
                text = self.tokenizer.apply_chat_template(turn + later, chat_template=self.template, tokenize=False)
            except Exception:  # a template may raise any exception; it will raise it for the rows as well
                text = THOUGHT
            self._written[key, last] = THOUGHT in str(text)
        return self._written[key, last]
