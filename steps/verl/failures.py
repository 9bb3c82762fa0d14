"""Why verl ended: its exit code, its output and what its workers wrote, as one of this project's errors.

verl trains in processes of Ray. Their errors come as text in the output of the process that was started, often with an
error of another process behind them that follows from the first. So every line is searched as it comes, and of all
kinds that were found the most exact one is told.
"""

from __future__ import annotations

import re
import signal
from collections import deque
from pathlib import Path

from steps.errors import Outage, OutOfResources, Preempted, Problem, StepError, UserError
from steps.launch.told import from_text
from steps.verl.rewards import ERROR

TAIL = 60  # lines of the output that an unknown error shows
PID = re.compile(r"^\(\w[\w.]* pid=\d+(?:, ip=[\d.]+)?\)\s*")  # that Ray writes before the lines of its processes
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

# What a line says, the most exact first: Ray reports an actor as dead also where it ran out of memory.
GPU = re.compile(
    r"CUDA out of memory|torch(?:\.cuda)?\.OutOfMemoryError|HIP out of memory|No available memory for the cache blocks"
    r"|Free memory on device .* is less than desired|CUDA error: out of memory"
)
HOST = re.compile(
    r"ray\.exceptions\.OutOfMemoryError|killed due to the node running low on memory"
    r"|DefaultCPUAllocator: can't allocate|(?:^|\s)MemoryError\b|Unable to allocate .* for an array"
)
DISK = re.compile(r"No space left on device|OutOfDiskError")
SHARED = re.compile(r"insufficient shared memory|/dev/shm .*(?:full|too small)|unable to mmap .* shared memory")
EMPTY = re.compile(r"[Tt]rain dataloader is empty|filter dataset len: 0\b")
OVERLONG = re.compile(r"Prompt length \d+ is longer than \d+|NotImplementedError: sequence_length=")
NO_GPUS = re.compile(r"Total available GPUs [\d.]+ is less than total desired GPUs|No CUDA GPUs are available")
LOST = re.compile(
    r"ray\.exceptions\.(?:RayActorError|ActorDiedError|ActorUnavailableError|WorkerCrashedError|NodeDiedError"
    r"|ObjectLostError|OwnerDiedError|RaySystemError)|The actor (?:is dead|died)|EngineDeadError"
    r"|Watchdog caught collective operation timeout|ncclRemoteError|ncclSystemError"
)


class Output:
    """The output of verl: its last lines, and the first line that names each kind of failure."""

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL)
        self.found: dict[str, str] = {}

    def add(self, line: str) -> str:
        """Take a line of the output; return it without colours."""
        plain = COLOURS.sub("", line.rstrip())
        self.tail.append(plain)
        told = PID.sub("", plain)
        for name, pattern in KINDS.items():
            if name not in self.found and pattern.search(told):
                self.found[name] = told.strip()[:160]
        return plain


KINDS = {
    "gpu": GPU, "host": HOST, "disk": DISK, "shared": SHARED, "empty": EMPTY, "overlong": OVERLONG, "no gpus": NO_GPUS,
    "lost": LOST,
}  # fmt: skip


def error_of(code: int, output: Output, step: int, job: Path | None) -> StepError:
    """Return the error of a verl that ended with `code`, below 0 for a signal, after `step` steps.

    `job` is the folder in which its reward functions write their errors.
    """
    if told := _told(job):
        return told
    where = f"verl, step {step + 1}"
    for name, make in ((kind, MAKERS[kind]) for kind in MAKERS):
        if name in output.found:
            return make(where, output.found[name])
    if code < 0:
        return killed(where, signal.Signals(-code).name)
    error = StepError(
        Problem("VERL-E0070", where, f"exit code {code}; its last lines: "
                f"{_last(output) or 'none'}", "the end of the training", "report it with the log")
    )  # fmt: skip
    error.add_note("\n".join(["the end of verl's output:", *output.tail]))
    return error


def killed(where: str, by: str) -> OutOfResources:
    """Return the error of a process that a signal ended which nobody here sent."""
    return OutOfResources(
        Problem("VERL-E0503", where, f"killed from outside ({by})", "the end of the training",
                "give finetune more memory, or set actor_fsdp_param_offload=false; it resumes with "
                "resume_from_checkpoint=true", why="the usual reason is a lack of memory")
    )  # fmt: skip


def preempted(step: int, saved: Path | None) -> Preempted:
    """Return the error of a training that was asked to stop after `step` steps."""
    kept = f"the checkpoint {saved.name} is whole" if saved else "there is no checkpoint yet"
    return Preempted(
        Problem("VERL-E1430", f"verl, step {step}", f"a request to stop; {kept}", "the whole training",
                "run again with resume_from_checkpoint=true"),
        resume_from=str(saved) if saved else "",
    )  # fmt: skip


def has_told(job: Path | None) -> bool:
    """Return whether a reward function wrote an error."""
    return job is not None and any(job.glob(f"{ERROR}*.json"))


def _told(job: Path | None) -> StepError | None:
    """Return the first error that a reward function wrote."""
    files = sorted(job.glob(f"{ERROR}*.json"), key=lambda file: file.stat().st_mtime_ns) if job else []
    error = from_text(files[0].read_text(encoding="utf-8")) if files else None
    return error if isinstance(error, StepError) else None


def _last(output: Output) -> str:
    return " | ".join(line for line in list(output.tail)[-3:] if line)[-300:]


def _gpu(where: str, line: str) -> OutOfResources:
    return OutOfResources(
        Problem("VERL-E0501", where, line, "a training that fits into GPU memory",
                "lower actor_ppo_micro_batch_size_per_gpu, rollout_gpu_memory_utilization or data_max_response_length, "
                "or set actor_fsdp_param_offload=true")
    )  # fmt: skip


def _host(where: str, line: str) -> OutOfResources:
    return OutOfResources(
        Problem("VERL-E0502", where, line, "a training that fits into the memory of its nodes",
                "give finetune more memory, or set actor_fsdp_param_offload=false and ref_fsdp_param_offload=false")
    )  # fmt: skip


def _disk(where: str, line: str) -> OutOfResources:
    return OutOfResources(
        Problem("VERL-E0504", where, line, "room for the checkpoints and for Ray's files",
                "free disk space, use a larger volume, or lower trainer_max_ckpt_to_keep")
    )  # fmt: skip


def _shared(where: str, line: str) -> OutOfResources:
    return OutOfResources(
        Problem("VERL-E0505", where, line, "room in /dev/shm for Ray's objects", "raise shm_size_finetune")
    )


def _no_gpus(where: str, line: str) -> OutOfResources:
    return OutOfResources(
        Problem("VERL-E0506", where, line, "the GPUs that were asked for",
                "lower trainer_n_gpus_per_node or trainer_nnodes, or choose a larger instance type")
    )  # fmt: skip


def _empty(where: str, line: str) -> UserError:
    return UserError(
        Problem("VERL-E0206", "the training rows", line, "at least data_train_batch_size rows after verl's filter",
                "raise data_max_prompt_length, add rows, or lower data_train_batch_size")
    )  # fmt: skip


def _overlong(where: str, line: str) -> UserError:
    return UserError(
        Problem("VERL-E0207", "a prompt of the rows", line, "prompts of at most data_max_prompt_length tokens",
                "set data_filter_overlong_prompts=true or data_truncation=left, or raise data_max_prompt_length")
    )  # fmt: skip


def _lost(where: str, line: str) -> Outage:
    return Outage(
        Problem("VERL-E0405", where, line, "all processes of the training",
                "run again with resume_from_checkpoint=true", why="Ray lost one of them")
    )  # fmt: skip


# The order in which they are told: a lost actor follows from most of the others.
MAKERS = {
    "gpu": _gpu, "host": _host, "shared": _shared, "disk": _disk, "no gpus": _no_gpus, "overlong": _overlong,
    "empty": _empty, "lost": _lost,
}  # fmt: skip
