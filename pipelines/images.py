"""Which image a step runs in.

Images are built from containers/ and named by their version, so that KFP's cache, which keys on the name, never takes
an old image's result for a new one's. A registry or a digest is put in front at compile time (`compile.py`).
"""

from steps import __version__

CORE = f"finetune-pipelines-core:{__version__}"
"""Without torch: plan, import_adapter, prepare_data, register_model, report."""

TRAIN = f"finetune-pipelines-train:{__version__}"
"""With torch and the training stack: import_model, finetune, merge_adapter, adapter_tool, evaluate."""
