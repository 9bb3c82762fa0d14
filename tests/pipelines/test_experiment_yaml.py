"""Experiment files with sections set the right parameters, and no entry is ignored silently."""

import json
from pathlib import Path

import pytest
import yaml

from pipelines.experiment_keys import DIRECT, IGNORED, PIPELINES
from pipelines.experiment_page import as_markdown, rows_of_table
from pipelines.experiment_yaml import from_experiment, is_experiment
from pipelines.flags import parameters_in
from steps.errors import UserError
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import read_parameters

ROOT = Path(__file__).parents[2]
DATA = {"type": "CONCATENATION", "datasets": [{"path": "a.jsonl"}]}


def read(text: str) -> tuple[dict, list[str]]:
    return from_experiment(yaml.safe_load(text))


def problems(text: str) -> str:
    with pytest.raises(UserError) as caught:
        read(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("method: sft", {"pipeline": "chat_completion"}),
        ("method: dpo", {"pipeline": "preference"}),
        ("training_args: {learning_rate: 1.0e-4, eval_strategy: steps, max_length: 64}",
         {"learning_rate": 1e-4, "evaluation_strategy": "steps", "max_seq_length": 64}),
        ("training_args: {bf16: true, gradient_checkpointing: true}",
         {"precision": "16", "gradient_checkpointing": "true"}),
        ("training_args: {bf16: false}", {}),
        ("overrides: {lr_multiplier: 2.0, lr_batch_size_scaling: sqrt}\ndata_conf: {}",
         {"lr_multiplier": 2.0, "lr_batch_size_scaling": "sqrt"}),
        ("batchsize_conf: {total_train_batch_size: 512, max_per_device_train_batch_size: 4}",
         {"total_train_batch_size": 512, "max_per_device_train_batch_size": 4}),
        ("peft_conf: {peft_type: NO_PEFT}", {"apply_lora": False}),
        ("peft_conf: {peft_type: LORA, task_type: CAUSAL_LM, peft_kwargs: {r: 64, lora_alpha: 16, target_modules: "
         "[q_proj, v_proj], bias: none}}",
         {"apply_lora": True, "lora_r": 64, "lora_alpha": 16, "lora_target_modules": "q_proj,v_proj"}),
        ("peft_conf: {peft_type: IA3, peft_kwargs: {feedforward_modules: [down_proj], target_modules: [down_proj]}}",
         {"apply_lora": True, "peft_type": "ia3", "lora_target_modules": "down_proj",
          "peft_kwargs": {"feedforward_modules": ["down_proj"]}}),
        ("peft_conf: {peft_type: LORA, peft_kwargs: {use_dora: true, rank_pattern: {q_proj: 4}}}",
         {"apply_lora": True, "use_dora": True, "peft_kwargs": {"rank_pattern": {"q_proj": 4}}}),
        ("peft_conf: {peft_type: PRETRAINED_PEFT, name_or_path: s3://bucket/adapter}",
         {"adapter_use": "continue", "adapter_path": "s3://bucket/adapter"}),
        ("quant_conf: {quantization_type: bits-and-bytes, load_in_4bit: true, bnb_4bit_compute_dtype: bfloat16, "
         "bnb_4bit_quant_type: nf4}",
         {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_type": "nf4"}),
        ("training_args: {deepspeed: zero2.json}", {"apply_deepspeed": True, "deepspeed": "zero2.json"}),
        ("run_conf: {model: org/name, tokenizer: org/name, determinism: half, resume_from_checkpoint: auto}",
         {"huggingface_id": "org/name", "determinism": "half", "resume_from_checkpoint": "auto"}),
        ("run_conf: {model: s3://bucket/model}", {"pytorch_model_path": "s3://bucket/model"}),
        ("run_conf: {model: a/folder/here}", {"pytorch_model_path": "a/folder/here"}),
        ("run_conf: {model: m, model_args: {dtype: bfloat16, attn_implementation: sdpa, revision: v1, "
         "attention_dropout: 0.1}}",
         {"huggingface_id": "m", "precision": "16", "attn_implementation": "sdpa", "huggingface_revision": "v1",
          "model_args": {"attention_dropout": 0.1}}),
        ("data_conf: {training_data: {type: CONCATENATION, datasets: [{path: a.jsonl}, {path: b.jsonl}]}}",
         {"train_file_path": "a.jsonl,b.jsonl"}),
        ("data_conf: {validation_data: {type: NONE}}", {"evaluation_strategy": "no"}),
        ("data_conf: {chat_template_name: chat-ml, padding_side: right}", {"chat_template": "chat-ml"}),
        ("sft_args: {max_seq_length: 128, length_handling: truncate, train_on_completions_only: true}",
         {"max_seq_length": 128, "length_handling": "truncate", "train_on_completions_only": True}),
        ("tracking: {mlflow_server_uri: 'http://mlflow', experiment_name: e, hf_mlflow_log_artifacts: 'False'}",
         {"mlflow_server_uri": "http://mlflow", "experiment_name": "e", "hf_mlflow_log_artifacts": "False"}),
        ("data_conf: {missing_pad_token_strategy: bos-repurpose}", {"missing_pad_token_strategy": "bos-repurpose"}),
        ("sft_args: {max_seq_length: 8}\nnumber_of_gpu_to_use_finetuning: 0",
         {"max_seq_length": 8, "number_of_gpu_to_use_finetuning": 0}),
    ],
)  # fmt: skip
def test_sections_become_parameters(text, expected):
    assert read(text)[0] == expected


def test_a_weighted_mixture_keeps_its_weights():
    given = {"type": "PRECOMPUTE_WEIGHTED_MIX", "datasets": [
        {"path": "a.jsonl", "sampling_weight": 2.0}, {"path": "b.jsonl", "sampling_weight": 1.0},
    ]}  # fmt: skip
    parameters, _ = from_experiment({"data_conf": {"training_data": given}})
    assert json.loads(parameters["training_data"]) == given
    read_parameters("chat_completion", {**parameters, "pytorch_model_path": "m"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training_arg: {seed: 1}\ndata_conf: {}", "CONFIG-E0104 training_arg: .*did you mean training_args"),
        ("training_args: {learning_rat: 1.0}", "CONFIG-E0104 training_args.learning_rat: .*did you mean learning_rate"),
        ("peft_conf: {peft_type: LORE}", "peft_conf.peft_type: .*did you mean LORA"),
        ("quant_conf: {load_in_4bits: true}", "quant_conf.load_in_4bits: .*did you mean load_in_4bit"),
        ("quant_conf: {llm_int8_has_fp16_weight: true}", "llm_int8_has_fp16_weight: .*8 bits only"),
        ("data_conf: {chat_template: x}", "data_conf.chat_template: .*did you mean chat_template_name"),
        ("method: stf\ndata_conf: {}", "CONFIG-E0105 method: .*sft, dpo.*did you mean sft"),
        ("training_args: [1]\ndata_conf: {}", "CONFIG-E0105 training_args: .*write it as a mapping"),
        ("data_conf: {training_data: {type: CONCAT, datasets: [{path: a}]}}",
         "data_conf.training_data.type: .*did you mean CONCATENATION"),
        ("data_conf: {training_data: {type: CONCATENATION, datasets: []}}", "data_conf.training_data.datasets"),
        ("training_args: {per_device_train_batch_size: 4}", "per_device_train_batch_size: .*batchsize_conf"),
        ("training_args: {gradient_accumulation_steps: 4}", "gradient_accumulation_steps: .*batchsize_conf"),
        ("data_conf: {padding_side: left}", "data_conf.padding_side: .*right"),
        ("data_conf: {validation_data: {type: AUTO_SPLIT, ratio: 0.5}}", "data_conf.validation_data.ratio: .*0.2"),
        ("run_conf: {model: m, tokenizer: other}", "run_conf.tokenizer: .*the model's own"),
        ("run_conf: {model_args: {dtype: int7}}", "run_conf.model_args.dtype: .*bfloat16"),
    ],
)  # fmt: skip
def test_what_is_unknown_or_has_no_counterpart_is_refused_with_the_way_out(text, words):
    import re

    assert re.search(words, problems(text), re.DOTALL), problems(text)


def test_an_unknown_setting_of_the_adapter_is_refused_with_the_parameters():
    parameters, _ = read("peft_conf: {peft_type: LORA, peft_kwargs: {rank_patern: {q_proj: 4}}}")
    with pytest.raises(UserError, match=r"peft_kwargs.rank_patern.*did you mean rank_pattern"):
        read_parameters("chat_completion", {**parameters, "pytorch_model_path": "m", "train_file_path": "t.jsonl"})


def test_all_problems_are_told_at_once():
    said = problems("training_args: {learning_rat: 1.0, lr_schedular_type: x}\npeft_conf: {peft_typ: LORA}")
    assert said.count("CONFIG-E0104") == 3


def test_what_changes_nothing_is_told():
    parameters, notes = read("training_args: {output_dir: out, report_to: [mlflow], bf16: true}")
    assert parameters == {"precision": "16"}
    assert [note.split(" ")[0] for note in notes] == ["training_args.output_dir", "training_args.report_to"]


@pytest.mark.parametrize(("key", "parameter"), rows_of_table())
def test_every_row_names_a_parameter_that_there_is(key, parameter):
    assert any(parameter in PARAMETER_MODELS[name].model_fields for name in PIPELINES.values()), key


def test_no_key_stands_in_two_tables():
    for section, keys in DIRECT.items():
        assert not set(keys) & set(IGNORED.get(section, ())), section


GENERATE = """
model_conf: {model: models/chat/v1/base, adapter: models/adapter, model_args: {dtype: bfloat16, device_map: auto}}
prompt_conf: {type: open-input, input: "2 + 2?", num_samples: 3}
hf_gen_params: {max_new_tokens: 40, do_sample: true, top_k: 5, early_stopping: never, stop_strings: ["a", "b"],
                penalty_alpha: null, renormalize_logits: true}
quant_conf: {quantization_type: bits-and-bytes, load_in_4bit: true, bnb_4bit_quant_type: nf4}
"""


def test_a_configuration_of_generate_is_one_of_batch_inference():
    parameters, notes = read(GENERATE)
    assert parameters == {
        "pipeline": "batch_inference", "pytorch_model_path": "models/chat/v1/base", "adapter_path": "models/adapter",
        "inference_precision": "half", "prompt_conf": {"type": "open-input", "input": "2 + 2?", "num_samples": 3},
        "max_new_tokens": 40, "do_sample": True, "top_k": 5, "early_stopping": "never", "stop_strings": ["a", "b"],
        "hf_gen_params": {"renormalize_logits": True}, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
    }  # fmt: skip
    assert notes == ["model_conf.model_args.device_map has no effect: the engine chooses it"]
    del parameters["pipeline"]
    p = read_parameters("batch_inference", parameters).parameters
    assert (p.asked, p.stop_strings, p.hf_gen_params) == (("2 + 2?",) * 3, '["a", "b"]', {"renormalize_logits": True})


def test_what_a_configuration_of_generate_cannot_have_is_refused_by_name():
    said = problems("model_conf: {model: m, model_args: {dtype: int8, low_cpu_mem_usage: true}, tokeniser: m}")
    for part in ("model_conf.model_args.dtype", "model_conf.model_args.low_cpu_mem_usage", "did you mean tokenizer?"):
        assert part in said
    assert "one of them" in problems("model_conf: {model: m}\nmax_new_tokens: 4\nhf_gen_params: {max_new_tokens: 5}")
    assert read("model_conf: {model: m, tokenizer: m}")[0]["huggingface_id"] == "m"


def test_generation_settings_without_a_model_conf_stay_what_they_are():
    assert not is_experiment({"hf_gen_params": {"top_k": 5}, "prompt_conf": {"type": "open-input", "input": "x"}})


def test_a_file_of_plain_parameters_is_no_experiment():
    assert not is_experiment({"learning_rate": 1e-4, "overrides": {"lora_r": 4}, "method": "dpo"})
    assert is_experiment({"method": "dpo", "run_conf": {"model": "m"}})


def test_the_command_line_wins_over_the_file(tmp_path):
    from pipelines.flags import _split

    file = tmp_path / "sft.yaml"
    file.write_text(
        "tracking: {experiment_name: file, mlflow_server_uri: 'http://file'}\nsft_args: {max_seq_length: 9}"
    )
    given = _split(
        PARAMETER_MODELS["chat_completion"],
        {"config": file, "param": ("experiment_name=shell",), "parameter_max_seq_length": "7"},
    )
    assert given == {"experiment_name": "shell", "mlflow_server_uri": "http://file", "max_seq_length": "7"}


def test_the_page_of_the_documentation_is_current():
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert page == as_markdown(), "docs/experiments.md is stale: run `make docs`"


def test_an_experiment_for_another_pipeline_is_refused(tmp_path):
    from pipelines.flags import for_pipeline

    (tmp_path / "dpo.yaml").write_text("method: dpo\nrun_conf: {model: m}")
    with pytest.raises(UserError, match="CONFIG-E0103"):
        for_pipeline("chat_completion", parameters_in(tmp_path / "dpo.yaml"))
