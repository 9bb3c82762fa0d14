"""The image of each step.

Images are built from containers/ and tagged with the version, because KFP's cache key includes the image name: a new
image must not reuse results of an old one. The registry or a digest is set at compile time (`compile.py`).
"""

from steps import __version__

CORE = f"finetune-pipelines-core:{__version__}"
"""Without torch: plan, import_adapter, prepare_data, register_model, report, score."""

TRAIN = f"finetune-pipelines-train:{__version__}"
"""With torch and the training stack: import_model, finetune, adapter_tool, evaluate, generate."""

VERL = f"finetune-pipelines-verl:{__version__}"
"""With verl, vLLM and the versions that they need: finetune of the pipelines that train with verl."""

IMAGES = (CORE, TRAIN, VERL)
