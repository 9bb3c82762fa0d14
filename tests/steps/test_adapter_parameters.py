"""The plan refuses all wrong combinations of adapters and quantised bases before anything is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import build_model, write_jsonl
from test_plan_memory import LLAMA_8B, memory

from steps.errors import UserError
from steps.kinds.adapters import ADAPTER_KINDS
from steps.kinds.recipe import recipe
from steps.params.adapter_kinds import ELSEWHERE, peft_names
from steps.params.lora import LoraParams
from steps.params.reading import read_parameters
from steps.plan.memory import GIB
from steps.plan.step import plan

ROOT = Path(__file__).parents[2]
GIVEN = {"pytorch_model_path": "m", "train_file_path": "t.jsonl"}
LORA = {"apply_lora": True}
CONFIGS = {"lora": "LoraConfig", "ia3": "IA3Config", "loha": "LoHaConfig", "lokr": "LoKrConfig",
           "prompt_tuning": "PromptTuningConfig"}  # fmt: skip


def refused(pipeline: str = "chat_completion", **given) -> str:
    with pytest.raises(UserError) as caught:
        read_parameters(pipeline, {**GIVEN, **given})
    return str(caught.value)


def kind(name: str, **more) -> dict:
    return {"apply_lora": True, "peft_type": name, **more}


def with_kwargs(name: str, kwargs: dict, **more) -> dict:
    return kind(name, peft_kwargs=kwargs, **more)


REFUSED = {
    "unknown kind": (kind("lorra"), "one of lora, ia3, loha, lokr, prompt_tuning. Fix: did you mean lora?"),
    "prefix tuning": (kind("prefix_tuning"), "set peft_type=prompt_tuning"),
    "p-tuning": (kind("P_TUNING"), "set peft_type=prompt_tuning"),
    "vectors without adapter": ({"num_virtual_tokens": 5}, "num_virtual_tokens: found 5 with apply_lora=false"),
    "vectors with LoRA": ({**LORA, "num_virtual_tokens": 5}, "5 with peft_type=lora; .*set peft_type=prompt_tuning"),
    "no vectors": (kind("prompt_tuning", num_virtual_tokens=0), "num_virtual_tokens: found 0"),
    "rank with a prompt": (kind("prompt_tuning", lora_r=4), "lora_r: found 4 with peft_type=prompt_tuning"),
    "layers with a prompt": (
        kind("prompt_tuning", lora_target_modules="q_proj"),
        "lora_target_modules: found 'q_proj' with peft_type=prompt_tuning",
    ),
    "DoRA with a prompt": (kind("prompt_tuning", use_dora=True), "use_dora: found True with peft_type=prompt_tuning"),
    "a text as prompt": (with_kwargs("prompt_tuning", {"prompt_tuning_init": "TEXT"}), "RANDOM or SAMPLE_VOCAB"),
    "vectors as PEFT says them": (with_kwargs("prompt_tuning", {"num_virtual_tokens": 9}), "set num_virtual_tokens"),
    "a prompt for packed rows": (kind("prompt_tuning", packing=True), "packing: found true with peft_type=prompt"),
    "a prompt with DeepSpeed": (kind("prompt_tuning", apply_deepspeed=True), "PARAM-E0279 apply_deepspeed"),
    "a prompt on 4 bits": (kind("prompt_tuning", load_in_4bit=True), "PARAM-E0279 load_in_4bit"),
    "a prompt on 8 bits": (kind("prompt_tuning", load_in_8bit=True), "PARAM-E0279 load_in_8bit"),
    "no PEFT": (kind("NO_PEFT"), "set apply_lora=false"),
    "kind without adapter": ({"peft_type": "ia3"}, "'ia3' with apply_lora=false.*set apply_lora=true"),
    "DoRA without adapter": ({"use_dora": True}, "use_dora: found True with apply_lora=false"),
    "rsLoRA without adapter": ({"use_rslora": True}, "use_rslora: found True with apply_lora=false"),
    "settings without adapter": ({"peft_kwargs": {"bias": "all"}}, "peft_kwargs: .* with apply_lora=false"),
    "DoRA with IA3": (kind("ia3", use_dora=True), "use_dora: found True with peft_type=ia3"),
    "rank with IA3": (kind("ia3", lora_r=4), "lora_r: found 4 with peft_type=ia3; expected 8"),
    "alpha with IA3": (kind("ia3", lora_alpha=16), "lora_alpha: found 16 with peft_type=ia3"),
    "dropout with IA3": (kind("ia3", lora_dropout=0.1), "lora_dropout: found 0.1 with peft_type=ia3"),
    "dropout with LoHa": (kind("loha", lora_dropout=0.1), "rank_dropout"),
    "DoRA with LoHa": (kind("loha", use_dora=True), "use_dora: found True with peft_type=loha"),
    "rsLoRA with LoKr": (kind("lokr", use_rslora=True), "use_rslora: found True with peft_type=lokr"),
    "another start with LoKr": (kind("lokr", init_lora_weights="gaussian"), "'gaussian' with peft_type=lokr"),
    "harmful start": ({**LORA, "init_lora_weights": "pissa"}, "one of true, gaussian, orthogonal"),
    "odd rank": ({**LORA, "init_lora_weights": "orthogonal", "lora_r": 3}, "orthogonal with lora_r=3.*lora_r=4"),
    "the head": ({**LORA, "lora_target_modules": "q_proj,lm_head"}, "leave lm_head out"),
    "the embeddings": ({**LORA, "lora_target_modules": "model.embed_tokens"}, "leave model.embed_tokens out"),
    "misspelt key": (with_kwargs("lora", {"rank_patern": {}}), "did you mean rank_pattern"),
    "key of another kind": (with_kwargs("lora", {"decompose_both": True}), "set peft_type=lokr"),
    "key with a parameter": (with_kwargs("lora", {"r": 4}), "peft_kwargs.r: .*set lora_r"),
    "nonsense": (with_kwargs("ia3", {"colour": 1}), "one of exclude_modules, feedforward_modules"),
    "no names": ({**LORA, "lora_target_modules": " , "}, "' , '; expected all-linear, or module names"),
    "all and names": ({**LORA, "lora_target_modules": "all-linear,q_proj"}, "expected all-linear, or module names"),
    "half an expression": (with_kwargs("lora", {"rank_pattern": {"q_proj(": 4}}), "whole numbers of at least 1"),
    "text for a list": (with_kwargs("ia3", {"feedforward_modules": "down_proj"}), "a list of module names"),
    "rank 0": (with_kwargs("lora", {"rank_pattern": {"q_proj": 0}}), "whole numbers of at least 1"),
    "half a rank": (with_kwargs("loha", {"rank_pattern": {"q_proj": 1.5}}), "whole numbers of at least 1"),
    "bias": (with_kwargs("lora", {"bias": "some"}), "none, all or lora_only"),
    "dropout of 1": (with_kwargs("loha", {"module_dropout": 1}), "a number of at least 0 and below 1"),
    "layers without names": (with_kwargs("lora", {"layers_to_transform": [0]}), "names such as q_proj,v_proj"),
    "pattern without layers": (
        with_kwargs("lora", {"layers_pattern": "layers"}, lora_target_modules="q_proj"),
        "expected layers_to_transform as well",
    ),
    "feed-forward that is no target": (
        with_kwargs("ia3", {"feedforward_modules": ["up_proj"]}, lora_target_modules="q_proj,down_proj"),
        "add up_proj to it",
    ),
    "both": ({**LORA, "load_in_4bit": True, "load_in_8bit": True}, "true with load_in_8bit=true; expected one of"),
    "4 bits without adapter": ({"load_in_4bit": True}, "load_in_4bit: found true with apply_lora=false"),
    "8 bits without adapter": ({"load_in_8bit": True}, "load_in_8bit: found true with apply_lora=false"),
    "4 bits with ZeRO-3": (
        {**LORA, "load_in_4bit": True, "apply_deepspeed": True, "deepspeed_stage": "3"},
        "load_in_4bit: found true with deepspeed_stage=3",
    ),
    "4 bits with LoHa": (kind("loha", load_in_4bit=True), "loha with load_in_4bit=true; expected lora or ia3"),
    "8 bits with LoKr": (kind("lokr", load_in_8bit=True), "lokr with load_in_8bit=true"),
    "8 bits with DoRA": ({**LORA, "load_in_8bit": True, "use_dora": True}, "set load_in_4bit=true instead"),
    "4 bits, orthogonal": (
        {**LORA, "load_in_4bit": True, "init_lora_weights": "orthogonal"},
        "orthogonal with load_in_4bit=true",
    ),
    "nf4 without 4 bits": ({"bnb_4bit_quant_type": "nf4"}, "'nf4' with load_in_4bit=false"),
    "nf4 with 8 bits": ({**LORA, "load_in_8bit": True, "bnb_4bit_quant_type": "nf4"}, "'nf4' with load_in_4bit=false"),
    "twice without 4 bits": ({"bnb_4bit_use_double_quant": True}, "True with load_in_4bit=false"),
    "type without 4 bits": ({"bnb_4bit_compute_dtype": "bfloat16"}, "'bfloat16' with load_in_4bit=false"),
    "threshold with 4 bits": ({**LORA, "load_in_4bit": True, "llm_int8_threshold": 3.0}, "3.0 with load_in_8bit=false"),
    "another type of 4 bits": ({**LORA, "load_in_4bit": True, "bnb_4bit_quant_type": "int4"}, "one of fp4, nf4"),
    "in model_args": ({"model_args": {"load_in_4bit": True}}, "set the parameter load_in_4bit, with apply_lora=true"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_with_a_fix(case):
    import re

    given, words = REFUSED[case]
    told = refused(**given)
    assert re.search(words, told), told


def test_new_weights_are_not_quantised():
    told = refused("pretraining", new_weights=True, apply_lora=True, load_in_4bit=True)
    assert "load_in_4bit: found true with new_weights=true" in told


def test_preferences_are_learned_without_dropout():
    told = refused("preference", apply_lora=True, peft_type="loha", peft_kwargs={"rank_dropout": 0.1})
    assert "PARAM-E0259 peft_kwargs.rank_dropout: found 0.1" in told


ACCEPTED = {
    "default": {},
    "ranks without adapter": {"lora_r": 64, "lora_alpha": 128},
    "DoRA, rank-stabilised": {**LORA, "use_dora": True, "use_rslora": True},
    "IA3": kind("ia3"),
    "prompt": kind("prompt_tuning", num_virtual_tokens=8, peft_kwargs={"prompt_tuning_init": "SAMPLE_VOCAB"}),
    "LoHa": kind("loha", lora_r=2, lora_alpha=4),
    "QLoRA": {**LORA, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "QLoRA with ZeRO-2": {**LORA, "load_in_4bit": True, "apply_deepspeed": True},
    "QDoRA": {**LORA, "load_in_4bit": True, "use_dora": True},
    "8 bits": {**LORA, "load_in_8bit": True, "llm_int8_threshold": 0},
    "IA3 on 8 bits": kind("ia3", load_in_8bit=True),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_works_is_accepted(case):
    assert read_parameters("chat_completion", {**GIVEN, **ACCEPTED[case]}).warnings == []


def test_numbers_that_kfp_made_floats_become_integers_again():
    given = with_kwargs("lora", {"rank_pattern": {"q_proj": 16.0}, "layers_to_transform": [1.0, 0.0]})
    parameters = read_parameters("chat_completion", {**GIVEN, **given, "lora_target_modules": "q_proj"}).parameters
    assert json.dumps(parameters.peft_kwargs) == '{"rank_pattern": {"q_proj": 16}, "layers_to_transform": [1, 0]}'


def test_all_linear_may_be_written_as_peft_lets_one_write_it():
    reading = read_parameters("chat_completion", {**GIVEN, "apply_lora": True, "lora_target_modules": "All-Linear"})
    assert reading.parameters.lora_target_modules == "all-linear"


def test_pefts_spelling_of_a_kind_is_understood():
    reading = read_parameters("chat_completion", {**GIVEN, "apply_lora": True, "peft_type": "IA3"})
    assert reading.parameters.peft_type == "ia3"


@pytest.mark.parametrize("name", ADAPTER_KINDS)
def test_the_table_of_keys_is_pefts(name):
    import peft

    known = set(getattr(peft, CONFIGS[name])().to_dict())
    assert set(ADAPTER_KINDS[name].kwargs) <= known
    assert not set(ADAPTER_KINDS[name].kwargs) & {*ELSEWHERE, *peft_names(LoraParams)}


def test_the_table_is_read_without_peft_or_torch():
    script = (
        "import sys; from steps.params.reading import read_parameters\n"
        "read_parameters('chat_completion', {'pytorch_model_path': 'm', 'train_file_path': 't.jsonl',"
        " 'apply_lora': True, 'peft_kwargs': {'bias': 'all'}})\n"
        "print({'torch', 'peft', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# What needs the model's configuration.


def planned(tmp_path: Path, model: Path, **given) -> str:
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": str(n)}]} for n in range(60)
    ]
    settings = {
        "pytorch_model_path": str(model), "train_file_path": str(write_jsonl(tmp_path / "rows.jsonl", rows)),
        "number_of_gpu_to_use_finetuning": 0, "register_tuned_model": False, **given,
    }  # fmt: skip
    plan("chat_completion", settings, tmp_path / "plan", tmp_path / "plan.html")
    return (tmp_path / "plan" / "plan.json").read_text(encoding="utf-8")


def with_config(tmp_path: Path, **changes) -> Path:
    build_model(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("config", "given", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, {}, r"already quantised \(gptq\)"),
        ({"model_type": "gpt2"}, kind("loha"), "loha with a model of type gpt2"),
        (
            {},
            with_kwargs("lora", {"layers_to_transform": [1, 2]}, lora_target_modules="q_proj"),
            "found 2; expected layers from 0 to 1",
        ),
        (
            {},
            kind("prompt_tuning", max_seq_length=240),
            "PLAN-E0385 max_seq_length: found 240 .*set max_seq_length=236",
        ),
        ({}, kind("prompt_tuning", num_virtual_tokens=128), "PLAN-E0385 num_virtual_tokens: found 128"),
        ({}, kind("prompt_tuning", additional_special_tokens="<|call|>"), "PLAN-E0346"),
    ],
)
def test_adapters_that_the_base_does_not_support_are_refused(config, given, words, tmp_path):
    with pytest.raises(UserError, match=words):
        planned(tmp_path, with_config(tmp_path, **config), **given)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    from steps.plan import place

    monkeypatch.setattr(place, "missing_here", lambda package: package == "bitsandbytes")
    with pytest.raises(UserError, match="load_in_8bit: found true, but the package bitsandbytes is missing"):
        planned(tmp_path, with_config(tmp_path), apply_lora=True, load_in_8bit=True)


def test_a_step_without_plan_names_the_missing_package(monkeypatch):
    from training_inputs import settings_with

    from steps.finetune import packages
    from steps.params.quantisation import QuantisationParams

    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    settings = settings_with(lora=LoraParams(apply_lora=True), quantisation=QuantisationParams(load_in_4bit=True))
    with pytest.raises(UserError, match="TRAIN-E0203 load_in_4bit"):
        packages.refuse_missing(settings)


@pytest.mark.parametrize(
    ("model", "method"),
    [("seq2seq_lm", "supervised"), ("masked_lm", "supervised"), ("causal_lm", "dpo"),
     ("sequence_classification", "supervised")],
)  # fmt: skip
def test_a_prompt_is_learned_by_causal_models_only(model, method):
    from types import SimpleNamespace

    from steps.adapters.asked import prompt_problems

    def codes(given: dict, *names: str) -> list[str]:
        parameters = read_parameters("chat_completion", {**GIVEN, **given}).parameters
        seen = SimpleNamespace(parameters=parameters, recipe=recipe(*names), positions=512)
        return [problem.code for problem in prompt_problems(seen)]

    assert codes(kind("prompt_tuning"), model, method) == ["PLAN-E0384"]
    assert codes(kind("prompt_tuning"), "causal_lm", "supervised") == []
    assert codes(LORA, model, method) == []


def test_a_learned_prompt_reduces_the_positions_for_text(tmp_path):
    told = json.loads(planned(tmp_path, with_config(tmp_path), **kind("prompt_tuning", num_virtual_tokens=12)))
    longest = next(one["value"] for one in told["arithmetic"] if one["name"] == "longest sequence")
    assert longest == json.loads((tmp_path / "model/config.json").read_text())["max_position_embeddings"] - 12
    what = {task["task"]: task["what"] for task in told["tasks"]}
    assert "a prompt of 12 vectors" in what["finetune"]
    assert what["finetune"].endswith(", then store the learned prompt beside the base model")


def test_the_plan_says_what_is_trained_on_what(tmp_path):
    told = planned(tmp_path, with_config(tmp_path), apply_lora=True, load_in_4bit=True, use_dora=True, lora_r=4)
    assert "DoRA rank 4 on a 4-bit base model" in told


# Memory.


@pytest.mark.parametrize(
    "given",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True},
        {"load_in_4bit": True, "bnb_4bit_use_double_quant": True},
        {},
    ],
    ids=str,
)
def test_the_estimated_bytes_of_a_base_are_its_actual_bytes(given, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    build_model(tmp_path / "model", hidden_size=256, intermediate_size=512, tie_word_embeddings=False)
    stored = {"quantization_config": BitsAndBytesConfig(**given)} if given else {}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16, **stored)
    held = sum(parameter.nbytes + _scales(parameter) for parameter in model.parameters())
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    parameters = read_parameters(
        "chat_completion", {**GIVEN, "apply_lora": True, "precision": "16", "peft_type": "ia3", **given}
    ).parameters
    from steps.plan.memory import adapter_parameters, estimate

    config = json.loads((tmp_path / "model" / "config.json").read_text())
    count = sum(parameter.numel() for parameter in whole.parameters())
    parts = estimate(parameters, recipe("causal_lm", "supervised"), config, count, 64, 0).parts
    adapter = 4 * adapter_parameters(parameters, config)
    assert parts["weights"] - adapter == pytest.approx(held, rel=0.01)


def _scales(parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return 0
    return state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)


@pytest.mark.parametrize(
    ("given", "rank"),
    [(kind("lora"), {"r": 8}), ({**LORA, "use_dora": True}, {"r": 8, "use_dora": True}), (kind("ia3"), {}),
     (kind("loha"), {"r": 8}), (kind("lokr"), {"r": 8}), (kind("prompt_tuning"), {"num_virtual_tokens": 20})],
    ids=["lora", "dora", "ia3", "loha", "lokr", "prompt"],
)  # fmt: skip
def test_the_parameters_of_an_adapter_are_those_that_peft_makes(given, rank, tmp_path):
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=256, intermediate_size=576, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    targets = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
    if "num_virtual_tokens" in rank:
        targets = {}
    scaled = {"feedforward_modules": ["down_proj"]} if not rank else {}
    made = getattr(peft, CONFIGS[given.get("peft_type", "lora")])(task_type="CAUSAL_LM", **targets, **rank, **scaled)
    with torch.device("meta"):
        trained, _ = peft.get_peft_model(model, made, low_cpu_mem_usage=True).get_nb_trainable_parameters()
    from steps.plan.memory import adapter_parameters

    parameters = read_parameters("chat_completion", {**GIVEN, **given}).parameters
    assert adapter_parameters(parameters, config.to_dict()) == pytest.approx(trained, rel=0.05)


def test_four_bits_let_eight_billion_weights_fit_where_sixteen_do_not():
    lora = {"apply_lora": True, "precision": "16"}
    assert LLAMA_8B["hidden_size"] == 4096
    assert memory(16, **lora).needed > 16 * GIB
    quantised = memory(16, **lora, load_in_4bit=True, bnb_4bit_use_double_quant=True)
    assert quantised.needed < 16 * GIB * 0.9
    assert memory(16, **lora, load_in_8bit=True).parts["weights"] > quantised.parts["weights"]
