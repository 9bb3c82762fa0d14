"""Whether a step sees the GPUs that its pod requested."""

from __future__ import annotations

import os

from steps.errors import OutOfResources, Problem
from steps.running import LOCAL_ROOT


def refuse_missing_gpus(requested: int) -> None:
    """Raise OutOfResources if torch can use fewer GPUs than were requested; a local run uses what the machine has.

    Without this check a training on a node with the wrong driver or image would run on the CPU, at the price of a GPU.
    """
    if not requested or LOCAL_ROOT in os.environ:
        return
    import torch

    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if usable >= requested:
        return
    built = torch.version.cuda or getattr(torch.version, "hip", None)
    visible = os.environ.get("NVIDIA_VISIBLE_DEVICES") or os.environ.get("CUDA_VISIBLE_DEVICES")
    facts = [
        f"torch {torch.__version__} is built for {'CUDA or ROCm ' + built if built else 'the CPU only'}",
        f"driver: {_driver()}",
        f"visible devices: {visible or 'not set'}",
    ]
    raise OutOfResources(
        Problem("RESOURCE-E0501", "GPUs", f"{usable} that torch can use ({'; '.join(facts)})",
                f"{requested}, as the pod requested", "use an image whose torch fits the node's driver, or set "
                "number_of_gpu_to_use_finetuning=0", why="the step would run on the CPU while the GPU is paid for")
    )  # fmt: skip


def _driver() -> str:
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
            return file.readline().strip()
    except OSError:
        return "none found"
