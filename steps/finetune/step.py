"""Train, check the result and write it; only complete results with finite weights are written."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steps.artifacts import Manifest, code_digest, new_artifact, read_manifest, verified
from steps.errors import NumericError, OutOfResources, Preempted, Problem, StepError
from steps.finetune.batch_size import fitted, free, ran_out
from steps.finetune.checkpoints import (
    CheckpointFolder,
    finish,
    folder_for,
    is_finished,
    refuse_unwritable,
    remove_finished,
    resume_point,
    unfinish,
)
from steps.finetune.continuing import own_parameters
from steps.finetune.curves import TrainingCurve
from steps.finetune.deepspeed import change_dtype, keep_names, launched, whole_weights
from steps.finetune.inference import name_padding, save_tokenizer, stops_anew, write_generation_settings
from steps.finetune.packages import refuse_missing
from steps.finetune.quantising import count
from steps.finetune.run import Run
from steps.kinds import load
from steps.launch.devices import refuse_missing_gpus
from steps.params.settings import FinetuneSettings
from steps.pruning import Pruned
from steps.tracking import UNSENT, Tracker
from steps.tracking.parameters import parameters_of

log = logging.getLogger("finetune")

CHECKPOINTS = "checkpoints"


def finetune(
    settings: FinetuneSettings,
    model: Path,
    data: Path,
    tuned: Path,
    checkpoints: Path | None,
    report: Path,
    merged: Path | None = None,
    then: Callable[[Path], None] | None = None,
) -> Manifest:
    """Train `model` on the tokens of `data`.

    Writes `tuned` (kind model, or adapter with LoRA; both with history.json), `checkpoints` (the path of their folder,
    or those to keep if they are stored nowhere else; if None, these are in the folder checkpoints of `tuned`), an HTML
    `report`, and to `merged`, if given, the model with the adapter merged, or a reference to `tuned` if that is a
    model. A task of its own for merging would have to load base and adapter again, and write the result from another
    machine.

    `then` is called with the written `tuned` while the training still counts as unfinished: a task that is killed in it
    and started again goes on from the last checkpoint, or calls `then` at once if `tuned` is whole and no `merged` is
    wanted.

    Raises Preempted if stopped from outside, NumericError on NaN, OutOfResources if memory or disk runs out or
    requested GPUs are missing, UserError if resume_from_checkpoint cannot be fulfilled, Pruned, without a result, if
    the other trials of `settings.pruning` are better.
    """
    refuse_missing(settings)
    refuse_missing_gpus(settings.gpus)
    inputs = {"model": verified(model, "model").digest, "data": verified(data, "data").digest}
    kept = checkpoints or tuned / CHECKPOINTS
    scratch = (checkpoints or tuned).with_name(f"{kept.name}.unfinished")
    folder = folder_for(settings, inputs, scratch)
    if settings.checkpoints.checkpoint_dir:
        refuse_unwritable(folder)
    with folder.lock():
        curve = TrainingCurve(settings, folder)
        if then is None or merged is not None or not _is_written(tuned, settings, inputs):
            with _without_pruned(folder):
                _write(settings, inputs, model, data, tuned, merged, folder, curve)
        curve.finish()
        if then is not None:
            free()
            then(tuned)
        finish(folder.path)
        remove_finished(folder, settings.checkpoints)
    if checkpoints:
        _write_checkpoints(folder.path, scratch, checkpoints)
    elif folder.path == scratch:
        _move_checkpoints(scratch, kept)
    from steps.reports import write_training_report

    write_training_report(tuned, report)
    return read_manifest(tuned)


def _is_written(tuned: Path, settings: FinetuneSettings, inputs: dict[str, str]) -> bool:
    """Return whether `tuned` is the whole result of this training."""
    try:
        written = verified(tuned, ("adapter", "model")).lineage
    except StepError:
        return False
    return written == {"code": code_digest(), **_lineage(settings, inputs)}


def _lineage(settings: FinetuneSettings, inputs: dict[str, str]) -> dict[str, Any]:
    own = settings.model_dump(mode="json", exclude={"checkpoints", "tracking", "pruning"})
    return {"inputs": inputs, "settings": own}


@contextmanager
def _without_pruned(folder: CheckpointFolder) -> Iterator[None]:
    """Delete the checkpoints of a training that is pruned in this block: nothing goes on from them."""
    try:
        yield
    except Pruned as pruned:
        log.info("pruned: %s", pruned)
        folder.clear()
        finish(folder.path)
        raise


def _write(
    settings: FinetuneSettings,
    inputs: dict[str, str],
    model: Path,
    data: Path,
    tuned: Path,
    merged: Path | None,
    folder: CheckpointFolder,
    curve: TrainingCurve,
) -> None:
    """Train, or resume, and write `tuned` and `merged`; raises Pruned also if an earlier process was pruned."""
    task = tuned.absolute()
    retried = folder.was_begun_by(task)
    if is_finished(folder.path):
        curve.refuse_pruned()
    resume = None if curve.is_pruned else resume_point(folder, settings.checkpoints.resume_from_checkpoint, task)
    unfinished = resume is not None or not is_finished(folder.path)
    folder.begin(task)
    unfinish(folder.path)
    with _tracker(settings, inputs, folder, unfinished, retried) as tracker, _pruned_is_told(tracker):
        curve.refuse_pruned()
        with launched(settings, folder.path):
            tracker.parameters(parameters_of(settings, read_manifest(data, "data").lineage))

            # A checkpoint made with a larger batch can be resumed, because every step has the same rows.
            def attempt(fitting: FinetuneSettings) -> tuple[Any, dict[str, Any]]:
                newest = resume if fitting is settings else folder.newest_of(task) or resume
                return _train(fitting, model, data, folder, newest, tracker, task, curve)

            trainer, history = fitted(settings, attempt)
            tracker.flush()
            history["mlflow_run_id"] = tracker.run_id
            _write_tuned(trainer, settings, inputs, history, model, tuned, tracker)
            del trainer  # with the model in memory
            if merged is not None:
                _merge(model, tuned, merged)


@contextmanager
def _pruned_is_told(tracker: Tracker) -> Iterator[None]:
    try:
        yield
    except Pruned as pruned:
        tracker.tag({"pruned": str(pruned)})
        raise


def _merge(model: Path, tuned: Path, merged: Path) -> None:
    from steps.adapters.merging import merge

    started = time.monotonic()
    if not merge(model, tuned, merged).same_as:
        log.info("merged the adapter into the base model in %.1f s", time.monotonic() - started)


def _tracker(
    settings: FinetuneSettings, inputs: dict[str, str], folder: CheckpointFolder, unfinished: bool, retried: bool
) -> Tracker:
    """Return the tracker of a training; `unfinished` tells whether an earlier process may have begun the same one."""
    digests = {f"{name}_digest": digest for name, digest in inputs.items()}
    name = f"{settings.pipeline} finetune"
    wanted = settings.checkpoints.resume_from_checkpoint
    same = retried or wanted in ("true", "auto") or (wanted != "false" and Path(wanted).parent == folder.path)
    tags = {"pipeline": settings.pipeline, **digests}
    return Tracker(settings.tracking, name, tags, keep=folder.path, continues=same and unfinished)


def _train(
    settings: FinetuneSettings,
    model: Path,
    data: Path,
    folder: CheckpointFolder,
    resume: Path | None,
    tracker: Tracker,
    tuned: Path,
    curve: TrainingCurve,
) -> tuple[Any, dict[str, Any]]:
    from transformers import PrinterCallback

    from steps.finetune.watching import Interrupted, NothingLeft, Preemption, Progress, has_ended, history_of

    progress = Progress(tracker)
    patience = settings.training.early_stopping_patience if settings.training.apply_early_stopping else None
    with Preemption() as preemption:
        _be_deterministic(settings)
        watchers = [preemption, *_watchers(settings, tuned, patience, progress, curve)]
        run = Run(settings, model, data, folder.path, watchers, folder.shared)
        trainer = load(settings.recipe.trainer)(run)
        if settings.deepspeed:
            keep_names(trainer.model)
        trainer.remove_callback(PrinterCallback)  # Progress logs the same numbers in a readable form
        if resume and has_ended(resume, patience):
            NothingLeft().attach(trainer)
        started = time.monotonic()
        interrupted = False
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except Interrupted:
            interrupted = True
        except Exception as error:
            if not ran_out(error):
                raise
            raise _out_of_memory(error, trainer, settings) from error
        seconds = time.monotonic() - started
        if preemption.asked and (interrupted or trainer.state.global_step < trainer.state.max_steps):
            raise _preempted(folder, trainer)
    progress.count(trainer)
    counts = [(count(p), p.requires_grad) for p in own_parameters(trainer.model)]
    history = {
        **history_of(trainer.state, settings.training.metric_for_best_model),
        "steps": trainer.state.global_step,
        "planned_steps": trainer.state.max_steps,
        "seconds": round(seconds, 3),
        "tokens": int(progress.tokens),
        "tokens_per_second": round(progress.tokens_per_second(seconds), 1),
        "resumed_from": int(resume.name.rsplit("-", 1)[-1]) if resume else None,
        "batch": {
            "per_device": settings.training.per_device_train_batch_size,
            "accumulated": settings.training.gradient_accumulation_steps,
        },
        "parameters": {"total": sum(n for n, _ in counts), "trainable": sum(n for n, learns in counts if learns)},
        "stopped_early": trainer.state.global_step < trainer.state.max_steps,
    }
    return trainer, history


def _watchers(
    settings: FinetuneSettings, tuned: Path, patience: int | None, progress: Any, curve: TrainingCurve
) -> list[Any]:
    from steps.finetune.pruning import CurveWatcher
    from steps.finetune.watching import Checkpoints, EarlyStopping, Finite

    kept = settings.checkpoints
    watchers = [Finite(), Checkpoints(kept.save_steps, kept.save_total_limit, kept.save_minutes, tuned), progress]
    if patience is not None:
        watchers.append(EarlyStopping(patience, settings.training.early_stopping_threshold))
    if curve.written:
        watchers.append(CurveWatcher(curve))
    return watchers


def _be_deterministic(settings: FinetuneSettings) -> None:
    """Use deterministic operations for determinism=half; for `full` the Trainer does so itself."""
    import torch

    if settings.training.determinism == "half":
        torch.use_deterministic_algorithms(True, warn_only=True)


def _write_tuned(
    trainer: Any,
    settings: FinetuneSettings,
    inputs: dict[str, str],
    history: dict[str, Any],
    model: Path,
    tuned: Path,
    tracker: Tracker,
) -> None:
    weights = whole_weights(trainer)
    _refuse_non_finite(weights if weights is not None else dict(trainer.model.named_parameters()))
    kind = "adapter" if settings.lora.apply_lora else "model"
    lineage = _lineage(settings, inputs)
    base = read_manifest(model)
    if settings.pads_with_end:
        name_padding(trainer.processing_class, trainer.model, model)
    with new_artifact(tuned, kind, lineage) as draft:
        if kind == "adapter":
            # With a merged adapter or new tokens, the base of this adapter is not the model at the source.
            changed = base.lineage.get("adapter", {}).get("use") == "merge" or base.facts.get("new_tokens")
            source = "" if changed else base.lineage.get("source", "")
            trainer.model.peft_config["default"].base_model_name_or_path = source
            trainer.model.save_pretrained(draft.path, state_dict=weights, save_embedding_layers=False)
            if settings.recipe.kind.has_encoder:
                # The generation settings define how answers begin, by the languages.
                write_generation_settings(trainer.model.get_base_model(), model, draft.path)
            elif stops_anew(trainer.model, model):
                write_generation_settings(trainer.model, model, draft.path)
            if getattr(trainer.model.peft_config["default"], "modules_to_save", None):
                # The merge needs the tuned model's configuration: its head, which the base does not have, and classes.
                whole = trainer.model.get_base_model()
                whole.config.architectures = [type(whole).__name__]
                whole.config.save_pretrained(draft.path)
        else:
            if settings.training.precision == "16":
                dtype = _dtype_of(model)
                trainer.model.to(dtype) if weights is None else change_dtype(weights, dtype)
            trainer.model.save_pretrained(draft.path, state_dict=weights)
            if getattr(trainer.model, "generation_config", None) is not None:
                write_generation_settings(trainer.model, model, draft.path)
        save_tokenizer(trainer.processing_class, draft.path, ends_prompts=not settings.recipe.kind.goes_on)
        (draft / "history.json").write_text(json.dumps(history, indent=1), encoding="utf-8")
        tracker.write_unsent(draft.path)
        draft.facts = {"parameters": history["parameters"], "steps": history["steps"]}
    if (tuned / UNSENT).is_file():
        tracker.tell(tuned / UNSENT, tracker.unsent())


def _dtype_of(model: Path) -> Any:
    """Return the dtype of the base's files; a float32 result of mixed precision would be twice as large."""
    import torch

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"))


def _refuse_non_finite(weights: dict[str, Any]) -> None:
    bad = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if bad:
        raise NumericError(
            Problem("TRAIN-E0602", f"{len(bad)} tensors, such as {bad[0]}", "NaN or infinity", "finite weights",
                    "lower learning_rate")
        )  # fmt: skip


def _write_checkpoints(folder: Path, scratch: Path, checkpoints: Path) -> None:
    """Write the checkpoints artifact: the checkpoints if only this pod's disk has them, else their folder's path."""
    with new_artifact(checkpoints, "checkpoints") as draft:
        if folder == scratch:
            _move_checkpoints(scratch, draft.path)
        else:
            draft.facts = {"folder": str(folder)}


def _move_checkpoints(scratch: Path, place: Path) -> None:
    """Move the checkpoints that are kept, if any; the manifest of a tuned model does not name them."""
    for checkpoint in sorted(scratch.glob("checkpoint-*")):
        place.mkdir(exist_ok=True)
        shutil.move(checkpoint, place / checkpoint.name)
    shutil.rmtree(scratch, ignore_errors=True)


def _preempted(folder: CheckpointFolder, trainer: Any) -> Preempted:
    newest = folder.newest()
    at = f"step {trainer.state.global_step} of {trainer.state.max_steps}"
    where = newest.name if newest else "nothing, as it was stopped before the first checkpoint"
    return Preempted(
        Problem("TRAIN-E1431", at, f"a request to stop; saved {where}", f"{trainer.state.max_steps} steps",
                "run again with resume_from_checkpoint=true"),
        resume_from=str(newest or ""),
    )  # fmt: skip


def _out_of_memory(error: Exception, trainer: Any, settings: FinetuneSettings) -> OutOfResources:
    batch = settings.training.per_device_train_batch_size
    return OutOfResources(
        Problem(
            "TRAIN-E0501",
            f"step {trainer.state.global_step + 1}, batch {batch} of up to {settings.max_length} tokens",
            str(error).split(". ")[0],
            "a batch that fits into GPU memory",
            "halve per_device_train_batch_size and double gradient_accumulation_steps, "
            "set gradient_checkpointing=true, or lower max_seq_length",
        )
    )
