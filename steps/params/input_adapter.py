"""An adapter that the model comes with."""

from typing import Literal

from steps.params.group import Group


class InputAdapter(Group):
    """What was learned before and is kept beside the weights."""

    adapter_path: str = ""
    """Folder of a PEFT adapter that the model has already: a path or any fsspec URI (hf://owner/name); empty: none."""

    adapter_use: Literal["merge", "continue"] = "merge"
    """What becomes of it: merge folds it into the model before anything else, continue goes on training it."""
