"""A training with verl from a model and prepared rows to the tuned model, in the shape of the other trainings."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from steps.errors import Outage, Problem
from steps.models.chat_templates import STORED
from steps.params.settings import RewardSettings
from steps.params.verl_settings import VerlSettings
from steps.sources.locks import locked
from steps.tracking import Tracker
from steps.verl import rewards as reward_file
from steps.verl.checkpoints import ACTOR, VerlCheckpoints, step_of
from steps.verl.data import VerlFiles, write_data
from steps.verl.metrics import Logged, MetricsFile, file_from, history_of, read_all, tokens_in
from steps.verl.overrides import Paths, overrides_of, written
from steps.verl.packages import attention
from steps.verl.process import METRICS, Running
from steps.verl.result import TEMPLATE, write_result

log = logging.getLogger("finetune")

LOCK = ".lock-of-verl"  # beside the checkpoints
FOLDER = "verl"  # beside the checkpoints: the files for verl, its log and its configuration
SEEN_WITHIN = 90.0  # seconds; NFS keeps what it knows of a folder for up to 60
COMPOSED = "hydra/.hydra/config.yaml"  # in that folder: the configuration that verl read
CONFIGURATION = "verl_config.yaml"  # the same in the result


@dataclass(frozen=True)
class VerlTraining:
    """One training with verl."""

    settings: VerlSettings
    model: Path
    """The model artifact."""
    data: Path
    """The data artifact, with rows of the task verl."""
    tuned: Path
    """Where the result goes."""
    checkpoints: Path
    """Folder of the checkpoints, which outlives this process."""
    identity: dict[str, Any]
    """Everything that affects the result: settings and input digests."""
    lineage: dict[str, Any]
    """What the result follows from, for its manifest."""
    rewards: RewardSettings | None = None
    """Rewards of this project; None: verl's own, by the data_source of each row."""
    resume: str = "auto"
    """resume_from_checkpoint: false, true, auto, or the folder of a checkpoint."""
    merged: Path | None = None
    """Where the model with its adapter merged goes; a reference to `tuned` without an adapter."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables for verl's process."""
    watch: Callable[[], None] = lambda: None
    """Called several times a second while verl runs; what it raises ends the training."""
    began: Callable[[int], None] = lambda step: None
    """Called with the step that the training goes on from, before verl starts."""


def train_by_verl(training: VerlTraining, tracker: Tracker | None = None) -> dict[str, Any]:
    """Train with verl, or resume, write `tuned` and `merged`, and return the history.

    Raises Preempted after SIGTERM and KeyboardInterrupt after Ctrl-C, NumericError on NaN or if nothing was learned,
    OutOfResources if memory runs out, Outage if a process is lost, UserError for rows, rewards or a checkpoint that
    cannot be used.
    """
    settings = training.settings
    folder = training.checkpoints / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    files = write_data(training.data, folder / "data", training.rewards is not None, settings.data_image_key)
    kept = VerlCheckpoints(
        training.checkpoints,
        training.identity,
        settings.trainer_n_gpus_per_node * settings.trainer_nnodes,
        settings.with_critic,
        settings.trainer_max_ckpt_to_keep,
    )
    with locked(training.checkpoints / LOCK, "a verl that an earlier process of this training left") as lock:
        history, last = _run(training, files, kept, tracker, lock)
    beside = {CONFIGURATION: folder / COMPOSED}
    excluded = settings.actor_model_exclude_modules
    write_result(
        last / ACTOR, training.model, training.data, training.tuned, history, training.lineage, excluded, beside
    )
    if training.merged is not None:
        from steps.adapters.merging import merge

        merge(training.model, training.tuned, training.merged)
    return history


def _run(
    training: VerlTraining, files: VerlFiles, kept: VerlCheckpoints, tracker: Tracker | None, lock: IO[str]
) -> tuple[dict[str, Any], Path]:
    """Run verl from the checkpoint to go on from; return the history and the last checkpoint."""
    folder = training.checkpoints / FOLDER
    resume = kept.begin(training.resume)
    start = (step_of(resume) or 0) if resume else 0
    training.began(start)
    progress = _Progress(tracker)
    progress.send(one for one in read_all(training.checkpoints) if one.step <= start)
    metrics = file_from(training.checkpoints, start)

    def on_look() -> Path | None:
        training.watch()
        return _sealed(kept)

    running = Running(
        overrides=[*_overrides(training, files, folder), *_of_nodes(training.settings, metrics)],
        folder=folder,
        metrics=MetricsFile(metrics),
        on_step=progress.on_step,
        on_look=on_look,
        job=folder if training.rewards else None,
        environment=training.environment,
        step=start,
        lock=lock,
    )
    started = time.monotonic()
    running.run()
    if training.settings.trainer_nnodes > 1:
        _wait_until_seen(running, kept)
    last = _last_checkpoint(kept, running.step)
    return _history(training, running.step, start, time.monotonic() - started, tracker), last


def _overrides(training: VerlTraining, files: VerlFiles, folder: Path) -> list[str]:
    """Return the arguments of verl's trainer.

    This room resumes and deletes checkpoints itself: verl would delete parts of a sealed one.
    """
    own: dict[str, Any] = {"hydra.run.dir": str(folder / "hydra"), **attention()}
    path = ""
    if training.rewards is not None:
        for old in folder.glob(f"{reward_file.ERROR}*"):
            old.unlink()
        path = str(Path(reward_file.__file__).resolve())
        job = reward_file.write_job(folder, training.rewards)
        own["+reward.custom_reward_function.reward_kwargs.job"] = str(job)
    paths = Paths(
        model=str(_model_for_verl(training.model, training.data, folder / "model")),
        train=str(files.train),
        validation=str(files.validation),
        checkpoints=str(training.checkpoints),
        reward_file=path,
        reward_function=reward_file.FUNCTION,
    )
    asked = training.settings.model_copy(update={"trainer_max_ckpt_to_keep": 0, "resume": "auto"})
    return [*overrides_of(asked, paths), *(f"{key}={written(value)}" for key, value in own.items())]


def _of_nodes(settings: VerlSettings, metrics: Path) -> list[str]:
    """Return what verl has to be told on several nodes: Ray may run its trainer on another one than this."""
    if settings.trainer_nnodes == 1:
        return []
    return [f"+ray_kwargs.ray_init.runtime_env.env_vars.{METRICS}={written(str(metrics))}"]


def _wait_until_seen(running: Running, kept: VerlCheckpoints) -> None:
    """Wait until this node sees what the others wrote last: a file system of the network tells it with a delay."""
    until = time.monotonic() + SEEN_WITHIN
    while time.monotonic() < until:
        last = running.look()
        if last is not None and step_of(last) == running.step == kept.latest():
            return
        time.sleep(1.0)


def _model_for_verl(model: Path, data: Path, folder: Path) -> Path:
    """Return a folder with links to the model's files, and with the chat template that the rows were prepared with."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for file in model.iterdir():
        if file.is_file():
            os.symlink(file.resolve(), folder / file.name)
    if (data / STORED).is_file():
        (folder / TEMPLATE).unlink(missing_ok=True)
        (folder / TEMPLATE).write_bytes((data / STORED).read_bytes())
    return folder


class _Progress:
    """Sends what verl logs to the tracker, and tells it in the log."""

    def __init__(self, tracker: Tracker | None):
        self.tracker = tracker

    def send(self, logged: Any) -> None:
        for one in logged:
            if self.tracker is not None:
                self.tracker.metrics(one.tracked, one.step)

    def on_step(self, one: Logged) -> None:
        self.send([one])
        told = {"loss": "actor/loss", "reward": "critic/score/mean", "answer length": "response_length/mean"}
        shown = [f"{name} {one.finite[key]:.4f}" for name, key in told.items() if key in one.finite]
        log.info("step %d  %s", one.step, "  ".join(shown))


def _sealed(kept: VerlCheckpoints) -> Path | None:
    for step in kept.seal_whole():
        log.info("checkpoint %s is whole", kept.at(step))
    return kept.newest_sealed()


def _last_checkpoint(kept: VerlCheckpoints, step: int) -> Path:
    """Return the checkpoint of the last step. Raises Outage if verl ended without it."""
    last = kept.newest_sealed()
    if last is None or step_of(last) != step or not step:
        raise Outage(
            Problem("VERL-E0406", str(kept.path), f"{last.name if last else 'no checkpoint'} after step {step}",
                    "a whole checkpoint of the last step", "look in verl's log, and run again with "
                    "resume_from_checkpoint=true"),
            transient=False,
        )  # fmt: skip
    return last


def _history(training: VerlTraining, step: int, start: int, seconds: float, tracker: Tracker | None) -> dict[str, Any]:
    logged = read_all(training.checkpoints)
    tokens = tokens_in([one for one in logged if one.step > start])
    settings = training.settings
    return {
        **history_of(logged),
        "trainer": "verl",
        "steps": step,
        "planned_steps": settings.total_training_steps or step,
        "seconds": round(seconds, 3),
        "tokens": tokens,
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        "resumed_from": start or None,
        "batch": {"per_device": settings.actor_ppo_micro_batch_size_per_gpu, "accumulated": 1},
        "processes": {
            "count": settings.trainer_n_gpus_per_node * settings.trainer_nnodes,
            "nodes": settings.trainer_nnodes,
            "strategy": settings.actor_strategy,
        },
        "stopped_early": False,
        "mlflow_run_id": tracker.run_id if tracker else None,
    }
