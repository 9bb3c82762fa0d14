"""Checkpoints by time: they change no result, leave no trace, and a task that is started again goes on from them."""

import itertools
import json
import logging
import shutil
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import test_answering
import test_new_tokens_training
import test_tagging
from conftest import chat_rows
from grids import long_but
from test_adapters_everywhere import TRAINED, inputs
from test_finetune import opposed
from training_inputs import TRAINING, settings_with, train, write_tokens
from waiting import wait_for

from steps.artifacts import MANIFEST
from steps.errors import UserError
from steps.finetune import watching
from steps.finetune.checkpoints import (
    best_of,
    drop_passing,
    finish,
    folder_for,
    is_by_time,
    prune,
    remove_finished,
    resume_point,
    seal,
)
from steps.params.lora import LoraParams
from steps.params.settings import FinetuneSettings
from steps.params.training import CheckpointParams, TrainingParams

pytestmark = pytest.mark.usefixtures("local_root")

EVERY_STEP = 1e-9  # minutes
TINY = 0.02  # minutes
NO_DEEPSPEED = pytest.mark.skipif(not find_spec("deepspeed"), reason="needs deepspeed")


class Killed(BaseException):
    """What stands for a kill in this process: nothing catches it."""


@pytest.fixture
def killed(monkeypatch):
    """Let the next training end when its checkpoint of a step is complete."""
    whole = watching.Checkpoints.on_save

    def at(step: int) -> None:
        def on_save(self, args, state, control, **more):
            whole(self, args, state, control, **more)
            if state.global_step == step:
                monkeypatch.setattr(watching.Checkpoints, "on_save", whole)
                raise Killed

        monkeypatch.setattr(watching.Checkpoints, "on_save", on_save)

    return at


def saving(settings: FinetuneSettings, minutes: float, **more) -> FinetuneSettings:
    checkpoints = settings.checkpoints.model_copy(update={"save_minutes": minutes, **more})
    return settings.model_copy(update={"checkpoints": checkpoints})


def weights(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (out / "tuned").glob("*.safetensors")}


def told(history: dict) -> dict:
    """What a history tells of the result."""
    return {name: history[name] for name in ("evaluations", "best", "steps", "stopped_early", "parameters")}


def in_place(root: Path) -> list[Path]:
    return sorted(root.glob("checkpoints/*/*/checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[-1]))


def usual(name: str, folder: Path, training: dict | None = None, **changes):
    """Make base, rows and settings of a trainer of `test_adapters_everywhere`."""
    base, data = inputs(name, folder)
    _, kind, method = TRAINED[name]
    settings = FinetuneSettings(
        pipeline=name.replace(" ", "-"), kind=kind, training=TrainingParams(**{**TRAINING, **(training or {})}),
        max_length=32 if kind != "causal_lm" else 64, preference={"method": method} if method else None, **changes,
    )  # fmt: skip
    return base, data, settings


def packed(folder: Path):
    from transformers import AutoTokenizer

    base, _ = inputs("sft", folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    data = write_tokens(folder / "packed", tokenizer, chat_rows(50), packing=True)
    return base, data, settings_with({"num_train_epochs": 4, "per_device_train_batch_size": 2}, packing=True)


def tags(folder: Path):
    base, _ = inputs("hidden words", folder)
    return base, test_tagging.prepared(base, folder / "a"), test_tagging.settings_with()


def answers(folder: Path):
    base, _ = inputs("hidden words", folder)
    return base, test_answering.prepared(base, folder / "a"), test_answering.settings_with()


def new_tokens(folder: Path):
    base = test_new_tokens_training.imported("tied", folder)
    data = test_new_tokens_training.chats(folder)
    lora = LoraParams(apply_lora=True, lora_r=4)
    return base, data, settings_with({"evaluation_strategy": "no", "num_train_epochs": 1}, lora=lora)


def deepspeed(stage: str):
    from test_deepspeed_training import config

    return lambda folder: usual("sft", folder, deepspeed=config(stage))


LORA = {"lora": LoraParams(apply_lora=True, lora_r=4, lora_dropout=0.1)}
BY_STEPS = {"evaluation_strategy": "steps", "eval_steps": 4}
# Name → base, rows and settings; the step of the kill, between two evaluations and inside of an epoch.
CASES = {
    "sft": (lambda folder: usual("sft", folder), 13),
    "sft, evaluated by steps": (lambda folder: usual("sft", folder, BY_STEPS), 14),
    "sft, never evaluated": (lambda folder: usual("sft", folder, {"evaluation_strategy": "no"}), 7),
    "sft, LoRA with dropout": (lambda folder: usual("sft", folder, **LORA), 13),
    "sft, accumulated": (
        lambda folder: usual(
            "sft", folder, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "logging_steps": 5}
        ),
        9,
    ),
    "sft, 16 bits": (lambda folder: usual("sft", folder, {"precision": "16"}), 13),
    "sft, adafactor": (lambda folder: usual("sft", folder, {"optim": "adafactor"}), 13),
    "sft, plateau": (lambda folder: usual("sft", folder, {"lr_scheduler_type": "reduce_lr_on_plateau"}), 13),
    "sft, noise": (lambda folder: usual("sft", folder, {"neftune_noise_alpha": 5.0}), 13),
    "packed": (packed, 5),
    "new tokens": (new_tokens, 5),
    "dpo": (lambda folder: usual("dpo", folder, {"num_train_epochs": 1, **BY_STEPS}), 6),
    "dpo, LoRA": (lambda folder: usual("dpo", folder, {"num_train_epochs": 1}, **LORA), 6),
    "kto": (lambda folder: usual("kto", folder, {"num_train_epochs": 1}), 6),
    "orpo": (lambda folder: usual("orpo", folder, {"num_train_epochs": 1}), 6),
    "simpo": (lambda folder: usual("simpo", folder, {"num_train_epochs": 1}), 6),
    "classes": (lambda folder: usual("classes", folder), 20),
    "classes, LoRA": (lambda folder: usual("classes", folder, **LORA), 20),
    "hidden words": (lambda folder: usual("hidden words", folder), 18),
    "T5": (lambda folder: usual("T5", folder), 18),
    "BART": (lambda folder: usual("BART", folder), 18),
    "tags": (tags, 18),
    "answers": (answers, 13),
}  # fmt: skip


# One of every trainer of its own, and of what a checkpoint has to keep besides: random state, accumulated gradients.
USUAL = ("sft, LoRA with dropout", "dpo", "classes", "T5")


@pytest.mark.slow
@pytest.mark.parametrize("case", long_but(USUAL, CASES))
def test_the_result_is_the_same_with_and_without_them_and_after_a_kill(case, tmp_path, local_root, killed):
    make, step = CASES[case]
    base, data, settings = make(tmp_path)
    plain = train(saving(settings, 0), base, data, tmp_path / "plain")
    often = train(saving(settings, EVERY_STEP), base, data, tmp_path / "often")
    assert told(often) == told(plain)
    assert weights(tmp_path / "often") == weights(tmp_path / "plain")
    killed(step)
    with pytest.raises(Killed):
        train(saving(settings, EVERY_STEP), base, data, tmp_path / "out")
    newest = in_place(local_root)[-1]
    assert newest.name == f"checkpoint-{step}"
    assert is_by_time(newest)
    resumed = train(saving(settings, EVERY_STEP), base, data, tmp_path / "out")
    assert resumed["resumed_from"] == step
    assert told(resumed) == told(plain)
    assert weights(tmp_path / "out") == weights(tmp_path / "plain")


@pytest.mark.slow
@NO_DEEPSPEED
@pytest.mark.parametrize("stage", long_but(["3"], ["2", "3"]))
def test_deepspeed_goes_on_from_them(stage, tmp_path, local_root, killed):
    from test_deepspeed_training import assert_same

    base, data, settings = deepspeed(stage)(tmp_path)
    plain = train(saving(settings, 0), base, data, tmp_path / "plain")
    killed(13)
    with pytest.raises(Killed):
        train(saving(settings, EVERY_STEP), base, data, tmp_path / "out")
    resumed = train(saving(settings, EVERY_STEP), base, data, tmp_path / "out")
    assert resumed["resumed_from"] == 13
    assert_same(plain, resumed, tmp_path / "plain", tmp_path / "out", within=1e-6)


def worse_each_time(folder: Path, training: dict, **checkpoints) -> tuple[Path, Path, FinetuneSettings]:
    """A training of 10 steps an epoch whose validation loss grows from the first evaluation on."""
    base, _ = inputs("sft", folder)
    given = CheckpointParams(**checkpoints)
    return base, opposed(folder), settings_with({"num_train_epochs": 10, **training}, checkpoints=given)


EARLY = {"apply_early_stopping": True, "early_stopping_patience": 3}


@pytest.mark.slow
@pytest.mark.parametrize("step", long_but([27], [15, 20, 27]), ids=lambda step: f"killed at {step}")
def test_early_stopping_counts_the_evaluations_before_the_kill(tmp_path, killed, step):
    base, data, settings = worse_each_time(tmp_path, EARLY)
    plain = train(saving(settings, 0), base, data, tmp_path / "plain")
    assert (plain["steps"], plain["stopped_early"]) == (40, True)
    killed(step)
    with pytest.raises(Killed):
        train(saving(settings, EVERY_STEP), base, data, tmp_path / "out")
    resumed = train(saving(settings, EVERY_STEP), base, data, tmp_path / "out")
    assert (resumed["resumed_from"], told(resumed)) == (step, told(plain))
    assert weights(tmp_path / "out") == weights(tmp_path / "plain")


ENDS = {
    "inside of an epoch": {"max_steps": 13, "evaluation_strategy": "no"},
    "at the end of an epoch": {"max_steps": 20, "evaluation_strategy": "no"},
    "with an evaluation inside of an epoch": {"max_steps": 13},
    "by early stopping": EARLY,
    "by early stopping inside of an epoch": {**EARLY, "evaluation_strategy": "steps", "eval_steps": 3},
}


ENDED = [("inside of an epoch", True), ("at the end of an epoch", False), ("by early stopping", False),
         ("by early stopping inside of an epoch", True)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("end", "lora"), long_but(ENDED, itertools.product(ENDS, [False, True])))
def test_a_training_that_had_ended_is_not_trained_further(tmp_path, monkeypatch, end, lora):
    """Killed behind its last checkpoint, before the result was written."""

    base, data, settings = worse_each_time(tmp_path, ENDS[end])
    settings = settings.model_copy(update=LORA if lora else {})
    plain = train(settings, base, data, tmp_path / "plain")
    with monkeypatch.context() as dies:
        dies.setattr("steps.finetune.training.write_tuned", lambda *_: raised(Killed()))
        with pytest.raises(Killed):
            train(settings, base, data, tmp_path / "out")
    resumed = train(settings, base, data, tmp_path / "out")
    assert (resumed["resumed_from"], told(resumed)) == (plain["steps"], told(plain))
    assert weights(tmp_path / "out") == weights(tmp_path / "plain")


def raised(error: BaseException) -> None:
    raise error


@pytest.mark.slow
def test_a_task_that_was_killed_while_it_merged_does_not_train_again(model, data, tmp_path, monkeypatch):
    from steps.finetune import step

    out = tmp_path / "out"
    settings = settings_with({"num_train_epochs": 1}, **LORA)
    places = (out / "tuned", out / "checkpoints", out / "report.html", out / "merged")
    with monkeypatch.context() as dies:
        dies.setattr("steps.finetune.training.merge_adapter", lambda *_: raised(Killed()))
        with pytest.raises(Killed):
            step.finetune(settings, model, data, *places)
    before = weights(out)
    step.finetune(settings, model, data, *places)
    assert json.loads((out / "tuned/history.json").read_text())["resumed_from"] == 10
    assert weights(out) == before
    assert (out / "merged/model.safetensors").is_file()


@pytest.mark.slow
def test_a_result_that_is_lost_on_its_way_is_made_again_from_the_best_checkpoint(tmp_path, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT")
    base, data, settings = worse_each_time(tmp_path, {"num_train_epochs": 4}, checkpoint_dir=str(tmp_path / "volume"))
    first = train(settings, base, data, tmp_path / "out")
    before = weights(tmp_path / "out")
    assert first["best"]["step"] < first["steps"] == 40
    kept = sorted(path.name for path in (tmp_path / "volume").glob("*/*/checkpoint-*"))
    assert kept == sorted([f"checkpoint-{first['best']['step']}", "checkpoint-40"])
    shutil.rmtree(tmp_path / "out/tuned")
    again = train(settings, base, data, tmp_path / "out")
    assert (again["resumed_from"], told(again)) == (40, told(first))
    assert weights(tmp_path / "out") == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"keep_checkpoints": "true"}, [10, 20]),
        ({"keep_checkpoints": "true", "save_steps": 4}, [4, 8, 10, 12, 16, 20]),
        ({"save_total_limit": 2, "save_steps": 4}, [16, 20]),  # the best is the newest
        ({"save_total_limit": 3, "save_steps": 4}, [12, 16, 20]),
        ({"save_total_limit": 1}, [20]),
    ],
    ids=str,
)
def test_those_that_were_asked_for_are_left_as_without_them(model, data, tmp_path, local_root, asked, left):
    for minutes in (0, EVERY_STEP):
        train(settings_with(checkpoints=CheckpointParams(save_minutes=minutes, **asked)), model, data, tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
        kept = in_place(local_root)
        assert [int(path.name.rsplit("-", 1)[-1]) for path in kept] == left
        assert not any(is_by_time(path) for path in kept)


@pytest.mark.slow
def test_while_it_trains_only_the_newest_by_time_is_there(model, data, tmp_path, local_root, monkeypatch):
    seen = []
    whole = watching.Checkpoints.on_save

    def on_save(self, args, state, control, **more):
        whole(self, args, state, control, **more)
        there = [(int(path.name.rsplit("-", 1)[-1]), is_by_time(path)) for path in in_place(local_root)]
        seen.append((state.global_step, there))

    monkeypatch.setattr(watching.Checkpoints, "on_save", on_save)
    kept = CheckpointParams(save_minutes=EVERY_STEP, save_steps=4, keep_checkpoints="true")
    train(settings_with(checkpoints=kept), model, data, tmp_path / "out")
    asked = [4, 8, 10, 12, 16, 20]
    assert {step for step, _ in seen} == set(range(1, 21))
    for step, there in seen:
        by_steps = [(one, False) for one in asked if one <= step]
        assert there == (by_steps if step in asked else [*by_steps, (step, True)])


@pytest.mark.slow
def test_copies_in_mlflow_are_those_that_were_asked_for(model, data, tmp_path, monkeypatch):
    copied = []
    monkeypatch.setattr("steps.tracking.Tracker.checkpoint", lambda self, folder: copied.append(folder.name))
    train(settings_with(checkpoints=CheckpointParams(save_minutes=EVERY_STEP)), model, data, tmp_path / "out")
    assert copied == ["checkpoint-10", "checkpoint-20"]


@pytest.mark.slow
def test_the_time_between_them_is_the_one_that_was_asked_for(model, data, tmp_path, monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def time(self) -> float:
            return self.now

    clock, saved = Clock(), []
    whole, step = watching.Checkpoints.on_save, watching.Checkpoints.on_step_end

    def on_step_end(self, *given, **more):
        clock.now += 25  # seconds for a step
        return step(self, *given, **more)

    def on_save(self, args, state, control, **more):
        saved.append(state.global_step)
        clock.now += 300  # a slow place: the time of saving is no time of training
        whole(self, args, state, control, **more)

    monkeypatch.setattr(watching, "time", clock)
    monkeypatch.setattr(watching.Checkpoints, "on_step_end", on_step_end)
    monkeypatch.setattr(watching.Checkpoints, "on_save", on_save)
    train(settings_with(checkpoints=CheckpointParams(save_minutes=1.0)), model, data, tmp_path / "out")
    assert saved == [3, 6, 9, 10, 13, 16, 19, 20]


@pytest.mark.slow
def test_without_a_plan_there_are_none(model, data, tmp_path, monkeypatch):
    saved = []
    whole = watching.Checkpoints.on_save

    def on_save(self, args, state, control, **more):
        saved.append(state.global_step)
        whole(self, args, state, control, **more)

    monkeypatch.setattr(watching.Checkpoints, "on_save", on_save)
    train(settings_with(), model, data, tmp_path / "out")
    assert saved == [10, 20]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("resume", ["false", "auto", "true"])
def test_a_task_that_is_killed_and_started_again_loses_at_most_the_time_between(
    start, model, data, tmp_path, local_root, resume
):
    checkpoints = CheckpointParams(save_minutes=TINY, resume_from_checkpoint=resume)
    between = {"num_train_epochs": 60, "evaluation_strategy": "steps", "eval_steps": 250}  # 600 steps
    settings = settings_with(between, checkpoints=checkpoints)
    train(saving(settings, 0, resume_from_checkpoint="false"), model, data, tmp_path / "plain")
    process = start(settings, model, data, tmp_path / "out")

    def by_time() -> list[Path]:
        return [path for path in in_place(local_root) if is_by_time(path) and not path.name.endswith("0")]

    seen = set()
    wait_for(lambda: seen.update(by_time()) or len(seen) > 2)
    process.send_signal(signal.SIGKILL)
    killed_at = time.time()
    process.wait()
    whole = [path for path in in_place(local_root) if (path / MANIFEST).is_file()]
    newest = int(whole[-1].name.rsplit("-", 1)[-1])
    assert (
        killed_at - (whole[-1] / MANIFEST).stat().st_mtime < TINY * 60 + 10
    )  # seconds; a step and a save, on a busy machine
    assert not (tmp_path / "out/tuned").exists()
    history = train(settings, model, data, tmp_path / "out")
    assert history["resumed_from"] == newest
    assert weights(tmp_path / "out") == weights(tmp_path / "plain")


@pytest.mark.slow
def test_a_batch_that_was_halved_is_no_obstacle(tmp_path, monkeypatch, killed):
    from test_batch_size import memory_for

    base, data, settings = usual("sft", tmp_path, {"auto_find_batch_size": True})
    memory_for(monkeypatch, rows=2)
    plain = train(saving(settings, 0), base, data, tmp_path / "plain")
    assert plain["batch"] == {"per_device": 2, "accumulated": 2}
    killed(13)
    with pytest.raises(Killed):
        train(saving(settings, EVERY_STEP), base, data, tmp_path / "out")
    resumed = train(saving(settings, EVERY_STEP), base, data, tmp_path / "out")
    assert (resumed["resumed_from"], resumed["batch"]) == (13, plain["batch"])
    assert weights(tmp_path / "out") == weights(tmp_path / "plain")


# The folder and the task


@pytest.fixture
def folder(tmp_path):
    found = folder_for(settings_with(), {"model": "m", "data": "d"}, tmp_path / "unused")
    with found.lock():
        pass
    return found


def checkpoint(folder, step: int, task: Path | None = None, by_time: bool = False, whole: bool = True) -> Path:
    path = folder.path / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights of step %d" % step)
    if whole:
        seal(path, task, by_time)
    return path


def left(folder) -> list[int]:
    return sorted(int(path.name.rsplit("-", 1)[-1]) for path in folder.path.glob("checkpoint-*"))


@pytest.mark.parametrize("wanted", ["false", "auto", "true", "a path"])
def test_a_task_finds_its_own_newest_checkpoint_again(folder, tmp_path, caplog, wanted):
    task = tmp_path / "run-1/tuned"
    named = checkpoint(folder, 4, tmp_path / "run-0/tuned")
    checkpoint(folder, 90, tmp_path / "run-0/tuned")  # of an older run: newer, but not of this task
    folder.begin(task)
    own = checkpoint(folder, 8, task, by_time=True)
    caplog.set_level(logging.INFO, "finetune")
    logging.getLogger("finetune").propagate = True
    assert resume_point(folder, str(named) if wanted == "a path" else wanted, task) == own
    assert f"this task was started again: resuming from {own}" in caplog.text


def test_another_run_starts_at_step_0_as_before(folder, tmp_path):
    folder.begin(tmp_path / "run-1/tuned")
    checkpoint(folder, 8, tmp_path / "run-1/tuned")
    assert resume_point(folder, "false", tmp_path / "run-2/tuned") is None
    assert left(folder) == []


def test_a_task_that_ended_with_its_result_was_not_interrupted(folder, tmp_path):
    task = tmp_path / "run-1/tuned"
    folder.begin(task)
    own = checkpoint(folder, 8, task)
    task.mkdir(parents=True)
    assert resume_point(folder, "false", task) == own  # killed before its last file, such as the merged model
    finish(folder.path)
    assert resume_point(folder, "false", task) is None


@pytest.mark.parametrize("wanted", ["false", "auto", "true"])
def test_a_task_that_was_killed_in_its_first_save_starts_at_step_0(folder, tmp_path, wanted):
    task = tmp_path / "run-1/tuned"
    folder.begin(task)
    checkpoint(folder, 8, task, whole=False)
    assert resume_point(folder, wanted, task) is None


def test_a_run_that_finds_only_an_interrupted_save_starts_at_step_0_with_auto(folder, tmp_path):
    checkpoint(folder, 8, whole=False)
    assert resume_point(folder, "auto", tmp_path / "run-2/tuned") is None
    with pytest.raises(UserError, match="CHECKPOINT-E0101"):
        resume_point(folder, "true", tmp_path / "run-2/tuned")


def test_a_damaged_checkpoint_is_no_silent_restart_with_auto(folder, tmp_path):
    (checkpoint(folder, 8) / "model.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="CHECKPOINT-E0101"):
        resume_point(folder, "auto", tmp_path / "run-2/tuned")


def test_a_task_passes_over_its_damaged_checkpoint(folder, tmp_path):
    task = tmp_path / "run-1/tuned"
    folder.begin(task)
    good = checkpoint(folder, 8, task)
    (checkpoint(folder, 9, task, by_time=True) / "model.safetensors").write_bytes(b"other")
    assert resume_point(folder, "false", task) == good


def test_those_by_time_go_when_a_newer_one_is_whole_and_do_not_count(folder):
    checkpoint(folder, 5)
    checkpoint(folder, 7, by_time=True)
    drop_passing(folder.path)
    assert left(folder) == [5, 7]
    checkpoint(folder, 8, whole=False)  # killed in this save, resumed from 7
    checkpoint(folder, 9, by_time=True)
    drop_passing(folder.path)
    prune(folder.path, 1, best=None)
    assert left(folder) == [5, 9]
    checkpoint(folder, 10)
    drop_passing(folder.path)
    prune(folder.path, 2, best=None)
    assert left(folder) == [5, 10]
    prune(folder.path, 1, best=None)
    assert left(folder) == [10]


def test_what_a_finished_pod_keeps_leads_to_the_best_model(folder, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT")
    best = checkpoint(folder, 5)
    checkpoint(folder, 10)
    newest = checkpoint(folder, 15)
    (newest / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": str(best)}))
    assert best_of(newest) == best.name
    remove_finished(folder, CheckpointParams(checkpoint_dir="/volume"))
    assert left(folder) == [5, 15]


def test_how_often_is_saved_does_not_change_which_training_it_is(folder, tmp_path):
    other = settings_with(checkpoints=CheckpointParams(save_minutes=7))
    assert folder_for(other, {"model": "m", "data": "d"}, tmp_path).path == folder.path
