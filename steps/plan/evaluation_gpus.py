"""How many GPUs an evaluation needs: as many as hold the weights and what generating answers needs besides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from steps.kinds.recipe import Recipe
from steps.params.pipeline import SupervisedParameters
from steps.plan.activations import architecture_of
from steps.plan.hardware import Hardware, evaluation_hardware, gpus_of, instance_types
from steps.plan.lengths import longest
from steps.plan.memory import HEADROOM
from steps.plan.need import GIB
from steps.plan.packages import image_notes
from steps.plan.seen import Seen
from steps.plan.sources import ModelFound

LOGITS_BYTES = GIB  # of a batch of an evaluation (`steps/evaluate/losses.py`), a float32 copy and a part of it


def evaluated_on(
    p: SupervisedParameters, recipe: Recipe, model: ModelFound, most: Mapping[str, Hardware]
) -> Mapping[str, Hardware]:
    """Return the requests with as many GPUs for evaluate as one model needs: base and tuned are loaded in turn.

    transformers puts the layers of a model on all GPUs that the step sees (`steps/generation/loading.py`). A written
    number of GPUs stays. Raises as `hardware_of`.
    """
    found = most["evaluate"]
    if not p.number_of_gpu_to_use_finetuning or not found.gpu_memory:
        return most
    wanted = gpus_needed(evaluation_bytes(p, recipe, model), found.gpu_memory)
    count = min(wanted, gpus_of(p, "instance_type_model_evaluation"))
    return {**most, "evaluate": evaluation_hardware(p, count)} if count > int(found.gpu_count) else most


def evaluation_bytes(p: SupervisedParameters, recipe: Recipe, model: ModelFound) -> int:
    """Return the GPU memory of evaluating a model: weights, keys and values of a batch that is generated, logits."""
    width = 2 if p.precision == "16" else 4
    shape = architecture_of(model.layout.config, recipe.kind.has_encoder)
    answer = 0 if recipe.method.rewarded else p.evaluation_max_new_tokens  # completions are part of the longest
    tokens = p.per_device_eval_batch_size * (longest(p, recipe, model) + answer)
    beams = getattr(p, "num_beams", 1) if recipe.kind.has_encoder else 1
    cache = tokens * beams * 2 * shape.keys * (shape.decoder_layers or shape.layers) * width
    layer = tokens * (shape.inner * 3 + shape.hidden * 6) * width
    logits = 2 * min(LOGITS_BYTES, tokens * shape.vocabulary * width) if recipe.kind.logits_over_vocabulary else 0
    return model.parameters * width + cache + layer + logits


def gpus_needed(size: int, gpu_memory: int) -> int:
    """Return the number of GPUs of `gpu_memory` GiB that hold `size` bytes."""
    return max(1, -(-size // int(gpu_memory * GIB * HEADROOM)))


def evaluation_notes(seen: Seen) -> Iterator[str]:
    """Warn of a model that does not fit into all GPUs that evaluate may use, and of an image without vLLM."""
    p, model, found = seen.parameters, seen.model, seen.hardware.get("evaluate")
    yield from image_notes("evaluation_engine", p.evaluation_engine, "evaluate")
    if model is None or found is None or not found.gpu_memory or not p.number_of_gpu_to_use_finetuning:
        return
    size, count = evaluation_bytes(p, seen.recipe, model), int(found.gpu_count)
    if gpus_needed(size, found.gpu_memory) > count:
        gpus = "its GPU" if count == 1 else f"its {count} GPUs"
        smaller = "" if p.precision == "16" else ", or set precision=16"
        yield (f"instance_type_model_evaluation: evaluate is expected to need {size / GIB:.1f} GiB, but "
               f"{found.gpu_memory * count * HEADROOM:.1f} GiB of {gpus} are usable: name a larger one"
               f"{_larger(p, size)}{smaller}")  # fmt: skip


def _larger(p: SupervisedParameters, size: int) -> str:
    known = sorted(
        (kind.gpus * kind.gpu_memory, name)
        for name, kind in instance_types(p).items()
        if gpus_needed(size, kind.gpu_memory or 1) <= kind.gpus
    )
    return f", such as {known[0][1]}" if known else ""
