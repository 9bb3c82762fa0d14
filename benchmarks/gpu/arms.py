"""The arms of the benchmark: ours, TRL with its defaults, and a loop written by hand; each runs in its own process."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from shapes import ALPHA, RANK, SHAPES, Shape, make
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForCausalLM, get_scheduler
from trl import SFTConfig, SFTTrainer
from work import peak_flops, useful_flops
from workers import Job

LOGGED = 10  # steps, whose mean loss is told


@dataclass
class Clock:
    """Notes when optimizer steps end, and the rows that they took; waits for the device at both ends only.

    It hears from torch's optimizers and from the data set, so that all arms are measured at the same place, and none
    has a callback that another one lacks.
    """

    shape: Shape
    device: str
    batches: list[list[int]] = field(default_factory=list)
    """Lengths of the texts of each forward pass."""
    steps: int = 0
    started: float = 0.0
    ended: float = 0.0
    peak: int = 0
    """Bytes on the device."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Listen inside this block."""
        hook = register_optimizer_step_post_hook(self._stepped)
        plain = Dataset.__getitems__

        def read(rows: Dataset, keys: list[int]) -> list[dict[str, Any]]:
            found = plain(rows, keys)
            self.batches.append([n for row in found for n in row.get("seq_lengths") or [len(row["input_ids"])]])
            return found

        Dataset.__getitems__ = read
        try:
            yield
        finally:
            Dataset.__getitems__ = plain
            hook.remove()

    def _stepped(self, *_: Any) -> None:
        self.steps += 1
        if self.steps in (self.shape.skipped, self.shape.steps):
            if self.device == "cuda":
                torch.cuda.synchronize()
                self.peak = torch.cuda.max_memory_allocated()
            self.started, self.ended = self.ended, time.monotonic()

    def result(self, counts: dict[str, int], accumulated: int) -> dict[str, Any]:
        """Return what the steps after the skipped ones took. Raises RuntimeError if the training took fewer steps."""
        if self.steps != self.shape.steps:
            raise RuntimeError(f"{self.steps} optimizer steps instead of {self.shape.steps}")
        seconds, done = self.ended - self.started, self.shape.steps - self.shape.skipped
        measured = self.batches[self.shape.skipped * accumulated : self.shape.steps * accumulated]
        rows = [length for batch in measured for length in batch]
        return {
            "tokens": sum(rows),
            "steps": done,
            "steady_seconds": seconds,
            "tokens_per_second": sum(rows) / seconds,
            "tokens_per_step": sum(rows) / done,
            "flops_per_second": useful_flops(self.shape.config, counts["base"], counts["adapter"], rows) / seconds,
            "peak_bytes": self.peak or None,
        }


def device_facts(device: str) -> dict[str, Any]:
    """Return card, memory, its peak and the versions; `forks` tells whether this process can use the card."""
    from importlib.metadata import version

    from steps.plan.machine import memory_here

    facts: dict[str, Any] = {
        "card": "CPU",
        "memory_bytes": 0,
        "host_bytes": memory_here(),
        "peak_flops": None,
        "forks": not torch.cuda._is_in_bad_fork(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate", "datasets")}
        | {"python": sys.version.split()[0], "cuda": torch.version.cuda, "driver": _driver()},
    }
    if device == "cuda" and facts["forks"] and torch.cuda.is_available():
        seen = torch.cuda.get_device_properties(0)
        facts |= {"card": seen.name, "memory_bytes": seen.total_memory, "peak_flops": peak_flops(seen.name)}
    return facts


def _driver() -> str | None:
    file = Path("/sys/module/nvidia/version")
    return file.read_text().strip() if file.is_file() else None


def build(shape: str, folder: str, device: str) -> dict[str, Any]:
    """Make the inputs of a shape; see `shapes.make`."""
    from steps.tracking.database import make_place

    # Once per machine, in a thread beside the training: in its first run the first steps would be slower.
    make_place(f"sqlite:///{folder}/root/mlflow.db")
    return {"counts": make(SHAPES[shape], Path(folder), device)}


def measure(job: Job) -> dict[str, Any]:
    """Train, and return the clock's result with loss and seconds; or {"left_out": why} if it does not fit."""
    from steps.errors import UserError
    from steps.finetune.batch_size import ran_out
    from steps.running import LOCAL_ROOT

    os.environ[LOCAL_ROOT] = f"{job.folder}/root"  # a local run, which plans for this machine
    shape = SHAPES[job.shape]
    started = time.monotonic()
    clock = Clock(shape, job.device)
    try:
        with clock.running():
            told = ARMS[job.arm](job, shape)
    except UserError as error:
        return {"left_out": f"the plan refuses it: {str(error).splitlines()[0]}"}
    except Exception as error:
        if not ran_out(error):
            raise
        return {"left_out": f"out of memory: {str(error).splitlines()[0][:160]}"}
    seconds = time.monotonic() - started
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**clock.result(job.counts, shape.accumulated), **told, "seconds": seconds, "host_peak_bytes": host}


def planned(job: Job, shape: Shape, packed: bool) -> tuple[Any, Any]:
    """Return the settings of finetune and the memory that the plan decides for this machine."""
    from steps.plan.deciding import decide
    from steps.plan.settings import settings_of

    batch = {"per_device_train_batch_size": shape.packed_batch if packed else shape.batch}
    decisions = decide(
        "text_generation",
        {
            "pytorch_model_path": f"{job.folder}/model",
            "train_file_path": f"{job.folder}/train.jsonl",
            "number_of_gpu_to_use_finetuning": int(job.device == "cuda"),
            "precision": "16",
            "apply_lora": True,
            "lora_r": RANK,
            "lora_alpha": ALPHA,
            "max_seq_length": shape.max_length,
            "packing": packed,
            **batch,
            "gradient_accumulation_steps": shape.accumulated,
            "max_steps": shape.steps,
            "learning_rate": 1e-4,
            "evaluation_strategy": "no",
            "logging_steps": min(LOGGED, shape.steps),
        },
    )
    return settings_of(decisions)["training"], decisions.memory


def ours(job: Job, shape: Shape, packed: bool = False) -> dict[str, Any]:
    """Train with the step finetune, as the plan decides."""
    import json

    from steps.finetune.step import finetune

    settings, memory = planned(job, shape, packed)
    place, out = Path(job.folder), Path(job.scratch)
    data = place / ("data-packed" if packed else "data")
    finetune(settings, place / "model", data, out / "tuned", out / "checkpoints", out / "report.html")
    history = json.loads((out / "tuned/history.json").read_text())
    return {
        "loss": history["points"][0]["loss"],
        "planned_bytes": memory.needed,
        "checkpointing": memory.checkpointing,
        "batch": history["batch"]["per_device"],
    }


def ours_packed(job: Job, shape: Shape) -> dict[str, Any]:
    """As `ours`, with packed rows."""
    return ours(job, shape, packed=True)


def trl_defaults(job: Job, shape: Shape) -> dict[str, Any]:
    """Train with SFTTrainer as its documentation begins: the model by its path, SFTConfig's defaults, an adapter."""
    config = SFTConfig(
        output_dir=f"{job.scratch}/trl",
        max_steps=shape.steps,
        per_device_train_batch_size=shape.batch,  # its default in the real shapes, as the length
        max_length=shape.max_length,
        gradient_accumulation_steps=shape.accumulated,
        learning_rate=1e-4,
        logging_steps=min(LOGGED, shape.steps),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=job.device == "cpu",
    )
    trainer = SFTTrainer(
        model=f"{job.folder}/model", args=config, train_dataset=_tokens(job), peft_config=_lora_config()
    )
    trainer.train()
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return {"loss": loss, "checkpointing": config.gradient_checkpointing, "batch": shape.batch}


def by_hand(job: Job, shape: Shape) -> dict[str, Any]:
    """Train with torch and PEFT alone: a bfloat16 base, autocast, fused AdamW; recompute only where the plan does."""
    checkpointing = planned(job, shape, packed=False)[1].checkpointing
    torch.manual_seed(42)
    model = AutoModelForCausalLM.from_pretrained(f"{job.folder}/model", dtype=torch.bfloat16).to(job.device)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model = get_peft_model(model, _lora_config())  # PEFT keeps the adapter's weights in float32
    model.train()
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    schedule = get_scheduler("linear", optimizer, 0, shape.steps)
    batches = iter(
        torch.utils.data.DataLoader(
            _tokens(job), batch_size=shape.batch, shuffle=True, collate_fn=_padded, pin_memory=job.device == "cuda"
        )
    )
    losses = []
    for _ in range(shape.steps):
        whole = torch.zeros((), device=job.device)
        for _ in range(shape.accumulated):
            batch = {name: one.to(job.device, non_blocking=True) for name, one in next(batches).items()}
            with torch.autocast(job.device, torch.bfloat16):
                loss = model(**batch, use_cache=False).loss / shape.accumulated
            loss.backward()
            whole += loss.detach()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(whole)
    mean = torch.stack(losses[:LOGGED]).mean().item()
    return {"loss": mean, "checkpointing": checkpointing, "batch": shape.batch}


def _lora_config() -> LoraConfig:
    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")


def _tokens(job: Job) -> Dataset:
    return Dataset.from_parquet(f"{job.folder}/data/tokens/train.parquet", cache_dir=f"{job.scratch}/cache")


def _padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad to the longest row, as TRL's collator does."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids, labels, mask = [], [], []
    for row in rows:
        padding = longest - len(row["input_ids"])
        ids.append(row["input_ids"] + [0] * padding)
        labels.append(row["labels"] + [-100] * padding)
        mask.append([1] * len(row["input_ids"]) + [0] * padding)
    return {name: torch.tensor(one) for name, one in
            (("input_ids", ids), ("labels", labels), ("attention_mask", mask))}  # fmt: skip


ARMS = {"ours": ours, "TRL defaults": trl_defaults, "by hand": by_hand, "ours, packed": ours_packed}
