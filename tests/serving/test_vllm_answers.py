"""The engine vllm answers as transformers does on the same model, alone and with an adapter; and from vLLM's server.

Runs in a separate environment (`make test-vllm`), on the CPU.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

os.environ.update({"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"})

import pytest
from conftest import build_model

from steps.errors import UserError
from steps.generation import endpoint_engine, transformers_engine, vllm_engine
from steps.generation.requests import Request
from steps.params.generation import DecodingParams, EngineParams
from steps.params.settings import GenerateSettings

pytestmark = pytest.mark.vllm

TEXTS = ["What is the capital of France?", "Count to ten: 1 2 3", "The quick brown fox", "user assistant",
         "the " * 300, "Paris", "again and again, " * 4]  # fmt: skip
REQUESTS = [Request(row, text, seed=100 + row) for row, text in enumerate(TEXTS)]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"],
          "additionalProperties": False}  # fmt: skip


def settings(decoding=None, **engine):
    made = DecodingParams(**{"max_new_tokens": 16, **(decoding or {})})
    return GenerateSettings(decoding=made, engine=EngineParams(**{"inference_type": "vllm", **engine}))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model with different answers to different prompts; vLLM on CPUs wants heads of at least 32."""
    folder = tmp_path_factory.mktemp("model") / "model"
    build_model(folder, initializer_range=0.2, tie_word_embeddings=False)
    return folder


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM",
                        init_lora_weights=False)  # fmt: skip
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def opened(model):
    """One engine for all tests without an adapter: only the decoding differs, which each test sets."""
    with vllm_engine.open_engine(settings(), model) as engine:
        yield engine


def decoded(engine, decoding, requests=REQUESTS):
    """Answers of an open engine with other parameters of decoding."""
    from steps.generation.configuring import how_to_decode

    engine.decoding = settings(decoding).decoding
    engine._how = how_to_decode(engine.decoding, engine._described, engine.tokenizer, 1)
    return dict(engine.complete(requests))


def of_transformers(model, decoding=None, adapter=None, requests=REQUESTS):
    chosen = settings(decoding, inference_type="accelerate", adapter_separate=adapter is not None)
    with transformers_engine.open_engine(chosen, model, adapter) as engine:
        return dict(engine.complete(requests))


WAYS = {
    "greedy": {},
    "a penalty": {"repetition_penalty": 1.7},
    "stop strings": {"stop_strings": '["e", " t"]'},
    "other end tokens": {"eos_tokens": ",".join(str(token) for token in range(3, 120))},
    "at least some tokens": {
        "eos_tokens": ",".join(
            str(token)
            for token in range(
                3,
            )
        ),
        "min_new_tokens": 5,
    },
    "a shortest text": {
        "eos_tokens": ",".join(
            str(token)
            for token in range(
                3,
            )
        ),
        "min_length": 20,
    },
    "without special tokens": {"skip_special_tokens": True},
    "a length of both": {"max_new_tokens": 0, "max_inference_length": 20},
    "short prompts": {"max_length": 40},
    "GenerationConfig": {"hf_gen_params": {"max_new_tokens": 3, "repetition_penalty": 1.3}},
}


@pytest.mark.parametrize("way", WAYS)
def test_greedy_answers_are_those_of_transformers(model, opened, way):
    wanted = of_transformers(model, WAYS[way])
    if way == "GenerationConfig":
        with pytest.raises(AssertionError):
            assert wanted == of_transformers(model)
    made = decoded(opened, _plain(WAYS[way]))
    assert made == wanted


def _plain(decoding):
    return decoding.get("hf_gen_params", decoding)


def test_log_probabilities_are_those_of_the_model(model, opened):
    wanted = of_transformers(model, {"logprobs": True})
    made = decoded(opened, {"logprobs": True})
    for index, one in wanted.items():
        assert made[index].token_ids == one.token_ids
        assert made[index].logprobs == pytest.approx(one.logprobs, abs=2e-3)


def test_log_probabilities_of_draws_are_those_before_the_temperature(opened):
    from math import exp

    drawn = decoded(opened, {"logprobs": True, "do_sample": True, "temperature": 0.2}, REQUESTS[:1])[0]
    greedy = decoded(opened, {"logprobs": True}, REQUESTS[:1])[0]
    assert drawn.token_ids[0] == greedy.token_ids[0]
    assert exp(drawn.logprobs[0]) == pytest.approx(exp(greedy.logprobs[0]), abs=1e-3)


def test_draws_depend_on_the_seed_of_the_request_and_not_on_its_batch(opened):
    drawn = {"do_sample": True, "temperature": 1.5, "top_k": 0}
    together = decoded(opened, drawn)
    alone = decoded(opened, drawn, REQUESTS[2:3])
    other = decoded(opened, drawn, [Request(2, TEXTS[2], seed=5)])
    assert alone[0].token_ids == together[2].token_ids
    assert other[0].token_ids != together[2].token_ids


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-3}])
def test_draws_among_one_token_are_greedy(model, opened, narrow):
    made = decoded(opened, {"do_sample": True, **narrow})
    assert {index: one.token_ids for index, one in made.items()} == {
        index: one.token_ids for index, one in of_transformers(model).items()
    }


def test_a_prompt_that_is_too_long_loses_its_start(model, opened):
    made = decoded(opened, {})
    assert [made[index].truncated for index in range(len(TEXTS))] == [False] * 4 + [True] + [False] * 2


@pytest.mark.parametrize("kind", ["json_schema", "regex", "choices"])
def test_answers_have_the_form_that_is_asked_for(opened, kind):
    value = {"json_schema": SCHEMA, "regex": "[ab]{3}-[0-9]", "choices": ["yes", "no", "perhaps"]}[kind]
    drawn = {"response_format": json.dumps({kind: value}), "do_sample": True, "max_new_tokens": 60}
    for one in decoded(opened, drawn).values():
        text = one.text.removesuffix("<|im_end|>")
        if kind == "json_schema":
            if one.finish_reason == "stop":  # a random model may write white space to the end
                assert set(json.loads(text)) == {"n"}
        elif kind == "regex":
            assert re.fullmatch(value, text)
        else:
            assert text in value


def test_a_form_that_vllm_cannot_keep_is_refused_and_the_engine_goes_on(model, opened):
    wrong = {"response_format": json.dumps({"json_schema": {"type": "no such type"}})}
    with pytest.raises(UserError, match=r"GEN-E0247 row 0: found vLLM said"):
        decoded(opened, wrong)
    assert decoded(opened, {}) == of_transformers(model)


def test_a_reader_that_stops_early_leaves_nothing_behind(model, opened):
    opened.decoding = settings().decoding
    for _ in opened.complete(REQUESTS):
        break
    assert not opened._llm.llm_engine.has_unfinished_requests()
    assert decoded(opened, {}) == of_transformers(model)


def test_an_adapter_is_served_beside_its_base(model, adapter):
    wanted = of_transformers(model, adapter=adapter)
    assert {one.text for one in wanted.values()} != {one.text for one in of_transformers(model).values()}
    with vllm_engine.open_engine(settings(adapter_separate=True), model, adapter) as engine:
        assert dict(engine.complete(REQUESTS)) == wanted


def test_an_adapter_that_vllm_would_serve_wrongly_is_refused(model, adapter, tmp_path):
    import shutil

    from small_adapters import change_settings

    shutil.copytree(adapter, tmp_path / "dora")
    change_settings(tmp_path / "dora", use_dora=True)
    with pytest.raises(UserError, match="ADAPTER-E0202"):
        vllm_engine.open_engine(settings(adapter_separate=True), model, tmp_path / "dora")
    shutil.copytree(adapter, tmp_path / "uneven")
    change_settings(tmp_path / "uneven", alpha_pattern={"q_proj": 64})
    with pytest.raises(UserError, match="GEN-E0246"):
        vllm_engine.open_engine(settings(adapter_separate=True), model, tmp_path / "uneven")


def test_the_arguments_are_those_of_this_version():
    from inspect import signature

    from vllm import LLM, SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.sampling_params import StructuredOutputsParams

    from steps.generation.asked import Form
    from steps.generation.tokens import Prompt

    drawn = DecodingParams(do_sample=True, logprobs=True)
    SamplingParams(**vllm_engine.sampling_arguments(drawn, Prompt((1, 2), 3), [4]))
    for kind, value in {"json_schema": {}, "regex": "a", "choices": ["a"]}.items():
        StructuredOutputsParams(**vllm_engine.form_arguments(Form(kind, value)))
    known = set(signature(LLM.__init__).parameters) | set(signature(EngineArgs).parameters)
    from transformers import LlamaConfig

    assert set(vllm_engine.model_arguments(settings(), Path("x"), 8, LlamaConfig(), True)) <= known


def test_this_version_has_no_bitsandbytes_which_is_why_it_is_refused():
    from typing import get_args

    from vllm.model_executor.layers.quantization import QuantizationMethods

    assert "bitsandbytes" not in get_args(QuantizationMethods)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """vLLM's own server."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"model": model, "served-model-name": "tiny", "port": port, "host": "127.0.0.1", "dtype": "float32",
               "max-model-len": 256, "api-key": "the-key-of-this-test", "generation-config": "vllm"}  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words, "--enforce-eager"]
    log = (tmp_path_factory.mktemp("server") / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 300
        while not _is_up(port):
            assert process.poll() is None, Path(log.name).read_text()[-3000:]
            assert time.monotonic() < until, Path(log.name).read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def _is_up(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200
    except OSError:
        return False


def of_server(url, decoding=None, requests=REQUESTS, **engine):
    chosen = settings(decoding, inference_type="endpoint", endpoint_url=url, **engine)
    with endpoint_engine.open_engine(chosen) as opened:
        return dict(opened.complete(requests))


@pytest.mark.parametrize("way", sorted(set(WAYS) - {"a shortest text", "a length of both", "GenerationConfig"}))
def test_the_server_answers_as_transformers_does(model, server, monkeypatch, way):
    monkeypatch.setenv("OPENAI_API_KEY", "the-key-of-this-test")
    decoding = {**WAYS[way]}
    made, wanted = of_server(server, decoding), of_transformers(model, decoding)
    compared = ("token_ids", "prompt_tokens", "completion_tokens", "finish_reason", "truncated")
    for index, one in wanted.items():
        assert {name: getattr(made[index], name) for name in compared} == {
            name: getattr(one, name) for name in compared
        }


def test_a_wrong_key_is_told(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "another-key")
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        of_server(server)


def test_the_server_renders_conversations_with_the_template_of_its_model(model, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "the-key-of-this-test")
    from transformers import AutoTokenizer

    messages = ({"role": "user", "content": "hello"},)
    rendered = AutoTokenizer.from_pretrained(model).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    made = of_server(server, {"logprobs": True}, [Request(0, "", messages=messages)])[0]
    wanted = of_transformers(model, {"logprobs": True}, requests=[Request(0, rendered, rendered=True)])[0]
    assert made.token_ids == wanted.token_ids
    assert made.logprobs == pytest.approx(wanted.logprobs, abs=2e-3)


def test_the_server_draws_with_the_seed_of_the_request(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "the-key-of-this-test")
    drawn = {"do_sample": True, "temperature": 1.5, "top_k": 0}
    first, again = of_server(server, drawn), of_server(server, drawn)
    other = of_server(server, drawn, [Request(0, TEXTS[0], seed=5)])
    assert {index: one.token_ids for index, one in first.items()} == {i: one.token_ids for i, one in again.items()}
    assert other[0].token_ids != first[0].token_ids


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", ["json_schema", "regex", "choices"])
def test_the_server_keeps_the_form(server, monkeypatch, kind, chat):
    monkeypatch.setenv("OPENAI_API_KEY", "the-key-of-this-test")
    value = {"json_schema": SCHEMA, "regex": "[ab]{3}", "choices": ["yes", "no"]}[kind]
    messages = ({"role": "user", "content": "hello"},) if chat else ()
    drawn = {"response_format": json.dumps({kind: value}), "do_sample": True, "max_new_tokens": 100}
    one = of_server(server, drawn, [Request(0, "hello", messages=messages, seed=3)])[0]
    text = one.text.removesuffix("<|im_end|>")
    if kind == "json_schema":
        assert one.finish_reason == "length" or set(json.loads(text)) == {"n"}
    else:
        assert re.fullmatch("[ab]{3}|yes|no", text)


def test_what_the_server_refuses_is_told(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "the-key-of-this-test")
    with pytest.raises(UserError, match="GEN-E0241"):
        of_server(server, endpoint_model="another")


def test_an_evaluation_by_vllm_has_the_answers_of_one_by_transformers(model):
    import numpy as np

    from steps.evaluate.held_out import HeldOut
    from steps.evaluate.transformers_engine import measure
    from steps.params.settings import EvaluationSettings

    ids, nothing = np.array([1, 5, 6]), [None] * len(TEXTS)
    held_out = HeldOut([ids] * len(TEXTS), [ids] * len(TEXTS), [*TEXTS[:-1], None], nothing, rendered=False)
    by = {
        name: measure(model, held_out, EvaluationSettings(
            task="chat_completion", evaluation={"evaluation_max_new_tokens": 12, "evaluation_engine": name}))
        for name in ("accelerate", "vllm")
    }  # fmt: skip
    assert by["vllm"].answers == by["accelerate"].answers
    assert by["vllm"].row_losses == by["accelerate"].row_losses
    assert [one.engine for one in by.values()] == ["", "vllm"]
