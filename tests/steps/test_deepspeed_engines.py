"""DeepSpeed-Inference and ZeRO-Inference answer as transformers does, in one process and in several."""

import os
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec

import pytest
from conftest import build_model
from encoder_decoders import build_t5
from grids import long_but

from steps.errors import OutOfResources, UserError
from steps.generation import deepspeed_engine, rank_group, transformers_engine, zero_engine
from steps.generation.requests import Request
from steps.params.generation import DecodingParams, EngineParams
from steps.params.settings import GenerateSettings

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find_spec("deepspeed"), reason="needs deepspeed")]

WAYS = {
    "greedy": {},
    "drawn": {"do_sample": True, "temperature": 0.8},
    "beams": {"num_beams": 3},
    "without a cache": {"use_cache": False},
    "log-probabilities": {"logprobs": True},
    "stop strings": {"stop_strings": '["e"]'},
    "a shortest text, which some prompts are": {"min_length": 12, "eos_tokens": ",".join(map(str, range(3, 300)))},
}
REQUESTS = [Request(row, "What is the capital of " + "France " * (row % 4 + 1), seed=row) for row in range(7)]


def settings(decoding=None, **changes):
    engine = {"test_batch_size": 3, **changes.pop("engine", {})}
    made = DecodingParams(**{"max_new_tokens": 10, **(decoding or {})})
    return GenerateSettings(decoding=made, engine=EngineParams(**engine), **changes)


def answers(engine, requests=REQUESTS):
    with engine as opened:
        return dict(opened.complete(requests))


def assert_same(made, wanted):
    """The same tokens and texts; log-probabilities of other batches differ in the last digits."""
    for one in (made, wanted):
        assert sorted(one) == list(range(len(wanted)))
    for index, one in wanted.items():
        assert replace(made[index], logprobs=None) == replace(one, logprobs=None)
        assert (made[index].logprobs or ()) == pytest.approx(one.logprobs or (), abs=1e-4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    build_model(folder)
    return folder


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    """A model with different answers to different prompts, of 4 heads."""
    folder = tmp_path_factory.mktemp("model") / "model"
    build_model(folder, num_attention_heads=4, num_key_value_heads=4, initializer_range=0.2, tie_word_embeddings=False)
    return folder


@contextmanager
def unchanged_environment():
    import deepspeed  # noqa: F401  which sets a variable where it is imported first

    before = dict(os.environ)
    yield
    assert dict(os.environ) == before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("engine", [deepspeed_engine, zero_engine], ids=["deepspeed", "zero"])
def test_answers_are_those_of_transformers(other_model, engine, way):
    chosen = settings(WAYS[way])
    wanted = answers(transformers_engine.open_engine(chosen, other_model))
    assert len({one.text for one in wanted.values()}) > 1
    with unchanged_environment():
        assert answers(engine.open_engine(chosen, other_model)) == wanted


@pytest.mark.parametrize("engine", [deepspeed_engine, zero_engine], ids=["deepspeed", "zero"])
def test_bfloat16_and_safetensors_are_no_obstacle_without_kernels(other_model, engine):
    chosen = settings(engine={"inference_precision": "half"})
    assert list(other_model.glob("*.safetensors"))
    with engine.open_engine(chosen, other_model) as opened:
        types = {name: str(buffer.dtype) for name, buffer in opened._model.named_buffers()}
        made = dict(opened.complete(REQUESTS))
    assert types
    assert set(types.values()) == {"torch.float32"}  # the frequencies of rotary positions
    assert made == answers(transformers_engine.open_engine(chosen, other_model))


def test_an_engine_that_does_not_open_leaves_nothing_behind(other_model):
    import torch

    for engine in (deepspeed_engine, zero_engine):
        with unchanged_environment(), pytest.raises(UserError, match="GEN-E0202"):
            engine.open_engine(settings({"eos_tokens": "99999999"}), other_model)
        assert not torch.distributed.is_initialized()


def test_weights_are_divided_and_may_stay_in_the_memory_of_the_machine(model):
    chosen = settings(engine={"cpu_offload": True, "inference_type": "deepspeed_zero"})
    wanted = answers(transformers_engine.open_engine(settings(), model))
    engine = zero_engine.open_engine(chosen, model)
    parameters = list(engine._model.parameters())
    assert all(hasattr(one, "ds_id") and one.numel() == 0 for one in parameters)
    assert {one.ds_tensor.device.type for one in parameters} == {"cpu"}
    assert answers(engine) == wanted


def test_offloading_is_in_the_configuration_of_deepspeed_only_if_it_is_asked_for():
    plain = zero_engine.configuration(settings(), "bfloat16", 4)
    moved = zero_engine.configuration(settings(engine={"cpu_offload": True}), "float32", 1)
    assert plain["zero_optimization"] == {"stage": 3}
    assert (plain["bf16"]["enabled"], plain["fp16"]["enabled"], plain["train_batch_size"]) == (True, False, 4)
    assert moved["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert (moved["bf16"]["enabled"], moved["fp16"]["enabled"]) == (False, False)


@pytest.mark.long
def test_an_encoder_decoder_answers_too(tmp_path):
    build_t5(tmp_path / "t5")
    chosen = settings({"max_new_tokens": 6}, kind="seq2seq_lm")
    wanted = answers(transformers_engine.open_engine(chosen, tmp_path / "t5"))
    assert answers(zero_engine.open_engine(chosen, tmp_path / "t5")) == wanted
    assert answers(deepspeed_engine.open_engine(chosen, tmp_path / "t5")) == wanted
    assert answers(zero_engine.open_engine(chosen, tmp_path / "t5", processes=2)) == wanted


@pytest.mark.parametrize("way", long_but(["drawn"], ["greedy", "drawn", "beams", "log-probabilities"]))
def test_two_processes_of_zero_with_rows_of_their_own_answer_as_one(other_model, way):
    chosen = settings(WAYS[way])
    wanted = answers(transformers_engine.open_engine(chosen, other_model))
    with zero_engine.open_engine(chosen, other_model, processes=2) as engine:
        assert_same(dict(engine.complete(REQUESTS)), wanted)
        assert_same(dict(engine.complete(REQUESTS[:1])), {0: wanted[0]})  # nothing for the second process
        assert dict(engine.complete([])) == {}
        assert set(engine.versions) == {"torch", "transformers", "deepspeed"}


def test_two_processes_of_deepspeed_share_each_layer(other_model):
    chosen = settings(engine={"tensor_parallel_size": 2, "inference_type": "deepspeed"})
    wanted = answers(transformers_engine.open_engine(settings(), other_model))
    made = answers(deepspeed_engine.open_engine(chosen, other_model))
    assert {index: one.text for index, one in made.items()} == {index: one.text for index, one in wanted.items()}


def test_more_gpus_than_there_are_is_refused(model, monkeypatch):
    monkeypatch.setattr(deepspeed_engine, "gpus", lambda: 1)
    with pytest.raises(OutOfResources, match=r"GEN-E0543 tensor_parallel_size: found 2 with 1 GPUs"):
        deepspeed_engine.open_engine(settings(engine={"tensor_parallel_size": 2, "inference_type": "deepspeed"}), model)


@pytest.mark.long
def test_the_error_of_a_process_is_raised_here(model):
    engine = zero_engine.open_engine(settings(), model, processes=2)
    with engine, pytest.raises(RuntimeError, match="AttributeError"):
        list(engine.complete([None, None]))


@pytest.mark.long
def test_an_error_of_ours_keeps_its_class_and_its_words(model, tmp_path, monkeypatch):
    monkeypatch.setattr(rank_group.tempfile, "tempdir", str(tmp_path))
    chosen = settings({"eos_tokens": "99999999"})
    with pytest.raises(UserError, match="GEN-E0202"):
        zero_engine.open_engine(chosen, model, processes=2)
    assert not list(tmp_path.glob("ranks-*"))


@pytest.mark.long
def test_a_process_that_is_killed_is_an_error_and_the_others_end(model):
    with zero_engine.open_engine(settings(), model, processes=2) as engine:
        processes = list(engine._processes)
        processes[1].kill()
        processes[1].join()
        with pytest.raises(OutOfResources, match=r"GEN-E0542 process 1: found ended from outside \(SIGKILL\)"):
            list(engine.complete(REQUESTS))
        assert not any(process.is_alive() for process in processes)


@pytest.mark.long
def test_a_reader_that_stops_early_ends_the_processes_and_the_next_call_starts_them_again(model):
    wanted = answers(transformers_engine.open_engine(settings(), model))
    with zero_engine.open_engine(settings(), model, processes=2) as engine:
        for _ in engine.complete(REQUESTS):
            break
        assert engine._processes == []
        assert dict(engine.complete(REQUESTS)) == wanted


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert rank_group._devices(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,3")
    assert rank_group._devices(2) == ["GPU-a", "GPU-b"]


def causal_models():
    """The architectures of causal models that DeepSpeed has kernels for, small."""
    import transformers as hf

    same = {"vocab_size": 100, "hidden_size": 64, "initializer_range": 0.2}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128}
    old = {"vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.2,
           "bos_token_id": 1, "eos_token_id": 1}  # fmt: skip
    return {
        "llama": hf.LlamaConfig(**same, **layers, intermediate_size=128),
        "opt": hf.OPTConfig(**{**same, **layers}, ffn_dim=256, word_embed_proj_dim=64),
        "gpt_neox": hf.GPTNeoXConfig(**same, **layers, intermediate_size=256),
        "gpt2": hf.GPT2Config(**old),
        "gptj": hf.GPTJConfig(**old, rotary_dim=16),
        "gpt_neo": hf.GPTNeoConfig(**same, num_layers=2, num_heads=2, max_position_embeddings=128,
                                   attention_types=[[["global", "local"], 1]], bos_token_id=1, eos_token_id=1),
        "bloom": hf.BloomConfig(**same, n_layer=2, n_head=2),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "opt", "gpt_neox", "gpt2", "gptj", "gpt_neo", "bloom"])
def test_injected_kernels_are_used_only_where_they_give_the_answers_of_transformers(kind, monkeypatch):
    """DeepSpeed's own layers around its kernels, with its own replacements for kernels on a machine without a GPU.

    When this fails after an upgrade for a kind that gives the same answers, add it to KERNELS.
    """
    import deepspeed
    import torch
    from deepspeed.ops.transformer.inference.op_binding.base import BaseOp
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(BaseOp, "inference_module", object())  # no kernel: each operation is replaced
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(causal_models()[kind]).eval()
    ids = torch.randint(3, 100, (2, 5))
    how = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 8,
           "eos_token_id": None, "pad_token_id": 0}  # fmt: skip
    wanted = model.generate(**how)
    try:
        injected = deepspeed.init_inference(model, dtype=torch.float32, replace_with_kernel_inject=True)
        same = torch.equal(injected.module.generate(**how), wanted)
    except Exception:
        same = False
    assert same == (kind in deepspeed_engine.KERNELS)


def test_the_arguments_of_deepspeed_inference_follow_the_parameters(monkeypatch):
    import torch

    chosen = settings({"max_length": 99}, engine={"tensor_parallel_size": 2})
    told = deepspeed_engine.arguments(chosen, "llama", "bfloat16")
    assert told == {"dtype": torch.bfloat16, "tensor_parallel": {"tp_size": 2}, "replace_with_kernel_inject": False,
                    "max_out_tokens": 99}  # fmt: skip
    monkeypatch.setattr(deepspeed_engine, "KERNELS", {"llama"})
    assert deepspeed_engine.arguments(chosen, "llama", "float16")["replace_with_kernel_inject"] is True
    plain = settings(engine={"replace_with_kernel_inject": False})
    assert deepspeed_engine.arguments(plain, "llama", "float16")["replace_with_kernel_inject"] is False
