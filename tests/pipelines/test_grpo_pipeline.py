"""The compiled pipeline has every input and output of Azure's GRPO component, by name, default and choice."""

import pytest
import yaml

from pipelines.checking import check_file
from pipelines.compile import compile_pipelines

TEXT, WHOLE, NUMBER, TRUTH = "STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN"
SCHEDULERS = ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
              "inverse_sqrt", "reduce_lr_on_plateau"]  # fmt: skip
OPTIMIZERS = ["adamw_torch", "adamw_torch_fused", "adafactor", "ademamix", "sgd", "adagrad", "rmsprop",
              "galore_adamw", "grokadamw", "schedule_free_sgd"]  # fmt: skip
# The tables of Azure's component, version 0.0.1: name → (type, default, choices). A text without a default is empty;
# apply_lora is a text of true and false there.
SEED = {
    "instance_type_model_import": (TEXT, "Standard_d12_v2", None),
    "instance_type_finetune": (TEXT, "STANDARD_ND96ISRF_H100_V5", None),
    "shm_size_finetune": (TEXT, "5g", None),
    "num_nodes_finetune": (WHOLE, 1, None),
    "number_of_gpu_to_use_finetuning": (WHOLE, 1, None),
    "huggingface_id": (TEXT, "", None),
    "pytorch_model_path": (TEXT, "", None),
    "mlflow_model_path": (TEXT, "", None),
    "dataset_name": (TEXT, "", None),
    "dataset_prompt_column": (TEXT, "problem", None),
    "dataset_train_split": (TEXT, "", None),
    "dataset_validation_split": (TEXT, "", None),
    "apply_lora": (TRUTH, True, [True, False]),
    "eval_strategy": (TEXT, "no", ["no", "steps", "epoch"]),
    "num_iterations": (WHOLE, 5, None),
    "epsilon": (NUMBER, 0.5, None),
    "per_device_train_batch_size": (WHOLE, 8, None),
    "per_device_eval_batch_size": (WHOLE, 8, None),
    "gradient_accumulation_steps": (WHOLE, 1, None),
    "learning_rate": (NUMBER, 1e-6, None),
    "logging_steps": (WHOLE, 5, None),
    "lr_scheduler_type": (TEXT, "cosine", SCHEDULERS),
    "num_train_epochs": (NUMBER, 4.0, None),
    "max_grad_norm": (NUMBER, 1.0, None),
    "warmup_ratio": (NUMBER, 0.1, None),
    "max_steps": (WHOLE, -1, None),
    "eval_steps": (WHOLE, 1, None),
    "optim": (TEXT, "adamw_torch", OPTIMIZERS),
    "use_liger_kernel": (TRUTH, False, [True, False]),
    "deepspeed_config": (TEXT, "", None),
    "do_eval": (TRUTH, False, [True, False]),
    "max_prompt_length": (WHOLE, 512, None),
    "num_generations": (WHOLE, 4, None),
    "max_completion_length": (WHOLE, 256, None),
    "temperature": (NUMBER, 1.0, None),
    "num_completions_to_print": (WHOLE, 2, None),
    "top_p": (NUMBER, 1.0, None),
    "save_steps": (WHOLE, 100, None),
    "save_total_limit": (WHOLE, 20, None),
    "shuffle_dataset": (TRUTH, True, [True, False]),
    "vllm_gpu_memory_utilization": (NUMBER, 0.3, None),
    "vllm_tensor_parallel_size": (WHOLE, 1, None),
    "beta": (NUMBER, 0.04, None),
    "compute_model_import": (TEXT, "serverless", None),
    "compute_finetune": (TEXT, "serverless", None),
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return compile_pipelines(["grpo_chat_completion"], tmp_path_factory.mktemp("grpo"), short=True)


@pytest.fixture(scope="module")
def root(compiled):
    return next(yaml.load_all(compiled[0].read_text(), yaml.CSafeLoader))


def test_the_table_is_whole():
    assert len(SEED) == 45


@pytest.mark.parametrize("name", SEED)
def test_every_input_of_the_seed_is_there_with_its_type_default_and_choices(root, name):
    kind, default, choices = SEED[name]
    made = root["root"]["inputDefinitions"]["parameters"][name]
    assert (made["parameterType"], made["defaultValue"], made.get("literals")) == (kind, default, choices)
    assert made["isOptional"] is True


def test_names_of_other_pipelines_for_the_same_are_no_second_input(root):
    inputs = root["root"]["inputDefinitions"]["parameters"]
    assert not {"evaluation_strategy", "deepspeed"} & set(inputs)
    assert {"reward_funcs", "reward_weights", "reward_options", "system_prompt", "method", "use_vllm"} <= set(inputs)


def test_the_outputs_of_the_seed_exist_whether_or_not_the_gate_passed(root):
    outputs = root["root"]["outputDefinitions"]["artifacts"]
    assert {outputs[name]["artifactType"]["schemaTitle"] for name in ("output_model_path", "mlflow_model_folder")} == {
        "system.Model"
    }
    tasks = root["root"]["dag"]["tasks"]
    made_by = root["root"]["dag"]["outputs"]["artifacts"]
    producers = {name: made_by[name]["artifactSelectors"][0]["producerSubtask"] for name in outputs}
    assert (producers["output_model_path"], producers["mlflow_model_folder"]) == ("finetune", "package-model")
    assert "triggerPolicy" not in tasks["package-model"]  # a condition would be one


def test_both_forms_are_sound(compiled):
    assert [file.name for file in compiled] == [
        "grpo_chat_completion_pipeline.yaml", "grpo_chat_completion_short_pipeline.yaml",
    ]  # fmt: skip
    assert [problem for file in compiled for problem in check_file(file)] == []


def test_the_tasks_that_may_load_a_reward_model_of_the_hub_get_the_token(compiled):
    _, platform = yaml.load_all(compiled[0].read_text(), yaml.CSafeLoader)
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    reading = {label for label, pod in pods.items() if "HF_TOKEN" in str(pod.get("secretAsEnv"))}
    assert {"exec-plan", "exec-import-model", "exec-prepare-data", "exec-finetune", "exec-evaluate"} == reading
