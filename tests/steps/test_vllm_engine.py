"""The engine vllm, with a stand-in for vLLM that has its names; tests/serving has the real one."""

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from steps.errors import OutOfResources, UserError
from steps.generation import vllm_engine
from steps.generation.requests import Request
from steps.params.generation import DecodingParams, EngineParams
from steps.params.settings import GenerateSettings

REQUESTS = [Request(row, text, seed=row + 50) for row, text in enumerate(["one", "two words", "the last one of all"])]


@dataclass
class SamplingParams:
    """The fields of vLLM 0.31 that are used."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    skip_special_tokens: bool = True
    repetition_penalty: float = 1.0
    output_kind: Any = None
    structured_outputs: Any = None


class VLLMClientError(Exception):
    pass


@dataclass
class FakeEngine:
    """Finishes the request that came last first, with the end token after two others."""

    asked: dict[str, Any] = field(default_factory=dict)
    aborted: list[str] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    refuses: str = ""
    stopped: bool = False

    @property
    def engine_core(self) -> Any:
        return SimpleNamespace(shutdown=lambda: setattr(self, "stopped", True))

    def add_request(self, request_id, prompt, params, lora_request=None):
        if self.refuses and len(self.asked) == 1:
            raise VLLMClientError(self.refuses)
        assert isinstance(request_id, str)
        self.asked[request_id] = params
        self.seen.append((prompt["prompt_token_ids"], params, lora_request))
        return request_id

    def step(self):
        request, params = self.asked.popitem()
        ids = [5, 6, params.stop_token_ids[0]][: params.max_tokens]
        logprobs = [{7: SimpleNamespace(logprob=-9.0), token: SimpleNamespace(logprob=-token / 10)} for token in ids]
        output = SimpleNamespace(token_ids=ids, logprobs=logprobs if params.logprobs is not None else None,
                                 finish_reason="stop" if len(ids) == 3 else "length")  # fmt: skip
        unfinished = SimpleNamespace(request_id="x", finished=False, outputs=[])
        return [unfinished, SimpleNamespace(request_id=request, finished=True, outputs=[output])]

    def abort_request(self, request_ids):
        self.aborted += request_ids
        for one in request_ids:
            del self.asked[one]


@pytest.fixture
def fake(monkeypatch):
    """Put the stand-in in the place of vLLM; returns what happened to it."""
    told = SimpleNamespace(engine=FakeEngine(), given=None, error=None)

    class LLM:
        def __init__(self, model, *, dtype="auto", tensor_parallel_size=1, gpu_memory_utilization=0.92, seed=0,
                     trust_remote_code=False, enforce_eager=False, enable_prefix_caching=None, max_model_len=None,
                     generation_config="auto", enable_lora=False, max_loras=1, max_lora_rank=16):  # fmt: skip
            if told.error:
                raise told.error
            told.given = {name: value for name, value in locals().items() if name not in ("self", "told")}
            self.llm_engine = told.engine

    @dataclass
    class StructuredOutputsParams:
        json: Any = None
        regex: Any = None
        choice: Any = None

    modules = {
        "vllm": {"LLM": LLM, "SamplingParams": SamplingParams},
        "vllm.exceptions": {"VLLMClientError": VLLMClientError},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY="final"),
                                 "StructuredOutputsParams": StructuredOutputsParams},
        "vllm.lora": {}, "vllm.lora.request": {"LoRARequest": lambda *told: told},
    }  # fmt: skip
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    for name in vllm_engine.ENVIRONMENT:
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(vllm_engine, "missing", lambda _: "")
    return told


def opened(model, decoding=None, adapter=None, **engine):
    made = DecodingParams(**{"max_new_tokens": 8, **(decoding or {})})
    chosen = GenerateSettings(decoding=made, engine=EngineParams(inference_type="vllm", **engine))
    return vllm_engine.open_engine(chosen, model, adapter)


def test_answers_come_as_they_are_finished_each_with_its_own_number(fake, tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with opened(tiny_model) as engine:
        found = list(engine.complete(REQUESTS))
        again = list(engine.complete(REQUESTS[:1]))
    assert [index for index, _ in found] == [2, 1, 0]
    assert [prompt for prompt, *_ in fake.engine.seen[:3]] == tokenizer([one.prompt for one in REQUESTS])["input_ids"]
    assert {one.text for _, one in found} == {tokenizer.decode([5, 6])}
    assert {one.token_ids for _, one in found} == {(5, 6, tokenizer.eos_token_id)}
    assert [one.prompt_tokens for _, one in found] == [len(prompt) for prompt, *_ in fake.engine.seen[2::-1]]
    assert again[0] == found[2]
    assert fake.engine.stopped


def test_an_answer_that_is_cut_off_ends_by_its_length_and_logprobs_are_those_of_its_tokens(fake, tiny_model):
    with opened(tiny_model, {"max_new_tokens": 2, "logprobs": True}) as engine:
        made = dict(engine.complete(REQUESTS))[0]
    assert (made.finish_reason, made.completion_tokens, made.logprobs) == ("length", 2, (-0.5, -0.6))


def test_each_answer_draws_with_the_seed_of_its_request(fake, tiny_model):
    with opened(tiny_model, {"do_sample": True, "top_k": 0}) as engine:
        list(engine.complete(REQUESTS))
    assert [(params.seed, params.top_k) for _, params, _ in fake.engine.seen] == [(50, -1), (51, -1), (52, -1)]


def test_greedy_decoding_is_temperature_0_of_which_no_draw_is_told(fake, tiny_model):
    with opened(tiny_model) as engine:
        list(engine.complete(REQUESTS))
    assert {(params.temperature, params.seed) for _, params, _ in fake.engine.seen} == {(0.0, None)}


def test_the_model_is_loaded_as_the_parameters_say_and_never_with_its_own_settings(fake, tiny_model):
    opened(tiny_model, tensor_parallel_size=2, vllm_gpu_memory_utilization=0.4, enable_prefix_caching=False)
    wanted = {"model": str(tiny_model), "tensor_parallel_size": 2, "gpu_memory_utilization": 0.4,
              "enable_prefix_caching": False, "generation_config": "vllm", "trust_remote_code": False,
              "max_model_len": 256, "enable_lora": False}  # fmt: skip
    assert {name: fake.given[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("cuda", "bits", "wanted"),
    [(True, "auto", "bfloat16"), (False, "auto", "float32"), (True, "full", "float32"), (False, "half", "bfloat16")],
)
def test_the_type_of_numbers_follows_the_machine_and_the_parameter(tiny_model, cuda, bits, wanted):
    chosen = GenerateSettings(engine=EngineParams(inference_type="vllm", inference_precision=bits))
    config = vllm_engine.described(tiny_model).config
    given = vllm_engine.model_arguments(chosen, tiny_model, 0, config, cuda)
    assert given["dtype"] == wanted
    assert given.get("enforce_eager", False) is not cuda


def test_an_adapter_has_the_smallest_of_vllms_ranks_that_holds_it(fake, tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=12, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / "adapter")
    with opened(tiny_model, adapter=tmp_path / "adapter", adapter_separate=True) as engine:
        list(engine.complete(REQUESTS))
    assert (fake.given["enable_lora"], fake.given["max_lora_rank"]) == (True, 16)
    assert {lora for *_, lora in fake.engine.seen} == {("adapter", 1, str(tmp_path / "adapter"))}


def test_a_refused_request_is_told_with_its_row_and_the_others_are_taken_back(fake, tiny_model):
    fake.engine.refuses = "the grammar is wrong"
    with opened(tiny_model) as engine, pytest.raises(UserError, match=r"GEN-E0247 row 1: .*the grammar is wrong"):
        list(engine.complete(REQUESTS))
    assert fake.engine.aborted == ["0"]


def test_what_the_reader_does_not_take_is_taken_back(fake, tiny_model):
    with opened(tiny_model) as engine:
        coming = engine.complete(REQUESTS)
        next(coming)
        coming.close()
    assert fake.engine.asked == {}
    assert len(fake.engine.aborted) == 2


@pytest.mark.parametrize(
    "words",
    ["No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
     "larger than the available KV cache memory (1.0 GiB)",
     "Free memory on device cuda:0 (1.0/79.0 GiB) on startup is less than desired GPU memory utilization",
     "CUDA out of memory. Tried to allocate 2 GiB"],
)  # fmt: skip
def test_too_little_memory_is_told_with_what_helps(fake, tiny_model, words):
    fake.error = ValueError(words)
    with pytest.raises(OutOfResources, match=r"GEN-E0541 vllm_gpu_memory_utilization"):
        opened(tiny_model)


def test_another_error_of_vllm_keeps_its_traceback(fake, tiny_model):
    fake.error = ValueError("Unsupported model")
    with pytest.raises(ValueError, match="Unsupported model"):
        opened(tiny_model)


def test_a_whole_model_in_the_place_of_an_adapter_is_refused(fake, tiny_model, tmp_path):
    import shutil

    shutil.copytree(tiny_model, tmp_path / "whole")
    with pytest.raises(UserError):
        opened(tiny_model, adapter=tmp_path / "whole", adapter_separate=True)


@pytest.mark.parametrize(
    ("found", "cpu", "gpus", "wanted", "told"),
    [
        (False, "", 0, 1, "the package vllm"),
        (True, "0.31.0", 0, 1, ""),
        (True, "0.31.0", 0, 2, "GPUs"),
        (True, "", 0, 1, "a GPU"),
        (True, "", 1, 1, ""),
        (True, "", 1, 2, r"2 GPUs (tensor_parallel_size): it has 1"),
    ],
)
def test_what_the_machine_lacks_is_told_in_words(monkeypatch, found, cpu, gpus, wanted, told):
    import torch

    monkeypatch.setattr(vllm_engine, "find_spec", lambda _: object() if found else None)
    monkeypatch.setattr(vllm_engine, "_version", lambda _: cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    chosen = GenerateSettings(engine=EngineParams(inference_type="vllm", tensor_parallel_size=wanted))
    assert vllm_engine.missing(chosen) == told
