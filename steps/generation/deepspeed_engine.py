"""Engine `deepspeed`: DeepSpeed-Inference, which divides layers among GPUs (tensor parallel).

Its kernels are not used, whatever replace_with_kernel_inject says: with transformers 5.17 those of DeepSpeed 0.19.8
fail, or give other answers, for every architecture that they know (tests/steps/test_deepspeed_engines.py tries each).
Without them the layers are transformers' own, so safetensors and bfloat16 are no obstacle.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from steps.errors import OutOfResources, Problem, UserError
from steps.generation.decoding_rules import refuse_wrong
from steps.generation.deepspeed_group import PACKAGE, InGroup, buffers_of, gpus, missing, restore_buffers
from steps.generation.engine_rules import refuse_unfit
from steps.generation.rank_group import RankGroup
from steps.generation.requests import Engine
from steps.generation.transformers_engine import number_type_of
from steps.params.settings import GenerateSettings

__all__ = ["missing", "open_engine", "open_rank"]

log = logging.getLogger("finetune")

# Values of model_type in config.json whose injected layers give transformers' answers: none.
KERNELS: frozenset[str] = frozenset()


def open_engine(settings: GenerateSettings, model: Path | None, adapter: Path | None = None) -> Engine:
    """Load the model, divided among `tensor_parallel_size` GPUs, or that many processes without a GPU.

    Raises UserError for settings that it cannot follow, OutOfResources without enough GPUs or memory.
    """
    refuse(settings, model)
    assert model is not None
    count = settings.engine.tensor_parallel_size
    if 0 < (there := gpus()) < count:
        raise OutOfResources(
            Problem("GEN-E0543", "tensor_parallel_size", f"{count} with {there} GPUs", f"at most {there}",
                    f"set tensor_parallel_size={there}")
        )  # fmt: skip
    if settings.engine.replace_with_kernel_inject:
        log.info("DeepSpeed's kernels are not used: they do not fit this version of transformers")
    if count == 1:
        return open_rank(settings, model, adapter)
    return RankGroup("deepspeed", __name__, count, False, settings, model, adapter)


def refuse(settings: GenerateSettings, model: Path | None) -> None:
    """Raise UserError for what the engine cannot do, and for what is missing."""
    refuse_wrong(settings.decoding)
    refuse_unfit(settings)
    if lacking := missing(settings):
        raise UserError(Problem("GEN-E0248", "inference_type", f"a machine without {lacking}", f"the package {PACKAGE}",
                                "install it, or set inference_type=accelerate"))  # fmt: skip
    if model is None:
        raise UserError(Problem("GEN-E0248", "model", "no model", "a model", "name a model"))


def open_rank(settings: GenerateSettings, model: Path, adapter: Path | None = None) -> DeepSpeedEngine:
    """Load this process's part of the model."""
    return DeepSpeedEngine(settings, model, adapter)


class DeepSpeedEngine(InGroup):
    """A model whose layers DeepSpeed divided."""

    name = "deepspeed"

    def _load(self, settings: GenerateSettings, folder: Path, adapter: Path | None) -> Any:
        import deepspeed
        import torch
        import transformers

        from steps.generation.loading import load

        number_type = number_type_of(settings)
        kind = getattr(transformers, settings.recipe.kind.auto_class)
        # On the CPU first: each GPU gets its part only.
        model = load(kind, folder, "16", device_map=None, dtype=getattr(torch, number_type))
        kept = buffers_of(model)
        made = deepspeed.init_inference(model, **arguments(settings, model.config.model_type, number_type))
        restore_buffers(made.module, kept)
        return made.module.eval()

    def rest(self) -> None:
        """Do nothing: all ranks compute the same."""


def arguments(settings: GenerateSettings, model_type: str, number_type: str) -> dict[str, Any]:
    """Return the arguments of deepspeed.init_inference."""
    import torch

    return {
        "dtype": getattr(torch, number_type),
        "tensor_parallel": {"tp_size": settings.engine.tensor_parallel_size},
        "replace_with_kernel_inject": settings.engine.replace_with_kernel_inject and model_type in KERNELS,
        "max_out_tokens": settings.decoding.max_length,
    }
