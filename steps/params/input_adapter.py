"""An adapter that belongs to the model."""

from typing import Literal

from steps.params.group import Group


class AdapterSource(Group):
    """What was learned before and is kept beside the weights."""

    adapter_path: str = ""
    """Folder of a PEFT adapter of this model: a path or any fsspec URI (s3, gs, hf://owner/name, …); empty: none."""


class InputAdapter(AdapterSource):
    """What becomes of an adapter that the model comes with."""

    adapter_use: Literal["merge", "continue"] = "merge"
    """What becomes of adapter_path: merge folds it into the model first, continue goes on training it."""
