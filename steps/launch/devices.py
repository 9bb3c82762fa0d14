"""Whether a step sees the GPUs that its pod requested, and that its processes need."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from steps.errors import OutOfResources, Problem
from steps.running import LOCAL_ROOT

VISIBLE = ("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
# What precedes the version → the file with the version of a loaded driver.
DRIVERS = {"": "/proc/driver/nvidia/version", "amdgpu ": "/sys/module/amdgpu/version"}


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
    facts = [
        f"torch {torch.__version__} is built for {_platform(torch.version)}",
        f"driver: {_driver()}",
        f"visible devices: {_visible()}",
    ]
    raise OutOfResources(
        Problem("RESOURCE-E0501", "GPUs", f"{usable} that torch can use ({'; '.join(facts)})",
                f"{requested}, as the pod requested", "use an image whose torch fits the node's driver, or set "
                "number_of_gpu_to_use_finetuning=0", why="the step would run on the CPU while the GPU is paid for")
    )  # fmt: skip


def refuse_shared_gpus(processes: int) -> None:
    """Raise OutOfResources if this machine has GPUs, but not one for each of several processes."""
    import torch

    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < usable < processes:
        raise OutOfResources(
            Problem("RESOURCE-E0502", "GPUs", f"{usable} for {processes} training processes", "one for each of them",
                    f"set nproc_per_node_finetune and number_of_gpu_to_use_finetuning to {usable}, or train on the CPU "
                    "with CUDA_VISIBLE_DEVICES= in the environment")
        )  # fmt: skip


def _platform(version: Any) -> str:
    cuda, rocm = version.cuda, getattr(version, "hip", None)
    return f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "the CPU only"


def _visible() -> str:
    """Return the variables that hide GPUs from a process, of CUDA and of ROCm."""
    given = {name: os.environ[name] for name in VISIBLE if name in os.environ}
    return next(iter(given.values()), "not set") if len(given) < 2 else ", ".join(f"{k}={v}" for k, v in given.items())


def _driver() -> str:
    """Return the versions of the kernel's GPU drivers, of NVIDIA and of AMD."""
    found = []
    for name, file in DRIVERS.items():
        with suppress(OSError):
            found.append(f"{name}{Path(file).read_text(encoding='utf-8').splitlines()[0].strip()}")
    return ", ".join(found) or "none found"
