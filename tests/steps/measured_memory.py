"""Measure the memory of a training step of real architectures, without computing it.

Parameters and activations are fake tensors (shapes without values, `FakeTensorMode`), and torch's own `MemTracker`
counts the storages that are alive at every operation: the estimate's independent source. Steps are done as the trainers
here do them: autocast, PEFT, TRL's fused head, torch's optimizer.

`python tests/steps/test_memory_measured.py` prints the table of docs/memory.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

VOCABULARY = 32000
SIZES = {"small": (256, 4), "middle": (512, 6), "large": (1024, 8)}  # hidden size, layers


class Tracker(MemTracker):
    """Counts gradients among the temporary tensors: the hooks that tell them apart fail on frozen weights."""

    def _track_module_params_and_buffers(self, module: Any, install_grad_hooks: bool = True) -> tuple[int, int]:
        return super()._track_module_params_and_buffers(module, install_grad_hooks=False)


def configuration(family: str, size: str, **changes: Any) -> tuple[Any, Any]:
    """Return class and configuration of a model of a family in a moderate size."""
    import transformers as t

    hidden, layers = SIZES[size]
    heads = hidden // 64
    if family == "llama":  # gated, RMS norms, keys shared by four heads, own head
        return t.LlamaForCausalLM, t.LlamaConfig(
            hidden_size=hidden, intermediate_size=hidden * 11 // 4, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=max(heads // 4, 1), vocab_size=VOCABULARY,
            max_position_embeddings=4096, **changes)  # fmt: skip
    if family == "qwen2":
        return t.Qwen2ForCausalLM, t.Qwen2Config(
            hidden_size=hidden, intermediate_size=hidden * 4, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=max(heads // 2, 1), vocab_size=VOCABULARY, tie_word_embeddings=True,
            **changes)  # fmt: skip
    if family == "gpt2":  # layer norms, tied head, dropout
        return t.GPT2LMHeadModel, t.GPT2Config(
            n_embd=hidden, n_layer=layers, n_head=heads, vocab_size=VOCABULARY, n_positions=2048,
            **changes)  # fmt: skip
    encoder = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers,
               "num_attention_heads": heads, "vocab_size": VOCABULARY, "max_position_embeddings": 2048}  # fmt: skip
    if family == "bert":
        return t.BertForSequenceClassification, t.BertConfig(**encoder, **changes)
    if family == "bert-masked":
        return t.BertForMaskedLM, t.BertConfig(**encoder, **changes)
    if family == "t5":
        return t.T5ForConditionalGeneration, t.T5Config(
            d_model=hidden, d_ff=hidden * 5 // 2, num_layers=layers, num_heads=heads, d_kv=64, vocab_size=VOCABULARY,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, **changes)  # fmt: skip
    assert family == "bart"
    return t.BartForConditionalGeneration, t.BartConfig(
        d_model=hidden, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=4 * hidden, decoder_ffn_dim=4 * hidden, vocab_size=VOCABULARY,
        max_position_embeddings=2048, **changes)  # fmt: skip


def model_of(family: str, size: str, lora: bool, half: bool, attention: str, **changes: Any) -> Any:
    """Return a model on the meta device, as the trainers load it: a frozen base in 16 bit, trained weights in 32."""
    import peft

    made, config = configuration(family, size, **changes)
    config._attn_implementation = attention
    torch.set_default_dtype(torch.bfloat16 if lora and half else torch.float32)
    try:
        with torch.device("meta"):
            model = made(config)
    finally:
        torch.set_default_dtype(torch.float32)
    if lora:
        if family in ("llama", "qwen2", "gpt2"):
            add_head(model)
        with torch.device("meta"):
            model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules="all-linear"))
    elif family in ("llama", "qwen2", "gpt2"):
        add_head(model)
    return model


def add_head(model: Any) -> None:
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, outputs=("entropy", "is_top1"))


def made_fake(model: Any, lora: bool) -> None:
    """Replace the tensors of a model on the meta device by fake ones on the CPU; tied ones stay tied."""
    made: dict[int, tuple[Any, Any]] = {}
    for module in model.modules():
        for stored in (module._parameters, module._buffers):
            for name, tensor in stored.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    trained = isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad
                    dtype = torch.float32 if lora and trained else tensor.dtype
                    new = torch.empty(tensor.shape, dtype=dtype)
                    is_parameter = stored is module._parameters
                    made[id(tensor)] = (torch.nn.Parameter(new, trained) if is_parameter else new, tensor)
                stored[name] = made[id(tensor)][0]


def _nothing(*_given: Any, **_named: Any) -> None:
    """Stand for a kernel that writes into its arguments."""


@contextmanager
def as_on_a_gpu(wanted: bool) -> Iterator[None]:
    """Let TRL's head use the kernels that it has for GPUs, which allocate nothing; they are not run here."""
    if not wanted:
        yield
        return
    from trl.kernels import chunked_logprob as head

    class Kernel:
        def __getitem__(self, _grid: Any) -> Any:
            return _nothing

    class Triton:
        cdiv = staticmethod(lambda a, b: -(-a // b))

    with (
        mock.patch.object(head, "_use_triton", return_value=True),
        mock.patch.object(head, "_forward_kernel", Kernel()),
        mock.patch.object(head, "_backward_kernel", Kernel()),
        mock.patch.object(head, "_addmm_fp32", _nothing),  # a mock would keep the tensors
        mock.patch.object(head, "triton", Triton(), create=True),
    ):
        yield


def measured(
    family: str,
    size: str,
    *,
    batch: int,
    length: int,
    answer: int = 0,
    lora: bool = False,
    half: bool = False,
    checkpointing: bool = False,
    attention: str = "sdpa",
    accumulated: int = 1,
    gpu: bool = False,
    **changes: Any,
) -> dict[str, int]:
    """Return the bytes at the peak of a step, by torch's categories, and their sum as Total."""
    model = model_of(family, size, lora, half, attention, **changes)
    # BART draws a number for each layer, to skip it; fake tensors have no numbers.
    with FakeTensorMode(), as_on_a_gpu(gpu), mock.patch.object(torch, "rand", return_value=1.0):
        made_fake(model, lora)
        model.train()
        if checkpointing:
            model.enable_input_require_grads() if lora else None
            model.gradient_checkpointing_enable({"use_reentrant": False})
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, foreach=gpu)
        tracker = Tracker()
        tracker.track_external(model, optimizer)
        inputs = _inputs(family, batch, length, answer)
        with tracker:
            for _ in range(2):  # the optimizer has its states from the second step on
                for _ in range(accumulated):
                    with torch.autocast("cpu", torch.bfloat16, enabled=half):
                        loss = model(**inputs).loss
                    loss.backward()
                    del loss
                    tracker.reset_mod_stats()  # it counts the modules of one pass
                optimizer.step()
                optimizer.zero_grad()
        peak = tracker.get_tracker_snapshot("peak")
    (found,) = [places for device, places in peak.items() if device.type == "cpu"]
    return {str(getattr(kind, "value", kind)): int(count) for kind, count in found.items()}


def _inputs(family: str, batch: int, length: int, answer: int) -> dict[str, Any]:
    ids = torch.randint(0, VOCABULARY, (batch, length))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family == "bert":
        return {**given, "labels": torch.zeros(batch, dtype=torch.long)}
    if family == "bert-masked":
        return {**given, "labels": ids}
    if family in ("t5", "bart"):
        return {**given, "labels": torch.randint(0, VOCABULARY, (batch, answer))}
    return {**given, "labels": ids, "fused_lm_head": True, "use_cache": False}


def measured_shards(processes: int, *, batch: int, length: int, half: bool, reshard: bool, checkpointing: bool) -> int:
    """Return the bytes of one process at the peak of forward and backward pass of a Llama that FSDP2 shards.

    The process group is torch's fake one: its collectives allocate what real ones do and send nothing.
    """
    import torch.distributed as dist
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (processes,))
        model = model_of("llama", "middle", False, half, "sdpa")
        policy = MixedPrecisionPolicy(*([torch.bfloat16] * 2 if half else []))
        with FakeTensorMode(), as_on_a_gpu(True):
            made_fake(model, False)
            model.train()
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            for module in [*model.model.layers, model]:
                fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
            optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
            tracker = FSDPMemTracker(model, optimizer)
            inputs = _inputs("llama", batch, length, 0)
            with tracker:
                for last in (False, True):
                    # The optimizer's update is left out: its steps on DTensors are counted with their global shape.
                    tracker._peak_mem_snap = tracker.get_tracker_snapshot()
                    tracker._peak_mem = {device: held["Total"] for device, held in tracker._peak_mem_snap.items()}
                    with torch.autocast("cpu", torch.bfloat16, enabled=half):
                        loss = model(**inputs).loss
                    loss.backward()
                    del loss
                    if not last:
                        optimizer.step()
                        optimizer.zero_grad()
                    tracker.reset_mod_stats()
            (found,) = [held for device, held in tracker.get_tracker_snapshot("peak").items() if device.type == "cpu"]
            return int(found["Total"])
    finally:
        dist.destroy_process_group()


def measured_copies() -> tuple[int, int]:
    """Return the bytes at the peak of a step of a small Llama, alone and in DistributedDataParallel."""
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        return _step_of(wrap=lambda model: model), _step_of(wrap=torch.nn.parallel.DistributedDataParallel)
    finally:
        dist.destroy_process_group()


def _step_of(wrap: Any) -> int:
    model = model_of("llama", "small", False, False, "sdpa")
    made_fake(model, False)  # outside of FakeTensorMode: real tensors, because DDP reads their addresses
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    tracker = Tracker()
    tracker.track_external(model, optimizer)
    with tracker:
        wrapped = wrap(model)
        for _ in range(2):
            wrapped(**_inputs("llama", 1, 16, 0)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            tracker.reset_mod_stats()
    return sum(held["Total"] for held in tracker.get_tracker_snapshot("peak").values())
