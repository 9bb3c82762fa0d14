"""Tools for a trained adapter."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from steps.errors import Problem, shown
from steps.params.group import Group
from steps.params.input_adapter import AdapterSource

Action = Literal["merge", "vllm", "replace_tokens", "check"]
# Parameter → the action that uses it.
READ_BY: dict[str, Action] = {"replacements": "replace_tokens", "training_config": "vllm"}


class AdapterTool(Group):
    """The tool and its options."""

    action: Action = "check"
    """Merge the adapter into the base, make it loadable by vLLM, rename tokens of its tokenizer, or only check it."""

    replacements: dict[str, Any] = Field(default_factory=dict)
    """For replace_tokens: token → new name as JSON, {"<|im_end|>": "</s>"}; without an adapter, in the base."""

    training_config: str = ""
    """For vllm: the adapter's training configuration (YAML), reported for comparison; the tensors decide."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse options of another action, and wrong replacements."""
        for name, action in READ_BY.items():
            if getattr(self, name) and self.action != action:
                yield Problem("PARAM-E0291", name, f"set with action={self.action}", f"action={action}",
                              f"set action={action}, or leave it out")  # fmt: skip
        if self.action == "replace_tokens":
            if not self.replacements:
                yield Problem("PARAM-E0292", "replacements", "nothing", "token → new name",
                              'write it as {"<|im_end|>": "</s>"}')  # fmt: skip
            for token, name in self.replacements.items():
                if not isinstance(name, str) or not name:
                    yield Problem("PARAM-E0292", f"replacements.{token}", shown(name), "the new name, a text",
                                  'write it as {"<|im_end|>": "</s>"}')  # fmt: skip


class AdapterWork(AdapterSource, AdapterTool):
    """An adapter and the tool to run on it."""

    def conflicts(self) -> Iterator[Problem]:
        """Require an adapter, except for renaming tokens."""
        if not self.adapter_path and self.action != "replace_tokens":
            yield Problem("PARAM-E0293", "adapter_path", "nothing", f"the adapter for action={self.action}",
                          "name its folder")  # fmt: skip
