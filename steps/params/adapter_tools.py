"""What is done with a finished adapter."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from steps.errors import Problem, shown
from steps.params.group import Group
from steps.params.input_adapter import AdapterSource

Action = Literal["merge", "vllm", "replace_tokens", "check"]
# Parameter → the action that reads it.
READ_BY: dict[str, Action] = {"replacements": "replace_tokens", "training_config": "vllm"}


class AdapterTool(Group):
    """What is done with it."""

    action: Action = "check"
    """Fold it into the base (merge), make it loadable for vLLM, rename tokens of its tokenizer, or only check it."""

    replacements: dict[str, Any] = Field(default_factory=dict)
    """For replace_tokens, token → new name as JSON, such as {"<|im_end|>": "</s>"}; without an adapter, in the base."""

    training_config: str = ""
    """For vllm, the adapter's training configuration (YAML): told beside what the tensors say, which decides."""

    def conflicts(self) -> Iterator[Problem]:
        """Each option belongs to one action."""
        for name, action in READ_BY.items():
            if getattr(self, name) and self.action != action:
                yield Problem("PARAM-E0291", name, f"given with action={self.action}", f"action={action}",
                              f"set action={action}, or leave it out")  # fmt: skip
        if self.action == "replace_tokens":
            if not self.replacements:
                yield Problem("PARAM-E0292", "replacements", "nothing", "token → new name",
                              'write it as {"<|im_end|>": "</s>"}')  # fmt: skip
            for token, name in self.replacements.items():
                if not isinstance(name, str) or not name:
                    yield Problem("PARAM-E0292", f"replacements.{token}", shown(name), "a text, the new name",
                                  'write it as {"<|im_end|>": "</s>"}')  # fmt: skip


class AdapterWork(AdapterSource, AdapterTool):
    """An adapter, and what is done with it."""

    def conflicts(self) -> Iterator[Problem]:
        """Only tokens can be renamed without an adapter."""
        if not self.adapter_path and self.action != "replace_tokens":
            yield Problem("PARAM-E0293", "adapter_path", "nothing", f"the adapter for action={self.action}",
                          "name its folder")  # fmt: skip
