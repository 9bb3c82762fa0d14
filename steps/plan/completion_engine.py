"""What writes the completions of a training with rewards: this project's own decoding, or vLLM beside the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steps.errors import Problem
from steps.params.pipeline import SupervisedParameters
from steps.plan.activations import WIDE, Architecture
from steps.plan.generations import Generations, rewarded
from steps.plan.machine import gpu_memory_here
from steps.plan.packages import missing_for, own_image_notes
from steps.plan.seen import Seen, runs_here

LIGER = "liger-kernel"


def uses_vllm(parameters: SupervisedParameters, on_gpu: bool) -> bool:
    """Return whether vLLM takes its share of each GPU; auto counts only where vLLM is installed here."""
    p = rewarded(parameters)
    if p is None or not on_gpu or p.use_vllm == "false":
        return False
    return p.use_vllm == "true" or (runs_here() and not p.bits and not missing_for("vllm"))


def vllm_bytes(parameters: SupervisedParameters, on_gpu: bool, gpu: int) -> int:
    """Return the bytes of a GPU of `gpu` bytes that vLLM takes for its weights and cache, whatever the rows are."""
    p = rewarded(parameters)
    return int(p.vllm_gpu_memory_utilization * gpu) if p and uses_vllm(p, on_gpu) else 0


def writing_bytes(parameters: SupervisedParameters, a: Architecture, width: int, on_gpu: bool) -> dict[str, int]:
    """Return the bytes of one process while it writes the completions of a generation: their cache, and logits.

    Empty without rewards, and with vLLM, whose share has them. Keys and values are counted for the longest prompt and
    completion of every sequence; on a GPU that is too small the project's decoding writes fewer at a time.
    """
    p = rewarded(parameters)
    if p is None or uses_vllm(p, on_gpu):
        return {}
    sequences = p.per_device_train_batch_size * Generations.of(p).steps
    tokens = sequences * (p.max_prompt_length + p.max_completion_length)
    layer = sequences * p.max_prompt_length * (a.inner * 3 + a.hidden * 6) * width  # while the prompts are read
    return {
        "keys and values": tokens * 2 * a.keys * a.layers * width,
        "activations": layer,
        "logits": sequences * a.vocabulary * WIDE * 2,
    }


def packages_of_completions(parameters: SupervisedParameters) -> Iterator[tuple[str, str, str, str]]:
    """Yield (parameter, its value, the package it needs, what to do without it)."""
    p = rewarded(parameters)
    if p and p.use_liger_kernel:
        yield "use_liger_kernel", "true", LIGER, "leave use_liger_kernel out"
    if p and p.use_vllm == "true" and (package := missing_for("vllm")):
        yield "use_vllm", "true", package, "set use_vllm=auto"


def engine_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse vLLM and Liger Kernel where they cannot run, and numbers of GPUs that vLLM cannot divide."""
    p = rewarded(seen.parameters)
    if p is None:
        return
    if p.use_liger_kernel:
        yield from _without_gpu(p, "use_liger_kernel", "its kernels run on GPUs only")
    if p.use_vllm != "true":
        return
    yield from _without_gpu(p, "use_vllm", "vLLM shares the GPUs of the training")
    if p.bits:
        yield Problem("PLAN-E0523", f"load_in_{p.bits}bit", "true with use_vllm=true", "weights that are not quantised",
                      "leave it out, or set use_vllm=false",
                      why="vLLM would get weights that were rounded again after every update")  # fmt: skip
    yield from _division_problems(p, seen.config)


def _without_gpu(p: SupervisedParameters, name: str, why: str) -> Iterator[Problem]:
    """Refuse a parameter that needs a GPU where none is asked for, or where a local run has none."""
    if not p.number_of_gpu_to_use_finetuning:
        yield Problem("PLAN-E0521", name, "true with number_of_gpu_to_use_finetuning=0", "a GPU",
                      f"leave {name} out, or set number_of_gpu_to_use_finetuning", why=why)  # fmt: skip
    elif runs_here() and not gpu_memory_here():
        yield Problem("PLAN-E0521", name, "true on this machine without a GPU", "a GPU", f"leave {name} out", why=why)


def _division_problems(p: Any, config: Mapping[str, Any]) -> Iterator[Problem]:
    parts, processes = p.vllm_tensor_parallel_size, p.processes_per_node
    heads = config.get("num_attention_heads") or 0
    if processes % parts:
        divisors = [str(count) for count in range(1, processes + 1) if processes % count == 0]
        yield Problem("PLAN-E0522", "vllm_tensor_parallel_size", f"{parts} for {processes} processes of a node",
                      f"one of {', '.join(divisors)}", f"set it to {divisors[-1]} or less, or leave it out",
                      why="each engine has the same number of processes")  # fmt: skip
    elif heads and heads % parts:
        yield Problem("PLAN-E0522", "vllm_tensor_parallel_size", f"{parts} for {heads} attention heads",
                      f"a divisor of {heads}", "lower it", why="the heads are divided among the GPUs")  # fmt: skip


def engine_notes(seen: Seen) -> Iterator[str]:
    """Say what the image of finetune must have."""
    p = rewarded(seen.parameters)
    if p is None:
        return
    if p.use_vllm == "true":
        yield from own_image_notes("use_vllm=true", "vllm", "finetune")
    if p.use_liger_kernel:
        yield from own_image_notes("use_liger_kernel=true", LIGER, "finetune")
