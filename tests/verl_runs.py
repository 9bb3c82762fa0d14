"""Trainings with verl's stand-in: rows, settings and folders of small ones."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from verl_stand_in import ASKED, installed

from steps.artifacts import new_artifact
from steps.params.settings import RewardSettings
from steps.params.verl_settings import VerlSettings
from steps.tasks import verl as task
from steps.verl.training import VerlTraining


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A row as a user would have it."""
    return {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"{number} + 0?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(number)},
        "extra_info": {"index": number, "difficulty": "easy"},
        **changes,
    }


def write_rows(folder: Path, train: list[dict[str, Any]], validation: list[dict[str, Any]]) -> Path:
    """A data artifact with rows as prepare_data writes them."""
    columns = task.Columns()
    with new_artifact(folder, "data") as draft:
        (draft / "rows").mkdir()
        for name, rows in (("train", train), ("validation", validation), ("test", validation)):
            canonical = [task.canonical(one, columns) for one in rows]
            pq.write_table(pa.Table.from_pylist(canonical, task.SCHEMA), draft / f"rows/{name}.parquet")
    return folder


def settings(**changes: Any) -> VerlSettings:
    """Four steps of two prompts on two GPUs, with a checkpoint every two steps."""
    values: dict[str, Any] = {
        "rollout_name": "vllm", "trainer_n_gpus_per_node": 2, "trainer_nnodes": 1, "data_train_batch_size": 2,
        "actor_ppo_mini_batch_size": 2, "actor_ppo_micro_batch_size_per_gpu": 1, "actor_optim_lr": 0.01,
        "actor_model_lora_rank": 4, "actor_model_lora_alpha": 8, "trainer_save_freq": 2, "trainer_test_freq": 2,
        "trainer_total_epochs": 1, "actor_model_exclude_modules": "",
    }  # fmt: skip
    return VerlSettings(**{**values, **changes})


def training(
    place: Path,
    model: Path,
    rows: int = 8,
    fail: str = "",
    rewards: RewardSettings | None = None,
    resume: str = "auto",
    **changes: Any,
) -> VerlTraining:
    """A training below `place`; `fail` is what the stand-in does at which step: oom:3."""
    data = place / "data"
    if not data.exists():
        write_rows(data, [row(number) for number in range(rows)], [row(100)])
    asked = settings(**changes)
    inputs = {"data": manifest_of(data)["digest"], "model": manifest_of(model)["digest"]}
    return VerlTraining(
        settings=asked,
        model=model,
        data=data,
        tuned=place / "tuned",
        checkpoints=place / "checkpoints",
        identity={"settings": asked.model_dump(mode="json"), "inputs": inputs},
        lineage={"inputs": inputs},
        rewards=rewards,
        resume=resume,
        merged=place / "merged",
        environment={**installed(place), ASKED: fail},
    )


def manifest_of(folder: Path) -> dict[str, Any]:
    """An artifact's manifest."""
    return json.loads((folder / "manifest.json").read_text("utf-8"))


@contextmanager
def stopped_at(text: str, checkpoints: Path, number: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """Send a signal to this process when verl's output has a text."""
    over = threading.Event()

    def wait() -> None:
        while not over.wait(0.05):
            if any(text in file.read_text("utf-8") for file in checkpoints.rglob("verl/verl.log")):
                os.kill(os.getpid(), number)
                return

    watching = threading.Thread(target=wait, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
