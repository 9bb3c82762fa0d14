"""The image of each step.

Images are built from containers/. The tag is the version, so that KFP's cache, whose key includes the image name, never
returns an old image's result for a new image. `compile.py` adds a registry or replaces the reference at compile time.
"""

from steps import __version__

CORE = f"finetune-pipelines-core:{__version__}"
"""Without torch: plan, import_adapter, prepare_data, register_model, report."""

TRAIN = f"finetune-pipelines-train:{__version__}"
"""With torch and the training stack: import_model, finetune, merge_adapter, adapter_tool, evaluate."""
