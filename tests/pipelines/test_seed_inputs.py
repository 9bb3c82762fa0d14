"""Users of Azure's finetune component find every input again, under its name and with its default."""

from pathlib import Path

import pytest
import yaml

COMPILED = Path(__file__).parents[2] / "compiled"
PIPELINES = (
    "text_classification", "token_classification", "question_answering", "summarization", "translation",
    "text_generation",
)  # fmt: skip
# Name → default; optional inputs without one have the empty value here. Booleans that were texts there are booleans.
INPUTS = {
    "pytorch_model_path": "", "mlflow_model_path": "",
    "train_file_path": "", "validation_file_path": "", "test_file_path": "",
    "train_mltable_path": "", "validation_mltable_path": "", "test_mltable_path": "",
    "compute_model_import": "serverless", "compute_preprocess": "serverless",
    "compute_finetune": "serverless", "compute_model_evaluation": "serverless",
    "instance_type_model_import": "Standard_d12_v2", "instance_type_preprocess": "Standard_d12_v2",
    "instance_type_finetune": "Standard_nc24rs_v3", "instance_type_model_evaluation": "Standard_nc24rs_v3",
    "number_of_gpu_to_use_finetuning": 1, "num_nodes_finetune": 1,
    "batch_size": 1000, "max_seq_length": -1, "pad_to_max_length": False,
    "apply_lora": False, "lora_alpha": 128, "lora_r": 8, "lora_dropout": 0.0,
    "apply_deepspeed": False, "deepspeed": "true", "deepspeed_stage": "2",
    "num_train_epochs": 1, "max_steps": -1,
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "auto_find_batch_size": False,
    "learning_rate": 0.00002, "lr_scheduler_type": "linear", "warmup_steps": 0, "optim": "adamw_hf",
    "weight_decay": 0.0, "gradient_accumulation_steps": 1, "precision": "32", "seed": 42,
    "evaluation_strategy": "epoch", "eval_steps": 500, "logging_strategy": "steps", "logging_steps": 10,
    "save_total_limit": -1, "apply_early_stopping": False, "early_stopping_patience": 1, "max_grad_norm": 1.0,
    "resume_from_checkpoint": "false",
}  # fmt: skip
CHOICES = {
    "deepspeed_stage": {"2", "3"}, "optim": {"adamw_hf", "adamw_torch", "adafactor"},
    "lr_scheduler_type": {
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    },
    "precision": {"16", "32"}, "evaluation_strategy": {"epoch", "steps"}, "logging_strategy": {"epoch", "steps"},
}  # fmt: skip


def inputs_of(pipeline: str) -> dict:
    (root, _) = yaml.safe_load_all((COMPILED / f"{pipeline}_pipeline.yaml").read_text(encoding="utf-8"))
    return root["root"]["inputDefinitions"]["parameters"]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_input_is_there_with_its_default(pipeline):
    assert len(INPUTS) == 50
    there = inputs_of(pipeline)
    assert {name: there[name]["defaultValue"] for name in INPUTS if name in there} == INPUTS


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_value_that_was_allowed_still_is(pipeline):
    there = inputs_of(pipeline)
    for name, values in CHOICES.items():
        assert values <= set(there[name].get("literals", ())), name
