"""Memory of answering prompts: weights, keys and values of what is answered at a time, and what each task needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from steps.kinds.recipe import Recipe
from steps.params.pipelines.batch_inference import BatchInferenceParameters
from steps.params.reading import default_of
from steps.plan.activations import architecture_of
from steps.plan.hardware import NO_POOL, Hardware
from steps.plan.machine import gpu_memory_here, memory_here
from steps.plan.memory import HEADROOM, stored_bytes
from steps.plan.need import GIB, Need
from steps.plan.needs import CUDA, IMPORTING, MARGIN, TORCH, copied, downloaded, fetched, merging, prepared, told
from steps.plan.seen import runs_here
from steps.plan.sources import DataFound, ModelFound
from steps.reports.formats import size
from steps.sources.model_files import ModelFiles

WIDE, HALF = 4, 2  # bytes of a number in 32 and in 16 bits
ROWS_READ = 2 * 8192  # rows that generate holds at a time, with their answers
BYTES_OF_ROW = 64 * 1024  # of a long prompt with its answer
BYTES_OF_TOKEN = 5  # of a text, about
SCORING = GIB  # nltk, scipy and rouge-score, without texts
GENERATE = "generate"


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes of the model and of what it answers at a time, and where they must fit."""

    parts: dict[str, int] = field(default_factory=dict)
    available: int = 0
    """0 if unknown."""
    where: str = ""
    on_gpu: bool = False
    on_cpu: int = 0
    """Bytes of weights that are kept in the machine's memory."""

    @property
    def needed(self) -> int:
        """Sum of the parts."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether it fits; also if the available memory is not known."""
        return not self.available or self.needed <= self.available


def memory_of(
    p: BatchInferenceParameters, recipe: Recipe, model: ModelFound, hardware: Hardware, gpus: int
) -> InferenceMemory:
    """Estimate the memory of an engine on the GPUs of `hardware`, or on its processors if `gpus` is 0.

    Keys and values are counted for the longest prompt and answer, for as many as are answered at a time; vLLM and
    servers divide what memory there is, so for vLLM only one of them is.
    """
    on_gpu, available, where = _room(hardware, gpus)
    wide = p.inference_precision == "full" or (p.inference_precision == "auto" and not on_gpu)
    width = WIDE if wide else HALF
    shape = architecture_of(model.layout.config, recipe.kind.has_encoder)
    weights = stored_bytes(p, shape, model.layout.config, model.parameters, width)
    answers = 1 if p.inference_type == "vllm" else p.test_batch_size
    beams = max(p.num_beams, 1 if p.do_sample else p.num_return_sequences)
    tokens = answers * beams * longest(p, model)
    cache = tokens * 2 * shape.keys * (shape.decoder_layers or shape.layers) * width
    logits = answers * beams * shape.vocabulary * WIDE * 2
    layer = tokens * (shape.inner * 3 + shape.hidden * 6) * width
    parts = {"weights": weights, "keys and values": cache if p.use_cache else 0, "one layer": layer, "logits": logits}
    on_cpu = 0
    if p.cpu_offload and p.inference_type == "deepspeed_zero":
        parts["weights"], on_cpu = weights // max(shape.layers + shape.decoder_layers, 1), weights
    parts = {name: count for name, count in parts.items() if count}
    return InferenceMemory(parts, available, where, on_gpu, on_cpu)


def longest(p: BatchInferenceParameters, model: ModelFound) -> int:
    """Return the longest prompt and answer together in tokens."""
    asked = p.max_length if p.max_new_tokens else p.max_inference_length
    positions = model.layout.max_positions
    return min(asked, positions) if positions else asked


def _room(hardware: Hardware, gpus: int) -> tuple[bool, int, str]:
    """Return whether a GPU computes, the bytes there, and where that is."""
    if runs_here() and hardware.machine in ("", default_machine()):
        if gpus and (found := gpu_memory_here()):
            return True, int(found * gpus * HEADROOM), "this machine's GPU" if gpus == 1 else "this machine's GPUs"
        return False, memory_here(), "this machine"
    if gpus:
        count = int(hardware.gpu_count) or gpus
        whole = hardware.gpu_memory * GIB * count * HEADROOM
        return True, int(whole), f"{count} GPU{'s' if count > 1 else ''} of instance_type_inference"
    return False, hardware.memory_gib * GIB, "instance_type_inference"


def default_machine() -> str:
    """Return the default of instance_type_inference: then no other machine was asked for."""
    return str(default_of(BatchInferenceParameters.model_fields["instance_type_inference"]))


def is_asked_for(p: BatchInferenceParameters) -> bool:
    """Return whether a machine was named, so that a plan made on this machine is for that one."""
    return p.instance_type_inference != default_machine() or p.compute_inference not in NO_POOL


def needs_of(
    p: BatchInferenceParameters,
    model: ModelFound | None,
    adapter: ModelFiles | None,
    data: Mapping[str, DataFound],
    memory: InferenceMemory | None,
) -> dict[str, Need]:
    """Return what each task needs, by its name; `adapter` is one that is served beside its base."""
    own = sum(adapter.names.values()) if adapter else 0
    rows = sum(found.unpacked or 0 for found in data.values())
    return {
        "import_model": _import(model),
        "import_adapter": Need(IMPORTING, f"an adapter of {size(own)}" if adapter else "no adapter to import",
                               own + (fetched(adapter, {}) if adapter else 0), least=IMPORTING, work=own),
        "prepare_data": prepared(data),
        GENERATE: _generate(p, model, own, rows, memory),
        "score": _score(p, data, rows),
    }  # fmt: skip


def _score(p: BatchInferenceParameters, data: Mapping[str, DataFound], rows: int) -> Need:
    """Return what comparing answers with right ones needs: the texts of both are in memory."""
    counts = [found.rows if found.rows is not None else found.most for found in data.values()]
    if None in counts:
        return Need(None, "answers to an unknown number of rows", 2 * rows)
    answers = (sum(count or 0 for count in counts) or len(p.asked)) * p.num_return_sequences
    longest_text = BYTES_OF_TOKEN * (p.max_new_tokens or p.max_inference_length)
    memory = SCORING + 2 * (answers * longest_text + rows)
    return Need(memory, f"{answers:,} answers with a right one, at most", 2 * rows, least=SCORING, work=memory)


def _import(model: ModelFound | None) -> Need:
    if model is None:
        return Need(IMPORTING, "a model that a server has", least=IMPORTING)
    merges = model.settings.needs_torch
    own = model.adapter.bytes if model.adapter else 0
    disk = fetched(model.files, model.layout.files) + copied(model) + own + (model.bytes if merges else 0)
    memory = max(merging(model) if merges else 0, IMPORTING + downloaded(model))
    why = told(model) + (", merging its adapter" if merges else "")
    return Need(memory, why, disk, least=memory, work=model.bytes * (2 if merges else 1))


def _generate(
    p: BatchInferenceParameters, model: ModelFound | None, adapter: int, rows: int, memory: InferenceMemory | None
) -> Need:
    held = ROWS_READ * BYTES_OF_ROW
    if model is None or memory is None:
        return Need(TORCH + held, "requests to a server", 3 * rows, least=TORCH)
    disk = copied(model) + adapter + 3 * rows
    if memory.on_gpu:
        least = CUDA + held + memory.on_cpu
        return Need(least + model.bytes, f"{told(model)}, on GPUs", disk, least=least, work=least + model.bytes)
    loaded = memory.parts.get("weights", 0)
    whole = TORCH + int(MARGIN * (memory.needed + model.bytes)) + held
    return Need(whole, f"{told(model)}, on the CPU", disk, least=TORCH + loaded, work=whole)
