"""Completions by vLLM in the training's own processes, through TRL's class for it (`vllm_mode="colocate"`).

What is other than with TRL (1.16): a completion draws by its own seed; it ends with all end tokens of the training;
vLLM computes in the precision of the training; and an adapter is merged layer by layer into copies, so that a base in
16 bits is not rounded anew at every update.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

from steps.errors import OutOfResources, Problem, UserError
from steps.finetune.rewarded.whole_model import whole_model
from steps.generation.vllm_engine import ENVIRONMENT, NO_MEMORY
from steps.launch.group import current
from steps.models.quantising import sixteen_bit_type
from steps.params.settings import FinetuneSettings

PROCESS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # variables that TRL sets for vLLM


def by_vllm(settings: FinetuneSettings) -> bool:
    """Return whether vLLM writes the completions: with `auto`, on GPUs where it is installed.

    Raises UserError if it was asked for and cannot.
    """
    asked, _ = settings.asked_rewards
    if asked.use_vllm == "false":
        return False
    problems = list(_problems(settings))
    if asked.use_vllm == "auto":
        return torch.cuda.is_available() and not problems
    if problems:
        raise UserError(problems)
    return True


def _problems(settings: FinetuneSettings) -> Iterator[Problem]:
    asked, _ = settings.asked_rewards
    parts, processes = asked.vllm_tensor_parallel_size, current().count
    if find_spec("vllm") is None:
        yield Problem("TRAIN-E0226", "use_vllm", "true, but the package vllm is missing", "vllm installed",
                      "install it, or set use_vllm=auto")  # fmt: skip
    if settings.quantisation.bits:
        yield Problem("TRAIN-E0227", "use_vllm", f"true with weights in {settings.quantisation.bits} bits",
                      "weights that are not quantised", "set use_vllm=false, or leave the quantisation out",
                      why="vLLM would get weights that were rounded again after every update")  # fmt: skip
    if processes % parts:
        yield Problem("TRAIN-E0228", "vllm_tensor_parallel_size", f"{parts} for {processes} processes",
                      f"a divisor of {processes}", "change it",
                      why="each engine has the same number of processes")  # fmt: skip


def arguments(settings: FinetuneSettings, model: Any) -> dict[str, Any]:
    """Return the arguments of TRL's configuration for a loaded model."""
    asked, _ = settings.asked_rewards
    longest = asked.max_prompt_length + asked.max_completion_length
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": asked.vllm_gpu_memory_utilization,
        "vllm_tensor_parallel_size": asked.vllm_tensor_parallel_size,
        "vllm_max_model_length": min(longest, positions or longest),
        # A loss of single tokens (vespo) takes ratios of these only, also of vLLM's probabilities to the model's own.
        **({"vllm_importance_sampling_mode": "token_truncate"} if asked.loss.level == "token" else {}),
    }


@contextmanager
def made_by(module: ModuleType, settings: FinetuneSettings) -> Iterator[None]:
    """Within the block, a trainer of TRL's `module` makes the class below where it would make TRL's own."""
    half = settings.training.precision == "16"
    before = module.VLLMGeneration
    module.VLLMGeneration = partial(SeededVllm, dtype=sixteen_bit_type() if half else "float32")  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.VLLMGeneration = before  # type: ignore[attr-defined]


class SeededVllm(VLLMGeneration):
    """vLLM beside a training; `trainer`, whose model it has, and `seeds` of the next prompts are set from outside."""

    trainer: Any
    seeds: Sequence[int]

    def __init__(self, *given: Any, dtype: str, **named: Any):
        self._dtype = dtype
        super().__init__(*given, **named)

    def begin(self, trainer: Any) -> None:
        """Take a trainer's model and end tokens."""
        self.trainer = trainer
        self.generation_kwargs |= {"stop_token_ids": list(trainer.eos_token_ids), "detokenize": False}

    def _init_vllm(self) -> None:
        with _environment(), _replaced(vllm_generation, "LLM", self._loaded):
            super()._init_vllm()

    def _loaded(self, **given: Any) -> Any:
        from vllm import LLM

        # Else the settings in the model's own file would be added to ours.
        given |= {"dtype": self._dtype, "generation_config": "vllm"}
        if not torch.cuda.is_available():
            given["enforce_eager"] = True  # on a CPU, compiling would take a minute and a compiler
        try:
            return LLM(**given)
        except (ValueError, RuntimeError) as error:
            raise _refused(error) from error

    def generate(self, prompts: Any, *given: Any, **named: Any) -> Any:
        """Write one completion to each prompt with its seed; arguments and result are TRL's."""
        seeds = list(self.seeds)
        if self.tensor_parallel_size > 1:  # the processes of an engine write for all of them
            parts: list[Any] = [None] * self.tensor_parallel_size
            torch.distributed.all_gather_object(parts, seeds, group=self.tp_group)
            seeds = [seed for part in parts for seed in part]
        llm = self.llm
        self.llm = _Seeded(llm, seeds)
        try:
            return super().generate(prompts, *given, **named)
        finally:
            self.llm = llm

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the weights that vLLM is to have, by the base model's names."""
        from accelerate.utils import is_peft_model

        place = self.accelerator.device.type
        with whole_model(self.trainer) as model, torch.autocast(place, enabled=False):  # sums in full precision
            named = adapted_weights(model) if is_peft_model(model) else model.named_parameters()
            for name, weight in named:
                yield self._fix_param_name_to_vllm(name), weight.data

    def close(self) -> None:
        """Free vLLM's weights and cache."""
        if self.llm is None:
            return
        from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

        self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        destroy_model_parallel()
        if current().count == 1:  # the group of one process is vLLM's own
            destroy_distributed_environment()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Seeded:
    """vLLM's `LLM`, which gives each prompt its seed."""

    def __init__(self, llm: Any, seeds: Sequence[int]):
        self._llm, self._seeds = llm, seeds

    def generate(self, prompts: Sequence[Any], sampling_params: Any, **named: Any) -> Any:
        own = []
        for _, seed in zip(prompts, self._seeds, strict=True):
            params = sampling_params.clone()
            params.seed = seed
            own.append(params)
        return self._llm.generate(prompts, sampling_params=own, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)


def adapted_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights of a PEFT model's base with its adapter merged, by the base's names; the model is not changed.

    Only one layer at a time has a copy.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    inner = model.base_model.model
    inside: set[str] = set()
    for place, layer in inner.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        inside.add(f"{place}.")
        base = layer.get_base_layer()
        kept = {name: weight.data for name, weight in base.named_parameters(recurse=False)}
        try:
            for weight in base.parameters(recurse=False):
                weight.data = weight.data.clone()
            layer.merge()
            for name, weight in base.named_parameters(recurse=False):
                yield f"{place}.{name}", weight.data
        finally:
            for name, weight in base.named_parameters(recurse=False):
                weight.data = kept[name]
            layer.merged_adapters.clear()
    for name, weight in inner.named_parameters():
        if not name.startswith(tuple(inside)) and ".original_module." not in name:
            yield name.replace("modules_to_save.default.", ""), weight.data


def _refused(error: Exception) -> OutOfResources | UserError:
    said = " ".join(str(error).split())[:300]
    if any(words in str(error).lower() for words in NO_MEMORY):
        return OutOfResources(
            Problem("TRAIN-E0505", "vllm_gpu_memory_utilization", f"vLLM said: {said}",
                    "memory for the model and its cache", "raise vllm_gpu_memory_utilization, lower "
                    "max_prompt_length or max_completion_length, or set use_vllm=false")
        )  # fmt: skip
    return UserError(
        Problem("TRAIN-E0229", "use_vllm", f"vLLM said: {said}", "a model that it can load", "set use_vllm=false")
    )


@contextmanager
def _environment() -> Iterator[None]:
    """Set vLLM's variables, and remove those by which this process would pass for one of several afterwards."""
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    before: Mapping[str, str | None] = {name: os.environ.get(name) for name in PROCESS}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
