"""One training, as each of its processes runs it: build the trainer, train, gather the weights, write the result."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.artifacts import read_manifest
from steps.errors import OutOfResources, Preempted, Problem, UserError
from steps.finetune.batch_size import OUT_OF_MEMORY, fitted, ran_out
from steps.finetune.checkpoints import CheckpointFolder, drop_broken, preempted, steps_done
from steps.finetune.checkpoints.places import identity_of
from steps.finetune.checkpoints.sealing import facts_of
from steps.finetune.continuing import own_parameters
from steps.finetune.curves import TrainingCurve
from steps.finetune.deepspeed import keep_names, launched
from steps.finetune.quantising import count
from steps.finetune.result import write_tuned
from steps.finetune.run import Run
from steps.kinds import load
from steps.launch.group import current
from steps.launch.lease import STALE_AFTER, Lease
from steps.launch.sharding import gather_layers
from steps.params.settings import FinetuneSettings
from steps.pruning import Pruned
from steps.tracking import Tracker
from steps.tracking.continued import is_open
from steps.tracking.parameters import parameters_of

log = logging.getLogger("finetune")


@dataclass(frozen=True)
class Training:
    """What all processes of a training know."""

    settings: FinetuneSettings
    inputs: dict[str, str]
    """Digests of model and data."""
    model: Path
    data: Path
    tuned: Path
    """Where the result goes."""
    task: Path
    """The path of the result by which a task that is started again knows its checkpoints."""
    merged: Path | None
    folder: CheckpointFolder
    resume: Path | None
    """The checkpoint to go on from."""
    continues: bool
    """Whether the tracked run of an earlier process is continued."""
    fitting: FinetuneSettings | None = None
    """The settings with a batch that fits into memory; None: those that were asked for."""
    alive: str = ""
    """Where the task that follows nodes gives a sign of life; empty: the processes are of the task itself."""

    def as_text(self) -> str:
        """Return this as JSON, for other processes."""
        places = {name: str(value) if value else None for name, value in vars(self).items() if isinstance(value, Path)}
        settings = {
            name: value.model_dump(mode="json") if value else None
            for name, value in (("settings", self.settings), ("fitting", self.fitting))
        }
        folder = {"path": str(self.folder.path), "shared": str(self.folder.shared)}
        return json.dumps(
            {
                **places,
                **settings,
                "folder": folder,
                "inputs": self.inputs,
                "continues": self.continues,
                "alive": self.alive,
            },
            indent=1,
        )

    @classmethod
    def from_text(cls, text: str) -> Training:
        """Read what `as_text` wrote."""
        told = json.loads(text)
        settings, fitting = (
            FinetuneSettings.model_validate(told[name]) if told[name] else None for name in ("settings", "fitting")
        )
        assert settings is not None
        inputs = told["inputs"]
        folder = CheckpointFolder(
            Path(told["folder"]["path"]), identity_of(settings, inputs), Path(told["folder"]["shared"])
        )
        merged, resume = (Path(told[name]) if told.get(name) else None for name in ("merged", "resume"))
        model, data, tuned, task = (Path(told[name]) for name in ("model", "data", "tuned", "task"))
        return cls(
            settings,
            inputs,
            model,
            data,
            tuned,
            task,
            merged,
            folder,
            resume,
            told["continues"],
            fitting,
            told["alive"],
        )


def train(training: Training, curve: TrainingCurve) -> None:
    """Train, or resume, and write `tuned` and `merged`; every process of the training calls this.

    Raises Preempted if stopped from outside, NumericError on NaN, OutOfResources if memory runs out, Pruned if the
    trial is pruned, or an earlier process has pruned it.
    """
    settings, folder = training.settings, training.folder
    with tracked(settings, training.inputs, folder, training.continues) as tracker, _pruned_is_told(tracker):
        curve.refuse_pruned()
        with launched(settings, folder.path):
            tracker.parameters(parameters_of(settings, read_manifest(training.data, "data").lineage))

            # A checkpoint made with a larger batch can be resumed, because every step has the same rows.
            def attempt(fitting: FinetuneSettings) -> tuple[Any, dict[str, Any]]:
                newest = training.resume if fitting is settings else folder.newest_of(training.task) or training.resume
                return _train(training, fitting, newest, tracker, curve)

            if current().count > 1:  # started anew with a smaller batch by the process that started them
                trainer, history = _train(training, training.fitting or settings, training.resume, tracker, curve)
            else:
                trainer, history = fitted(settings, attempt)
            tracker.flush()
            history["mlflow_run_id"] = tracker.run_id
            write_tuned(trainer, settings, training.inputs, history, training.model, training.tuned, tracker)
            del trainer  # with the model in memory
            if training.merged is not None and current().is_first:
                merge_adapter(training.model, training.tuned, training.merged)


def end_tracked_run(settings: FinetuneSettings, inputs: dict[str, str], folder: CheckpointFolder) -> None:
    """Tell the server that a training has finished; the process that finished it was stopped before it could."""
    if is_open(folder.path):
        with tracked(settings, inputs, folder, continues=True):
            pass


@contextmanager
def _pruned_is_told(tracker: Tracker) -> Iterator[None]:
    try:
        yield
    except Pruned as pruned:
        tracker.tag({"pruned": str(pruned)})
        raise


def merge_adapter(model: Path, tuned: Path, merged: Path) -> None:
    """Write `merged`: the model with the adapter merged, or a reference to `tuned`."""
    from steps.adapters.merging import merge

    started = time.monotonic()
    if not merge(model, tuned, merged).same_as:
        log.info("merged the adapter into the base model in %.1f s", time.monotonic() - started)


def tracked(settings: FinetuneSettings, inputs: dict[str, str], folder: CheckpointFolder, continues: bool) -> Tracker:
    """Return the tracked run of a training; `continues`: that of an earlier process goes on."""
    digests = {f"{name}_digest": digest for name, digest in inputs.items()}
    tags = {"pipeline": settings.pipeline, **digests}
    name = f"{settings.pipeline} finetune"
    return Tracker(settings.tracking, name, tags, keep=folder.path, continues=continues)


def _train(
    training: Training, settings: FinetuneSettings, resume: Path | None, tracker: Tracker, curve: TrainingCurve
) -> tuple[Any, dict[str, Any]]:
    from transformers import PrinterCallback

    from steps.finetune.finite import Batches
    from steps.finetune.watching import Interrupted, NothingLeft, Preemption, Progress, has_ended

    folder = training.folder
    progress, batches = Progress(tracker), Batches()
    patience = settings.training.early_stopping_patience if settings.training.apply_early_stopping else None
    lease = Lease(training.alive) if training.alive and current().is_first else None
    with Preemption(lease) as preemption:
        _be_deterministic(settings)
        watchers = [preemption, *_watchers(settings, training.task, patience, progress, curve, batches)]
        run = Run(settings, training.model, training.data, folder.path, watchers, folder.shared)
        trainer = load(settings.recipe.trainer)(run)
        if settings.deepspeed:
            keep_names(trainer.model)
        if trainer.is_fsdp_enabled:
            gather_layers(trainer)
        trainer.remove_callback(PrinterCallback)  # Progress logs the same numbers in a readable form
        if resume and has_ended(resume, patience):
            NothingLeft().attach(trainer)
        started = time.monotonic()
        interrupted = False
        try:
            with batches.watching(trainer):
                trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except Interrupted:
            interrupted = True
        except Exception as error:
            if current().is_first and (full := drop_broken(folder.path, error)):
                raise full from error
            if not ran_out(error):
                raise
            raise _out_of_memory(error, trainer, settings) from error
        seconds = time.monotonic() - started
        if preemption.is_asked() and (interrupted or trainer.state.global_step < trainer.state.max_steps):
            raise abandoned() if current().any(preemption.abandoned) else _preempted(folder, trainer)
    progress.count(trainer)
    return trainer, _history(trainer, settings, progress, seconds, resume)


def _history(
    trainer: Any, settings: FinetuneSettings, progress: Any, seconds: float, resume: Path | None
) -> dict[str, Any]:
    """Return the numbers of a training for its result, its report and the choice among trials."""
    from steps.finetune.watching import history_of

    counts = [(count(p), p.requires_grad) for p in own_parameters(trainer.model)]
    group, asked = current(), settings.processes
    several = {"count": group.count, "nodes": asked.nodes, "strategy": strategy_of(settings)}
    return {
        **history_of(trainer.state, settings.training.metric_for_best_model, settings.rewarded is not None),
        "steps": trainer.state.global_step,
        "planned_steps": trainer.state.max_steps,
        "seconds": round(seconds, 3),
        "tokens": int(progress.tokens),
        "tokens_per_second": round(progress.tokens_per_second(seconds), 1),
        "resumed_from": steps_done(resume) if resume else None,
        "batch": {
            "per_device": settings.training.per_device_train_batch_size,
            "accumulated": settings.training.gradient_accumulation_steps,
        },
        **({"processes": several} if group.count > 1 else {}),
        "parameters": {"total": sum(n for n, _ in counts), "trainable": sum(n for n, learns in counts if learns)},
        "stopped_early": trainer.state.global_step < trainer.state.max_steps,
    }


def strategy_of(settings: FinetuneSettings) -> str:
    """Return how the processes share the model: ddp, fsdp, or ZeRO with its stage."""
    if settings.deepspeed:
        return f"ZeRO-{settings.deepspeed['zero_optimization']['stage']}"
    return settings.processes.strategy


def refuse_other_processes(checkpoint: Path, settings: FinetuneSettings) -> None:
    """Raise UserError if a checkpoint cannot be resumed by the processes that the settings ask for.

    DeepSpeed's parts are for as many processes as wrote them, and each strategy writes files of its own.
    """
    facts = facts_of(checkpoint)
    if "processes" not in facts:  # of another version, or another tool
        return
    wrote = (facts["strategy"], facts["processes"])
    asked = (strategy_of(settings), settings.processes.count)
    before, now = ((_form_of(*one), one[1]) for one in (wrote, asked))
    if before == now or (before[0] == now[0] and not now[0].startswith("ZeRO")):
        return
    found, expected = (f"{form}, {count} process{'es' if count > 1 else ''}" for form, count in (before, now))
    raise UserError(
        Problem("CHECKPOINT-E0104", str(checkpoint), f"a checkpoint of {found}", f"one of {expected}",
                "train with the processes and the strategy that wrote it, or set resume_from_checkpoint=false to start "
                "again at step 0")
    )  # fmt: skip


def _form_of(strategy: str, count: int) -> str:
    """Return how weights and states are stored: fsdp or ZeRO with its stage if they are split, else "one copy"."""
    return strategy if strategy.startswith("ZeRO") or (strategy == "fsdp" and count > 1) else "one copy"


def _watchers(
    settings: FinetuneSettings, task: Path, patience: int | None, progress: Any, curve: TrainingCurve, batches: Any
) -> list[Any]:
    from steps.finetune.finite import Finite
    from steps.finetune.loss_spikes import LossSpikes
    from steps.finetune.pruning import CurveWatcher
    from steps.finetune.watching import Alive, Checkpoints, EarlyStopping

    kept = settings.checkpoints
    wrote = {"processes": current().count, "strategy": strategy_of(settings)}
    saving = Checkpoints(kept.save_steps, kept.save_total_limit, kept.save_minutes, task, wrote)
    watchers = [Finite(batches), saving, progress]
    if current().count > 1:
        watchers.append(Alive())
    if settings.rewarded is None:  # with rewards the loss is about zero, whatever is learned
        watchers.append(LossSpikes(settings.training.stop_on_loss_spike))
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


def _preempted(folder: CheckpointFolder, trainer: Any) -> Preempted:
    step, steps = trainer.state.global_step, trainer.state.max_steps
    return preempted(f"step {step} of {steps}", folder.saved() if current().is_first else "", f"{steps} steps")


def abandoned() -> UserError:
    """Return the error of nodes whose task has gone; no code that starts them again."""
    return UserError(
        Problem("TRAIN-E0219", "the task that follows this training", f"no sign of life for {STALE_AFTER:.0f} s",
                "a task that takes the result", "start the run again: it goes on from the checkpoint",
                why="nobody would end the nodes")
    )  # fmt: skip


def _out_of_memory(error: Exception, trainer: Any, settings: FinetuneSettings) -> OutOfResources:
    batch = settings.training.per_device_train_batch_size
    return OutOfResources(
        Problem(
            OUT_OF_MEMORY,
            f"step {trainer.state.global_step + 1}, batch {batch} of up to {settings.max_length} tokens",
            str(error).split(". ")[0],
            "a batch that fits into GPU memory",
            "halve per_device_train_batch_size and double gradient_accumulation_steps, "
            "set gradient_checkpointing=true, or lower max_seq_length",
        )
    )
