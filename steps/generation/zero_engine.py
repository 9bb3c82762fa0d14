"""Engine `deepspeed_zero`: ZeRO-Inference, for models that are larger than a GPU.

ZeRO-3 divides the weights among GPUs, or keeps them in the machine's memory (cpu_offload), and collects each layer on
every GPU when it computes. Each GPU has rows of its own, and all of them must compute the same layers at the same time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.generation.deepspeed_engine import refuse
from steps.generation.deepspeed_group import InGroup, computed_buffers, gpus, missing, restore_buffers
from steps.generation.rank_group import RankGroup
from steps.generation.requests import Engine
from steps.generation.transformers_engine import number_type_of
from steps.params.settings import GenerateSettings

__all__ = ["missing", "open_engine", "open_rank"]

RESTING, DECODER, ENCODER, WHOLE = 0, 1, 2, 3  # what a process does next; the highest of all goes first


def open_engine(
    settings: GenerateSettings, model: Path | None, adapter: Path | None = None, processes: int = 0
) -> Engine:
    """Load the model in as many processes as this one sees GPUs (at least one), or in `processes`.

    Raises UserError for settings that it cannot follow, OutOfResources without enough memory.
    """
    refuse(settings, model)
    assert model is not None
    count = processes or gpus() or 1
    if count == 1:
        return open_rank(settings, model, adapter)
    return RankGroup("deepspeed_zero", __name__, count, True, settings, model, adapter)


def open_rank(settings: GenerateSettings, model: Path, adapter: Path | None = None) -> ZeroEngine:
    """Load this process's part of the model."""
    return ZeroEngine(settings, model, adapter)


class ZeroEngine(InGroup):
    """A model whose weights are collected layer by layer."""

    name = "deepspeed_zero"
    _company: Company | None = None

    def _load(self, settings: GenerateSettings, folder: Path, adapter: Path | None) -> Any:
        import deepspeed
        import torch
        import transformers
        from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

        from steps.generation.loading import load

        number_type = number_type_of(settings)
        kind = getattr(transformers, settings.recipe.kind.auto_class)
        count = torch.distributed.get_world_size()
        config = configuration(settings, number_type, count)
        kept = computed_buffers(kind, folder, getattr(torch, number_type))
        # While it exists, from_pretrained divides each weight as soon as it is read.
        held = HfDeepSpeedConfig(config)
        model = load(kind, folder, "16", device_map=None, dtype=getattr(torch, number_type))
        engine, *_ = deepspeed.initialize(model=model, config=config)
        restore_buffers(engine.module, kept)
        del held
        # Otherwise `generate` would wait for the other processes in its own way.
        unset_hf_deepspeed_config()
        inner = engine.module.eval()
        self._company = Company(inner, self._encoder) if count > 1 else None
        return inner

    def rest(self) -> None:
        """Compute with the others until all have their answers."""
        if self._company:
            self._company.rest()

    def __exit__(self, *told: object) -> None:
        self._company = None
        super().__exit__(*told)


def configuration(settings: GenerateSettings, number_type: str, processes: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration; the batch size is of no use, but required."""
    import torch

    zero: dict[str, Any] = {"stage": 3}
    if settings.engine.cpu_offload:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": processes,
        "zero_optimization": zero,
        "bf16": {"enabled": number_type == "bfloat16"},
        "fp16": {"enabled": number_type == "float16"},
        "steps_per_print": 10**9,
    }


class Company:
    """Keeps processes with different rows at the same layers.

    Before a process runs the model (or its encoder), all agree what is next; those with something else to do, or with
    nothing, run the same with one token. So every way of decoding works, with any number of steps in each process.
    """

    def __init__(self, model: Any, has_encoder: bool):
        self._model = model
        self._encoder: Any = model.get_encoder() if has_encoder else None
        self._within, self._depth = False, 0
        for module in (model, self._encoder):
            if module is not None:
                module.register_forward_pre_hook(self._before, with_kwargs=True)
                module.register_forward_hook(self._after, always_call=True)

    def rest(self) -> None:
        """Run what others run, until all rest."""
        while (what := self._agreed(RESTING)) != RESTING:
            self._run(what)

    def _before(self, module: Any, _: Any, given: dict[str, Any]) -> None:
        if self._within:
            self._depth += 1
            return
        mine = DECODER
        if module is self._encoder:
            mine = ENCODER
        elif self._encoder is not None and given.get("encoder_outputs") is None:
            mine = WHOLE
        while (what := self._agreed(mine)) != mine:
            self._run(what)
        self._within, self._depth = True, 1

    def _after(self, *_: Any) -> None:
        self._depth -= 1
        self._within = self._depth > 0

    def _agreed(self, mine: int) -> int:
        import torch

        told = torch.tensor([mine], device=self._model.device)
        torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
        return int(told[0])

    def _run(self, what: int) -> None:
        import torch

        token = torch.zeros((1, 1), dtype=torch.long, device=self._model.device)
        self._within, self._depth = True, 1
        with torch.inference_mode():
            if what == ENCODER:
                self._encoder(token)
            elif what == WHOLE:
                self._model(input_ids=token, decoder_input_ids=token)
            elif self._encoder is not None:
                read = torch.zeros((1, 1, self._model.config.hidden_size), device=token.device, dtype=self._model.dtype)
                self._model(encoder_outputs=(read,), decoder_input_ids=token)
            else:
                self._model(input_ids=token)
        self._within, self._depth = False, 0
