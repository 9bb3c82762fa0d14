"""Every parameter has an effect with each engine, or is refused or noted by name."""

from types import SimpleNamespace

import pytest

from steps.errors import UserError
from steps.generation import deepspeed_engine, endpoint_messages, vllm_engine, zero_engine
from steps.generation.asked import form_of
from steps.generation.engine_rules import (
    GROUPS,
    IGNORED,
    REFUSED,
    engine_notes,
    engine_problems,
    own_decoding,
    refuse_unfit,
    value_of,
)
from steps.generation.requests import Request
from steps.params.generation import DecodingParams, EngineParams
from steps.params.quantisation import QuantisationParams
from steps.params.settings import GenerateSettings

ENGINES = ["accelerate", "deepspeed", "deepspeed_zero", "vllm", "endpoint"]
# Parameter → a value that is not its default, with the parameters without which no engine reads it.
OTHER = {
    "max_new_tokens": {"max_new_tokens": 7},
    "max_inference_length": {"max_new_tokens": 0, "max_inference_length": 33},
    "max_length": {"max_length": 60, "max_new_tokens": 50},
    "min_length": {"min_length": 30},
    "min_new_tokens": {"min_new_tokens": 3},
    "do_sample": {"do_sample": True},
    "temperature": {"do_sample": True, "temperature": 0.5},
    "top_k": {"do_sample": True, "top_k": 5},
    "top_p": {"do_sample": True, "top_p": 0.5},
    "min_p": {"do_sample": True, "min_p": 0.5},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 3},
    "num_beams": {"num_beams": 2},
    "length_penalty": {"num_beams": 2, "length_penalty": 0.5},
    "early_stopping": {"num_beams": 2, "early_stopping": "never"},
    "eos_tokens": {"eos_tokens": "7,9"},
    "stop_strings": {"stop_strings": '["END"]'},
    "skip_special_tokens": {"skip_special_tokens": True},
    "use_cache": {"use_cache": False},
    "response_format": {"response_format": '{"choices": ["a", "b"]}'},
    "logprobs": {"logprobs": True},
    "hf_gen_params": {"hf_gen_params": {"encoder_repetition_penalty": 1.5}},
    "test_batch_size": {"test_batch_size": 3},
    "inference_precision": {"inference_precision": "half"},
    "replace_with_kernel_inject": {"replace_with_kernel_inject": False},
    "cpu_offload": {"cpu_offload": True},
    "tensor_parallel_size": {"tensor_parallel_size": 2},
    "vllm_gpu_memory_utilization": {"vllm_gpu_memory_utilization": 0.5},
    "enable_prefix_caching": {"enable_prefix_caching": False},
    "adapter_separate": {"adapter_separate": True},
    "endpoint_model": {"endpoint_model": "another"},
    "endpoint_concurrency": {"endpoint_concurrency": 3},
    "endpoint_requests_per_minute": {"endpoint_requests_per_minute": 30},
    "endpoint_timeout_seconds": {"endpoint_timeout_seconds": 7},
    "load_in_8bit": {"load_in_8bit": True},
    "load_in_4bit": {"load_in_4bit": True},
}
# Parameter → where its effect or its refusal is tested.
ELSEWHERE = {
    "num_return_sequences": "one request for each answer, by the step",
    "generation_seed": "the seed of each request, by the step",
    "inference_processes": "by the step",
    "inference_type": "chooses the engine",
    "num_beam_groups": "refused for all engines (PARAM-E0311)",
    "penalty_alpha": "refused for all engines (PARAM-E0311)",
    "endpoint_url": "required for endpoint, refused for others (PARAM-E0313)",
    "endpoint_key_secret": "given to the pod by the pipeline",
    **dict.fromkeys(
        ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype", "llm_int8_threshold"),
        "read with load_in_8bit or load_in_4bit only (PARAM-E0277)",
    ),
}
# Engines whose loading is tested elsewhere for these: the adapter is an argument, weights are quantised by loading.
LOADED = {("vllm", "adapter_separate"), ("accelerate", "adapter_separate"), ("accelerate", "load_in_8bit"),
          ("accelerate", "load_in_4bit")}  # fmt: skip
REQUESTS = [Request(0, "short", seed=5), Request(1, "a prompt of many words " * 9, seed=6)]


def settings(engine, **given):
    def own(group, **more):
        return group(**{**more, **{name: value for name, value in given.items() if name in group.model_fields}})

    server = {"endpoint_url": "http://here/v1"} if engine == "endpoint" else {}
    return GenerateSettings(
        decoding=own(DecodingParams, max_new_tokens=20),
        engine=own(EngineParams, inference_type=engine, **server),
        quantisation=own(QuantisationParams),
    )


def test_every_parameter_has_a_row_here():
    declared = {name for group in GROUPS.values() for name in group.model_fields}
    assert declared | {"inference_processes"} == {*OTHER, *ELSEWHERE, "inference_processes"}


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    from steps.generation.tokenizer import load_tokenizer

    return load_tokenizer(tiny_model)


def read_by(engine, chosen, folder, tokenizer):
    """All that an engine's library, server or loop is given because of the settings."""
    from steps.generation.configuring import how_to_decode
    from steps.generation.prompting import as_prompts
    from steps.generation.transformers_engine import number_type_of

    decoding, model = own_decoding(chosen.decoding)[0], vllm_engine.described(folder)
    if engine == "endpoint":
        server = endpoint_messages.Server(chosen.engine.endpoint_model or "only", is_vllm=True, max_length=256)
        bodies = [endpoint_messages.arguments(request, decoding, server) for request in REQUESTS]
        return bodies, client_of(chosen)
    prompts, cut = as_prompts(REQUESTS, decoding, model, tokenizer)
    if engine == "vllm":
        how = how_to_decode(chosen.decoding, model, tokenizer, 1)
        sampling = [vllm_engine.sampling_arguments(decoding, prompt, sorted(how.ends)) for prompt in prompts]
        form = form_of(decoding)
        loading = vllm_engine.model_arguments(chosen, folder, 0, model.config, False)
        return sampling, cut, form and vllm_engine.form_arguments(form), loading
    model.generation_config = SimpleNamespace(eos_token_id=model.generation_config.eos_token_id)
    how = how_to_decode(_without_checks(chosen.decoding), model, tokenizer, chosen.engine.test_batch_size)
    told = [how.config.to_dict(), how.limits, how.stops and how.stops.texts, how.logprobs, prompts, cut,
            decoding.skip_special_tokens, number_type_of(chosen), chosen.decoding.hf_gen_params]  # fmt: skip
    if engine == "deepspeed":
        told.append(deepspeed_engine.arguments(chosen, "llama", "float32"))
    if engine == "deepspeed_zero":
        told.append(zero_engine.configuration(chosen, "float32", 1))
    return told


def _without_checks(decoding):
    return decoding.model_copy(update={"hf_gen_params": {}})  # they are tried on a real model


def client_of(chosen):
    engine = chosen.engine
    return engine.endpoint_concurrency, engine.endpoint_requests_per_minute, engine.endpoint_timeout_seconds


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("engine", ENGINES)
def test_each_parameter_has_an_effect_a_refusal_or_a_note(engine, name, tiny_model, tokenizer):
    given = OTHER[name]
    before, chosen = (settings(engine, **one) for one in ({k: v for k, v in given.items() if k != name}, given))
    refused = {problem.where.split(".")[0]: problem for problem in engine_problems(chosen)}
    noted = [note for note in engine_notes(chosen) if note.startswith(f"{name}=") and "no effect" in note]
    if name in refused:
        assert engine in str(refused[name]) or refused[name].why
        assert refused[name].fix
        assert not noted
        with pytest.raises(UserError, match=name):
            refuse_unfit(chosen)
    elif refused:  # what it goes with is refused
        assert set(given) & set(refused)
    elif noted:
        assert name in IGNORED[engine]
        assert read_by(engine, chosen, tiny_model, tokenizer) == read_by(engine, before, tiny_model, tokenizer)
    elif (engine, name) not in LOADED:
        if engine == "deepspeed" and name == "replace_with_kernel_inject":
            return  # tests/steps/test_deepspeed_engines.py: the kernels are used where they work
        assert read_by(engine, chosen, tiny_model, tokenizer) != read_by(engine, before, tiny_model, tokenizer)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_defaults_are_refused_by_no_engine_and_noted_only_for_the_kernels(engine):
    chosen = settings(engine)
    assert engine_problems(chosen) == []
    assert [note.split("=")[0] for note in engine_notes(chosen)] == (
        ["replace_with_kernel_inject"] if engine == "deepspeed" else []
    )


def test_tables_name_parameters_only():
    for table in (REFUSED, IGNORED):
        assert set(table) == set(ENGINES)
        for names in table.values():
            for name in names:
                value_of(settings("accelerate"), name)


CASES = {
    "beams on a server": ("endpoint", {"num_beams": 2}, "PLAN-E0444 num_beams"),
    "beams in hf_gen_params": ("vllm", {"hf_gen_params": {"num_beams": 2}}, "PLAN-E0444 num_beams"),
    "a field of transformers": ("vllm", {"hf_gen_params": {"typical_p": 0.5}}, "PLAN-E0449 hf_gen_params.typical_p"),
    "a length that only the server knows": ("endpoint", {"max_new_tokens": 0}, "PLAN-E0446 max_new_tokens"),
    "an end token by name": ("endpoint", {"eos_tokens": "<end>"}, "PLAN-E0447 eos_tokens"),
    "a form that is no JSON": ("vllm", {"response_format": "x"}, "PLAN-E0442 response_format"),
    "two forms": ("vllm", {"response_format": '{"regex": "a", "choices": ["a"]}'}, "PLAN-E0442 response_format"),
    "an unknown form": ("vllm", {"response_format": '{"grammar": "a"}'}, "PLAN-E0442 response_format"),
    "a broken regex": ("vllm", {"response_format": '{"regex": "("}'}, "PLAN-E0442 response_format.regex"),
    "no choices": ("endpoint", {"response_format": '{"choices": []}'}, "PLAN-E0442 response_format.choices"),
    "the same choice twice": ("vllm", {"response_format": '{"choices": ["a", "a"]}'}, "PLAN-E0442 response_format"),
    "a schema that is a text": ("vllm", {"response_format": '{"json_schema": "a"}'}, "PLAN-E0442 response_format"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_only_a_combination_or_a_form_makes_wrong_is_refused(case):
    engine, given, wanted = CASES[case]
    found = engine_problems(settings(engine, **given))
    assert any(str(problem).startswith(wanted) for problem in found), found


def test_encoder_decoders_are_refused_by_vllm_only():
    for engine in ENGINES:
        chosen = settings(engine).model_copy(update={"kind": "seq2seq_lm"})
        assert [problem.code for problem in engine_problems(chosen)] == (["PLAN-E0445"] if engine == "vllm" else [])


def test_fields_of_generation_config_that_mean_a_parameter_are_read_by_every_engine():
    decoding, others = own_decoding(
        DecodingParams(hf_gen_params={"max_new_tokens": 3, "eos_token_id": [7, 8], "top_p": None}, eos_tokens="5")
    )
    assert (decoding.max_new_tokens, decoding.eos_tokens, decoding.top_p, others) == (3, "5,7,8", 1.0, {})
    assert own_decoding(DecodingParams(hf_gen_params={"eos_token_id": 9}))[0].eos_tokens == "9"


def test_a_server_other_than_vllm_may_refuse_what_is_noted():
    asked = {"repetition_penalty": 2.0, "top_k": 3, "do_sample": True}
    (note,) = engine_notes(settings("endpoint", **asked))
    assert note.startswith("repetition_penalty, top_k:")


def test_the_rules_need_no_torch():
    import subprocess
    import sys

    script = (
        "import sys\nfrom steps.generation.engine_rules import engine_notes, engine_problems\n"
        "from steps.params.settings import GenerateSettings\n"
        "engine_problems(GenerateSettings()), engine_notes(GenerateSettings())\n"
        "assert not {'torch', 'transformers', 'vllm', 'openai', 'deepspeed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_opening_an_engine_says_what_the_machine_lacks(monkeypatch, tiny_model):
    from steps.generation.engines import module_of, open_engine

    codes = {"vllm": "GEN-E0245", "endpoint": "GEN-E0242", "deepspeed": "GEN-E0248", "deepspeed_zero": "GEN-E0248"}
    packages = {"vllm": "vllm", "endpoint": "openai", "deepspeed": "deepspeed", "deepspeed_zero": "deepspeed"}
    for engine, code in codes.items():
        module = module_of("deepspeed" if engine == "deepspeed_zero" else engine)
        where = module if hasattr(module, "find_spec") else "steps.generation.deepspeed_group"
        name = f"{where}.find_spec" if isinstance(where, str) else None
        patch = (name,) if name else (where, "find_spec")
        monkeypatch.setattr(*patch, lambda _: None)
        assert packages[engine] in module_of(engine).missing(settings(engine))
        with pytest.raises(UserError, match=rf"{code} .*{packages[engine]}"):
            open_engine(settings(engine), tiny_model)
