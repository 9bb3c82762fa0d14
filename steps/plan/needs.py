"""What each task of a training needs of its machine, from the sizes of the model and of the rows.

The figures are peaks of resident memory in MB, measured on two cores with torch 2.13 and transformers 5.17; random
Llama models, their weights in float32, the last one's in bfloat16; chats:

    weights                          3     64    204    508    507 (bfloat16)
    import_model                    57     71     70     70     70
    import_model, from S3                         402    420          and 1162 for one file of 1014; 508: six files
    finetune, every weight         694   1020   1715   2903          0.7 GB + the estimate (23, 301, 888, 2209)
    finetune, LoRA                 681    754    941   1259   2129   0.7 GB + the estimate (14, 116, 286, 712, 1421)
    merging an adapter             256    259    284    272    296
    evaluate on the CPU            608    621    779   1089   2406   0.6 GB + the weights in float32 + the mapped file

    rows                        0.007      7     75    300 (long rows)
    prepare_data                   216    416    433    562
    finetune, LoRA, 3 MB           681    725   1615          0.7 GB + 13 bytes for each byte of short rows
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from steps.params.pipeline import SupervisedParameters
from steps.params.splits import EDGES
from steps.plan.lengths import longest
from steps.plan.memory import MemoryEstimate, adapter_parameters
from steps.plan.need import GIB, Need
from steps.plan.seen import Seen
from steps.plan.sources import DataFound, ModelFound
from steps.plan.strategy import seen_checkpoint
from steps.reports.formats import size
from steps.sources.model_files import ModelFiles
from steps.sources.storage import DOWNLOADS_AT_ONCE, local_path

MARGIN = 1.25  # estimates of training are accurate to a fifth
IMPORTING = GIB // 8  # files are copied in blocks
# Of each file that is downloaded s3fs holds ten parts of 50 MiB, and a second copy of them as they arrive.
IN_FLIGHT = 500 * 2**20
MERGING = GIB // 2  # with torch, and tensor by tensor
TORCH = int(0.7 * GIB)  # torch, transformers and the trainer, before a model is loaded
CUDA = 4 * GIB  # the same with CUDA's libraries; not measured here
PREPARING = GIB // 2
ROWS_IN_MEMORY = 2  # bytes for each byte of rows: hashes, places and counts of short rows
ROWS_TRAINED = 13  # the same in a training, for short rows and for long ones; an evaluation does not need more
WORK_OF_ROWS = 32  # rows are checked and tokenised at about a thirtieth of the speed at which weights are copied
LOGITS_BYTES = GIB  # of a batch of an evaluation (`steps/evaluate/losses.py`)
WIDE = 4  # bytes of a float32


def needs_of(seen: Seen, estimate: MemoryEstimate) -> dict[str, Need]:
    """Return what each task needs, by its name; `estimate` is that of the training."""
    p, model = seen.parameters, seen.model
    assert model is not None
    sizes = _Sizes(seen, model)
    tuning = _finetune(seen, model, estimate, sizes) if not p.number_of_gpu_to_use_finetuning else None
    return {
        "import_model": _import(model, seen.reference, sizes),
        "prepare_data": prepared(seen.data),
        "finetune": tuning or _finetune_on_gpu(seen, model, sizes),
        "evaluate": _evaluate(seen, model, sizes),
        "register_model": Need(None, "the same for every model, as it loads none", sizes.tuned + sizes.merged),
    }


def largest_tensor(model: ModelFound) -> int:
    """Return the bytes of the model's largest tensor in float32; of all weights if no shape is known."""
    known = [math.prod(shape) for shape in model.shapes.values() if shape is not None]
    return WIDE * max(known, default=model.parameters)


def merging(model: ModelFound) -> int:
    """Return the memory of merging an adapter: one tensor in float32, its change and the result."""
    return MERGING + 3 * largest_tensor(model)


def fetched(files: ModelFiles, used: Mapping[str, str]) -> int:
    """Return the bytes that import_model downloads: the used files, or a whole folder of an object store."""
    if files.repository:
        return sum(files.names[path] for path in set(used.values()) if path in files.names)
    return 0 if local_path(files.uri) is not None else sum(files.names.values())


def downloading(sizes: Iterable[int]) -> int:
    """Return the memory of downloading files of these sizes, as many at once as `storage.fetch` does."""
    at_once = sorted(sizes)[-DOWNLOADS_AT_ONCE:]
    return 2 * sum(min(size, IN_FLIGHT) for size in at_once)


def downloaded(model: ModelFound) -> int:
    """Return the memory of downloading a model; 0 if its folder is on a volume."""
    return downloading(model.files.names.values()) if fetched(model.files, model.layout.files) else 0


def copied(model: ModelFound) -> int:
    """Return the bytes of a model's files that import_model writes."""
    return sum(model.files.names.get(path, 0) for path in set(model.layout.files.values()))


class _Sizes:
    """Bytes of the artifacts that pass between the tasks."""

    def __init__(self, seen: Seen, model: ModelFound):
        p = seen.parameters
        adapter, use = model.adapter, model.settings.adapter.use if model.settings.adapter else ""
        more = (seen.reference.bytes if seen.reference else 0) + (adapter.bytes if adapter and use == "continue" else 0)
        self.model = copied(model) + more
        rows = {split: found.unpacked for split, found in seen.data.items()}
        self.rows = sum(count or 0 for count in rows.values())
        self.rows_known = None not in rows.values()
        share = 100 - EDGES[frozenset(rows.keys() - {"train"})][1]
        self.tested = (rows.get("test") or 0) + (rows.get("train") or 0) * share // 100
        self.continued = use == "continue"
        self.trained = adapter_parameters(p, seen.config) if p.apply_lora else model.parameters
        stored = model.bytes if model.bytes else WIDE * model.parameters  # new weights are in float32
        self.weights = stored
        whole = stored if p.precision == "16" else WIDE * model.parameters
        self.tuned = WIDE * self.trained if p.apply_lora else whole
        self.merged = stored if p.apply_lora else 0
        self.checkpoint = seen_checkpoint(seen)


def _import(model: ModelFound, reference: ModelFound | None, sizes: _Sizes) -> Need:
    adapter, merges = model.adapter, model.settings.needs_torch
    disk = fetched(model.files, model.layout.files) + sizes.model
    if reference:
        disk += fetched(reference.files, {**reference.layout.weights, **reference.layout.model_files})
    if adapter:
        disk += fetched(adapter.files, adapter.layout.files) + (model.bytes if merges else 0)
    why = told(model) + (", merging its adapter" if merges else "") + (" and its reference" if reference else "")
    if not _known(model):
        return Need(None, "a model of unknown size", disk)
    memory = max(merging(model) if merges else 0, IMPORTING + downloaded(model))
    return Need(memory, why, disk, least=memory, work=sizes.model * (2 if merges else 1))


def prepared(data: Mapping[str, DataFound]) -> Need:
    """Return what prepare_data needs for these splits."""
    sizes = [found.unpacked for found in data.values()]
    rows = sum(count or 0 for count in sizes)
    # Valid rows, tokens, and what was unpacked or joined: each at most as large as the rows.
    disk = sum(found.distant for found in data.values()) + 3 * rows
    if None in sizes:
        return Need(None, "rows of unknown size", 0, "the rows of unknown size, four times")
    # The files are not told apart here: as if they were as many as are downloaded at once.
    arriving = downloading([sum(found.distant for found in data.values()) // DOWNLOADS_AT_ONCE] * DOWNLOADS_AT_ONCE)
    memory = PREPARING + max(ROWS_IN_MEMORY * rows, arriving)
    return Need(memory, f"rows of {size(rows)}", disk, work=WORK_OF_ROWS * rows)


def _finetune(seen: Seen, model: ModelFound, estimate: MemoryEstimate, sizes: _Sizes) -> Need:
    """Training on the CPU: the estimate; the rows' tokens besides."""
    disk, more = _disk_of_training(seen.parameters, sizes)
    if unknown := _unknown(model, sizes):
        return Need(None, unknown, disk, more)
    count = seen.parameters.processes_per_node
    whole = estimate.needed * count + estimate.on_cpu
    loading = count * model.parameters * WIDE + model.bytes  # the file is mapped while weights of another type are made
    merge = merging(model) if seen.parameters.apply_lora else 0
    memory = max(count * TORCH + int(MARGIN * max(whole, loading)) + count * ROWS_TRAINED * sizes.rows, merge)
    each = f" in {count} processes" if count > 1 else ""
    why = f"training on the CPU{each}, about {size(whole)}"
    return Need(memory, why, disk, more, least=merge, work=memory)  # `memory_problems` refuses the training itself


def _finetune_on_gpu(seen: Seen, model: ModelFound, sizes: _Sizes) -> Need:
    """Training on a GPU takes the GPU's share of the machine; the weights are loaded by way of the CPU's memory."""
    p = seen.parameters
    half = p.precision == "16" and p.apply_lora
    loaded = 0 if p.bits else model.parameters * (2 if half else WIDE)
    disk, more = _disk_of_training(p, sizes)
    gpus = p.processes_per_node
    merge = merging(model) if p.apply_lora else 0  # when the processes have ended
    least = max(gpus * (CUDA + loaded + ROWS_TRAINED * sizes.rows), merge)
    why = "training on a GPU" if gpus == 1 else f"training on {gpus} GPUs"
    return Need(None, why, disk, more, least=least)


def _disk_of_training(p: SupervisedParameters, sizes: _Sizes) -> tuple[int, str]:
    place = p.checkpoint_dir
    elsewhere = f" in {place}" if place else ""
    if place and local_path(place) is None:
        elsewhere = f" that is not in {place} yet, and for the newest and the best"
    disk = sizes.model + sizes.rows + sizes.tuned + sizes.merged
    return disk, f"{size(sizes.checkpoint)} for each checkpoint{elsewhere}"


def _evaluate(seen: Seen, model: ModelFound, sizes: _Sizes) -> Need:
    """Evaluation loads one model at a time, never quantised."""
    p, kind = seen.parameters, seen.recipe.kind
    before = sizes.weights if sizes.continued else 0  # the model before this run, merged
    disk = sizes.model + sizes.tuned + sizes.merged + sizes.rows + before
    if unknown := _unknown(model, sizes):
        return Need(None, unknown, disk)
    if p.number_of_gpu_to_use_finetuning:
        least = CUDA + ROWS_TRAINED * sizes.tested
        memory = least + sizes.weights  # the file is mapped while it is loaded
        gpus = int(seen.hardware["evaluate"].gpu_count)
        where = "on a GPU" if gpus == 1 else f"on {gpus} GPUs"
        return Need(memory, f"{told(model)}, {where}", disk, least=least, work=memory)
    width = 2 if p.precision == "16" else WIDE
    logits = 0
    if kind.logits_over_vocabulary:
        tokens = p.per_device_eval_batch_size * longest(p, seen.recipe, model)
        logits = 3 * min(LOGITS_BYTES, tokens * (seen.config.get("vocab_size") or 0) * width)
    loaded = model.parameters * width
    memory = TORCH + int(MARGIN * (loaded + sizes.weights + logits)) + ROWS_TRAINED * sizes.tested
    return Need(memory, f"{told(model)}, on the CPU", disk, least=TORCH + loaded, work=memory)


def _unknown(model: ModelFound, sizes: _Sizes) -> str:
    """Say which size is not known; empty if both are."""
    return "" if _known(model) and sizes.rows_known else f"{'rows' if _known(model) else 'a model'} of unknown size"


def _known(model: ModelFound) -> bool:
    return bool(model.bytes or model.settings.new_weights)


def told(model: ModelFound) -> str:
    """Return the size of a model in words."""
    return f"a model of {size(model.bytes)}" if model.bytes else "a model without weights"
