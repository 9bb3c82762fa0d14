"""When vLLM writes completions, and which weights it gets; with vLLM itself: tests/serving/test_vllm_rollouts.py."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rewarded_rows import settings_with
from transformers import LlamaConfig, LlamaForCausalLM

from steps.errors import OutOfResources, UserError
from steps.finetune.rewarded import vllm_writing
from steps.finetune.rewarded.vllm_writing import adapted_weights, arguments, by_vllm
from steps.params.quantisation import QuantisationParams

SIZES = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
LAYERS = ["q_proj", "v_proj", "down_proj"]
ADAPTERS = {
    "lora": {},
    "dora": {"use_dora": True},
    "rank-stabilised": {"use_rslora": True},
    "a whole head": {"modules_to_save": ["lm_head"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
}


def model(dtype=torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype)


def adapted(base, **changes):
    torch.manual_seed(1)
    settings = {"r": 4, "target_modules": LAYERS, "init_lora_weights": False, **changes}
    made = get_peft_model(base, LoraConfig(**settings)).train()
    for name, weight in made.named_parameters():
        if "modules_to_save" in name:
            torch.nn.init.normal_(weight)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_weights_are_those_of_pefts_merge_and_the_model_stays_as_it_is(kind, dtype):
    tuned = adapted(model(dtype), **ADAPTERS[kind])
    before = {name: weight.clone() for name, weight in tuned.state_dict().items()}
    told = {name: weight.clone() for name, weight in adapted_weights(tuned)}
    assert all(torch.equal(weight, before[name]) for name, weight in tuned.state_dict().items())
    assert not any(getattr(module, "merged", False) for module in tuned.modules())
    right = adapted(model(dtype), **ADAPTERS[kind]).merge_and_unload().state_dict()
    assert told.keys() == right.keys()
    assert all(torch.equal(weight, right[name]) for name, weight in told.items())
    plain = model(dtype).state_dict()
    assert sum(not torch.equal(weight, plain[name]) for name, weight in told.items()) >= 3


def test_a_sixteen_bit_base_does_not_wander_in_many_updates():
    """As it does where an adapter is added to it and subtracted again, as TRL 1.16 does."""
    tuned, other = adapted(model(torch.bfloat16)), adapted(model(torch.bfloat16))
    first = {name: weight.clone() for name, weight in adapted_weights(tuned)}
    for _ in range(20):
        last = dict(adapted_weights(tuned))
        other.merge_adapter()
        other.unmerge_adapter()
    assert all(torch.equal(weight, first[name]) for name, weight in last.items())
    assert any(not torch.equal(one, two) for one, two in zip(tuned.parameters(), other.parameters(), strict=True))


def test_a_sum_that_stops_in_the_middle_leaves_the_model_as_it_is():
    tuned = adapted(model())
    before = {name: weight.clone() for name, weight in tuned.state_dict().items()}
    some = adapted_weights(tuned)
    next(some)
    some.close()
    assert all(torch.equal(weight, before[name]) for name, weight in tuned.state_dict().items())
    assert not any(getattr(module, "merged", False) for module in tuned.modules())


def asked(use_vllm: str, **more):
    changes = {key: more.pop(key) for key in ("quantisation",) if key in more}
    return settings_with("format", None, {"use_vllm": use_vllm, **more}, **changes)


@pytest.fixture
def machine(monkeypatch):
    def have(vllm: bool, gpu: bool):
        monkeypatch.setattr(vllm_writing, "find_spec", lambda name: object() if vllm else None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    return have


@pytest.mark.parametrize(
    ("use_vllm", "vllm", "gpu", "writes"),
    [("auto", True, True, True), ("auto", True, False, False), ("auto", False, True, False),
     ("auto", False, False, False), ("true", True, True, True), ("true", True, False, True),
     ("false", True, True, False), ("false", False, False, False)],
)  # fmt: skip
def test_vllm_writes_where_it_can_or_where_it_was_asked_to(machine, use_vllm, vllm, gpu, writes):
    machine(vllm, gpu)
    assert by_vllm(asked(use_vllm)) is writes


FOUR = QuantisationParams(load_in_4bit=True)


def test_what_vllm_cannot_do_is_refused_if_asked_for_and_else_left_to_the_projects_decoding(machine):
    machine(False, True)
    with pytest.raises(UserError, match=r"TRAIN-E0226 use_vllm.*vllm is missing.*use_vllm=auto"):
        by_vllm(asked("true"))
    machine(True, True)
    with pytest.raises(UserError, match=r"TRAIN-E0227 use_vllm.*4 bits.*use_vllm=false"):
        by_vllm(asked("true", quantisation=FOUR))
    assert not by_vllm(asked("auto", quantisation=FOUR))
    with pytest.raises(UserError, match=r"TRAIN-E0228 vllm_tensor_parallel_size.*2 for 1 processes.*a divisor of 1"):
        by_vllm(asked("true", vllm_tensor_parallel_size=2))
    assert not by_vllm(asked("auto", vllm_tensor_parallel_size=2))


def test_the_engine_gets_the_users_share_of_memory_and_room_for_prompt_and_completion():
    told = arguments(asked("true", vllm_gpu_memory_utilization=0.4, max_prompt_length=30), model())
    assert told == {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.4,
                    "vllm_tensor_parallel_size": 1, "vllm_max_model_length": 38}  # fmt: skip
    told = arguments(asked("true", loss_type="vespo"), model())
    assert told["vllm_importance_sampling_mode"] == "token_truncate"
    longest = arguments(asked("true", max_prompt_length=500), model())["vllm_max_model_length"]
    assert longest == SIZES["max_position_embeddings"]


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [("Free memory on device (1/80 GiB) is less than desired", OutOfResources, "TRAIN-E0505 vllm_gpu_memory"),
     ("Model architectures ['Odd'] are not supported", UserError, "TRAIN-E0229 use_vllm")],
)  # fmt: skip
def test_what_vllm_says_when_it_cannot_load_becomes_an_error_with_a_fix(monkeypatch, said, kind, code):
    def fails(**_):
        raise ValueError(said)

    monkeypatch.setitem(importlib.import_module("sys").modules, "vllm", SimpleNamespace(LLM=fails))
    with pytest.raises(kind, match=f"(?s){code}.*{said[:10]}.*use_vllm=false"):
        vllm_writing.SeededVllm._loaded(SimpleNamespace(_dtype="float32"))
