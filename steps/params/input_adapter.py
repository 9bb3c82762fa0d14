"""An adapter given with the model."""

from typing import Literal

from steps.params.group import Group


class AdapterSource(Group):
    """Source of a PEFT adapter."""

    adapter_path: str = ""
    """Folder of a PEFT adapter of this model: a path or any fsspec URI (s3, gs, hf://owner/name, …); empty: none."""


class InputAdapter(AdapterSource):
    """An adapter given with the model, and how it is used."""

    adapter_use: Literal["merge", "continue"] = "merge"
    """How adapter_path is used: merge merges it into the model first, continue trains it further."""
