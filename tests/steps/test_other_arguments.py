"""Arguments of other systems' command lines: translated to parameters, or named as without effect."""

import pytest
from conftest import chat_rows, write_jsonl
from preferences import pair_rows

from steps.errors import UserError
from steps.params.other_arguments import CHOOSING, IDLE_ARGUMENTS, SECRETS
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import read_parameters
from steps.plan.deciding import decide

GIVEN = {"pytorch_model_path": "m", "train_file_path": "t.jsonl"}
# The arguments of a public launch script for instruction tuning and for preferences.
TRAINING = {
    "per_device_eval_batch_size": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4,
    "save_strategy": "steps", "evaluation_strategy": "steps", "save_total_limit": 5, "num_train_epochs": 1,
    "max_steps": -1, "logging_steps": 1, "save_steps": 20, "eval_steps": 20, "warmup_ratio": 0.05, "warmup_steps": 0,
    "gradient_checkpointing": "True", "optim": "adamw_hf", "learning_rate": 0.00001, "lr_scheduler_type": "cosine",
    "output_dir": "out", "instance_type": "ml.p4d.24xlarge", "instance_count": 1, "volume_size": 300,
    "job_prefix": "llm", "code_entry_point": "unified_train.py", "hf_token": "", "wandb_api_key": "",
    "trust_remote_code": False, "default_dtype": "bf16", "attn_implementation": "eager", "padding": False,
    "truncation": True, "add_generation_prompt": False, "model_name": "meta-llama/Meta-Llama-3-8B",
    "ignore_bias_buffers": False,
}  # fmt: skip
LORA = {"use_peft": True, "lora_alpha": 16, "lora_dropout": 0.05, "lora_r": 8, "load_in_8bit": False,
        "lora_target_modules": "q_proj,v_proj,k_proj,out_proj,fc_in,fc_out,wte"}  # fmt: skip
COMMANDS = {
    "tuning": ("chat_completion", chat_rows(60), {
        **TRAINING, **LORA, "trainer_type": "sft", "predict_with_generate": True,
        "task_collator": "dynamic_padding_only", "mlm_probability": 0.15,
        "num_beams": 1, "num_beam_groups": 1, "temperature": 1.0, "seq_length": 128,
        "packing": True, "dataset_text_field": "messages"}),
    "preferences": ("preference", pair_rows(60), {
        **TRAINING, **{**LORA, "lora_dropout": 0}, "trainer_type": "orpo", "remove_unused_columns": False,
        "task_collator": "rl_dynamic_padding_only", "load_in_4bit": False, "max_prompt_length": 64, "max_length": 128,
        "beta": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_the_arguments_of_a_public_command_line_are_read(tiny_model, tmp_path, monkeypatch, command):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    pipeline, rows, arguments = COMMANDS[command]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    sources = {"s3_model_path": str(tiny_model), "train_input_path": str(file), "test_input_path": str(file)}
    decisions = decide(pipeline, {**arguments, **sources})
    p = decisions.parameters
    assert (p.pytorch_model_path, p.train_file_path, p.test_file_path) == (str(tiny_model), str(file), str(file))
    assert (p.apply_lora, p.precision, p.max_seq_length, p.instance_type_finetune) == (
        True,
        "16",
        128,
        "ml.p4d.24xlarge",
    )
    assert (p.gradient_checkpointing, p.learning_method) == (
        "true",
        {"tuning": "supervised", "preferences": "orpo"}[command],
    )
    told = "\n".join(decisions.warnings)
    for name in set(arguments) & set(IDLE_ARGUMENTS) - set(type(p).model_fields):
        assert f"{name} is ignored: {IDLE_ARGUMENTS[name]}" in told
    assert "model_name is ignored: the model is read from a folder" in told
    assert "the model has no layer out_proj, fc_in, fc_out, wte; the others get an adapter" in told


def problems(pipeline: str, **given) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_parameters(pipeline, {**GIVEN, **given})
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("pipeline", "given", "words"),
    [
        (
            "chat_completion",
            {"trainer_type": "dpo"},
            "PARAM-E0110 trainer_type: found dpo with the pipeline",
        ),
        ("chat_completion", {"trainer_type": "dpo"}, "run the pipeline preference, or leave trainer_type out"),
        (
            "preference",
            {"code_entry_point": "sft_train.py", "per_device_train_batch_size": 2},
            "PARAM-E0110 code",
        ),
        ("chat_completion", {"code_entry_point": "infer.py"}, "one of train.py, sft_train.py"),
        ("chat_completion", {"code_entry_point": "inference.py"}, "run the pipeline batch_inference"),
        ("chat_completion", {"trainer_type": "ppo"}, "PARAM-E0109 trainer_type: found 'ppo'; expected one of trainer"),
        ("chat_completion", {"hf_token": "something"}, "PARAM-E0108 hf_token: found a value; expected nothing"),
        ("chat_completion", {"wandb_api_key": "0" * 10}, "PARAM-E0108 wandb_api_key"),
        ("chat_completion", {"train_input_path": "other"}, "PARAM-E0111 train_file_path and train_input_path"),
        ("chat_completion", {"default_dtype": "fp8"}, "PARAM-E0102 precision"),
        ("chat_completion", {"gradient_checkpointing": "maybe"}, "PARAM-E0102 gradient_checkpointing"),
        ("chat_completion", {"outputdir": "x"}, "PARAM-E0101 outputdir"),
    ],
)
def test_what_cannot_be_meant_is_refused(pipeline, given, words):
    assert any(words in told for told in problems(pipeline, **given))


# The arguments of a public launch script for inference.
ANSWERING = {
    "output_dir": "out", "instance_type": "ml.g5.12xlarge", "instance_count": 1, "volume_size": 300,
    "train_input_path": "s3://rows/train", "test_input_path": "s3://rows/test", "s3_model_path": "s3://models/llama",
    "job_prefix": "llm-inference", "code_entry_point": "inference.py", "hf_token": "", "wandb_api_key": "",
    "default_dtype": "fp16", "attn_implementation": "eager", "max_length": 1024, "s3_upload_dir": "s3://answers/test",
    "inference_type": "deepspeed", "eos_tokens": "128009", "max_new_tokens": 64, "test_batch_size": 2, "num_beams": 1,
    "num_beam_groups": 1, "temperature": 1.0, "do_sample": False, "replace_with_kernel_inject": False,
    "cpu_offload": False,
}  # fmt: skip


def test_the_arguments_of_a_public_command_line_for_inference_are_read():
    reading = read_parameters("batch_inference", ANSWERING)
    p = reading.parameters
    own = {name: value for name, value in ANSWERING.items() if name in type(p).model_fields}
    assert {name: getattr(p, name) for name in own} == own
    assert len(own) == 12
    assert (p.pytorch_model_path, p.test_file_path) == ("s3://models/llama", "s3://rows/test")
    assert (p.instance_type_inference, p.inference_precision) == ("ml.g5.12xlarge", "half")
    told = "\n".join(reading.warnings)
    for name in ("train_input_path", "instance_count", "attn_implementation", "output_dir", "volume_size"):
        assert f"{name} is ignored: " in told
    with pytest.raises(UserError, match="trust_remote_code"):
        read_parameters("batch_inference", {**ANSWERING, "trust_remote_code": True})


def test_a_model_name_alone_is_a_model_of_the_hub():
    given = {"train_file_path": "t.jsonl", "model_name": "owner/name"}
    assert read_parameters("chat_completion", given).parameters.huggingface_id == "owner/name"


def test_no_argument_hides_a_parameter_where_there_is_one():
    reading = read_parameters("summarization", {**GIVEN, "num_beams": 4})
    assert reading.parameters.num_beams == 4
    assert reading.ignored == ()
    everywhere = set.intersection(*(set(model.model_fields) for model in PARAMETER_MODELS.values()))
    assert not everywhere & {*IDLE_ARGUMENTS, *SECRETS, *CHOOSING}
    assert {name for values in CHOOSING.values() for names in values.values() for name in names} <= set(
        PARAMETER_MODELS
    )


def test_the_same_holds_for_overrides():
    reading = read_parameters("chat_completion", {**GIVEN, "overrides": {"output_dir": "x", "seq_length": 64.0}})
    assert reading.parameters.max_seq_length == 64
    assert reading.ignored == ("output_dir is ignored: the paths of checkpoints and results are fixed",)
