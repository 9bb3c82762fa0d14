"""Several processes that share the rows: how many, with which GPUs, and what becomes of one that is lost."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steps.artifacts import write_durably
from steps.errors import OutOfResources, Preempted, Problem
from steps.generate.answering import Inputs
from steps.generate.journal import Journal
from steps.generate.progress import Progress
from steps.launch.several_processes import Ended, run_processes
from steps.launch.told import first_error, own_error, untold
from steps.params.settings import GenerateSettings
from steps.stopping import Stopped

log = logging.getLogger("finetune")

FOLDER, JOB = "processes", "job.json"  # below the folder of the journal
MODULE = "steps.generate.process"
RESTARTS = 2  # after a process was killed, such as by a node that needs memory
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
WEIGHTS_SHARE = 0.7  # of a GPU's memory; the rest is for the keys and values of a batch


def devices_of_processes(inputs: Inputs) -> list[str | None]:
    """Return the GPUs of each process as CUDA_VISIBLE_DEVICES names them; None: what this process sees.

    Raises OutOfResources if there are GPUs, but not one for each process that is wanted.
    """
    engine = inputs.settings.engine
    if engine.inference_type == "endpoint":
        return [None]
    visible = _visible_gpus()
    wanted = engine.inference_processes
    if not wanted:
        copies = engine.inference_type == "accelerate" and len(visible) > 1 and _fits(inputs)
        wanted = len(visible) if copies else 1
    if wanted == 1:
        return [None]
    if not visible:
        return [None] * wanted
    each = len(visible) // wanted
    if not each:
        raise OutOfResources(
            Problem("GEN-E0521", "inference_processes", f"{wanted} processes and {len(visible)} GPUs",
                    "a GPU for each process", f"set inference_processes to {len(visible)} or less")
        )  # fmt: skip
    return [",".join(visible[rank * each : (rank + 1) * each]) for rank in range(wanted)]


def _visible_gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    told = next((os.environ[name] for name in VISIBLE if os.environ.get(name)), "")
    return told.split(",") if told else [str(number) for number in range(torch.cuda.device_count())]


def _fits(inputs: Inputs) -> bool:
    """Return whether the weights fit on one GPU, as far as their files tell."""
    import torch

    if inputs.model is None:
        return False
    stored = sum(file.stat().st_size for file in inputs.model.glob("*.safetensors"))
    room = min(torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count()))
    return stored <= WEIGHTS_SHARE * room


def answer_in_processes(inputs: Inputs, journal: Journal, progress: Progress, devices: Sequence[str | None]) -> None:
    """Answer in as many processes as there are `devices`, each its own rows.

    After a process was killed, all begin again where the journal is, at most RESTARTS times. Raises the error of the
    process that failed first, OutOfResources if processes are killed again and again, and Stopped.
    """
    lost: Ended | None = None
    for restart in range(RESTARTS + 1):
        if lost:
            name = signal.Signals(-lost.code).name
            log.warning("WARNING process %d was killed (%s): going on with the rows that are left", lost.rank, name)
        with _job(inputs, journal, devices) as (job, folder):
            if not restart:
                log.info("starting %d processes, each for its share of the rows", len(devices))
                progress.begin()
            with progress.of_processes(folder):
                outcome = run_processes(MODULE, [str(job)], len(devices))
            ended = outcome.failed
            if not ended:
                return
            if outcome.asked_to_stop:
                raise own_error(folder) or Stopped()
            lost = next((one for one in ended if one.killed), None)
            if lost is None:
                raise _error_of(folder, ended)
    assert lost is not None
    raise OutOfResources(
        Problem("GEN-E0522", f"process {lost.rank}", f"killed from outside ({signal.Signals(-lost.code).name}), "
                f"{RESTARTS + 1} times", "the end of its rows", "give generate more memory, or lower "
                "inference_processes or test_batch_size", why="the usual reason is a lack of memory")
    )  # fmt: skip


@contextmanager
def _job(inputs: Inputs, journal: Journal, devices: Sequence[str | None]) -> Iterator[tuple[Path, Path]]:
    """Yield the file that tells the processes what to do, and the folder where they tell counts and errors."""
    folder = journal.folder / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    told: dict[str, Any] = {
        "settings": inputs.settings.model_dump(mode="json"),
        "model": inputs.model and str(inputs.model.absolute()),
        "adapter": inputs.adapter and str(inputs.adapter.absolute()),
        "data": str(inputs.data.absolute()),
        "journal": str(journal.folder.absolute()),
        "part_seconds": journal.part_seconds,
        "devices": list(devices),
    }
    write_durably(folder / JOB, json.dumps(told))
    try:
        yield folder / JOB, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_job(job: Path) -> tuple[Inputs, Journal]:
    """Return what the file of a job tells."""
    told = json.loads(job.read_bytes())
    model, adapter = (Path(told[name]) if told[name] else None for name in ("model", "adapter"))
    inputs = Inputs(GenerateSettings.model_validate(told["settings"]), model, adapter, Path(told["data"]))
    return inputs, Journal(Path(told["journal"]), told["part_seconds"])


def _error_of(folder: Path, ended: list[Ended]) -> BaseException:
    """Return the error of the process that failed first; processes that were stopped have none."""
    if error := first_error(folder):
        return error
    if all(one.code in (Preempted.exit_code, -signal.SIGTERM) for one in ended):
        return Stopped()
    first = next((one for one in ended if one.code > 0), ended[0])
    return untold(folder, f"process {first.rank}", first.code)
