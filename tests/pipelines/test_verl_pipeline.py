"""The compiled pipeline has every input and the output of Azure's verl component, by name, type and default."""

import pytest
import yaml

from pipelines.checking import check_file
from pipelines.compile import compile_pipelines
from pipelines.images import VERL

TEXT, WHOLE, NUMBER, TRUTH = "STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN"
# The tables of Azure's component, version 0.0.2: name → (type, default). An input without a default is empty, or 0.
# Other than there, the entropy's weight need not be whole, and verl's GPUs and nodes are those of the task (0).
SEED = {
    "instance_type_model_import": (TEXT, "Standard_d12_v2"),
    "instance_type_finetune": (TEXT, "Standard_ND96isr_H100_v5"),
    "shm_size_finetune": (TEXT, "5g"),
    "num_nodes_finetune": (WHOLE, 1),
    "number_of_gpu_to_use_finetuning": (WHOLE, 1),
    "huggingface_id": (TEXT, ""),
    "pytorch_model_path": (TEXT, ""),
    "mlflow_model_path": (TEXT, ""),
    "ENGINE": (TEXT, "vllm"),
    "data_train_files": (TEXT, ""),
    "data_val_files": (TEXT, ""),
    "data_train_batch_size": (WHOLE, 512),
    "data_max_prompt_length": (WHOLE, 1024),
    "data_max_response_length": (WHOLE, 2048),
    "data_filter_overlong_prompts": (TRUTH, True),
    "data_truncation": (TEXT, "error"),
    "data_image_key": (TEXT, "images"),
    "actor_optim_lr": (NUMBER, 3e-6),
    "actor_model_use_remove_padding": (TRUTH, True),
    "actor_strategy": (TEXT, "fsdp2"),
    "actor_fsdp_config_offload_policy": (TRUTH, True),
    "actor_ppo_mini_batch_size": (WHOLE, 128),
    "actor_ppo_micro_batch_size_per_gpu": (WHOLE, 10),
    "actor_model_lora_rank": (WHOLE, 64),
    "actor_model_lora_alpha": (WHOLE, 32),
    "actor_model_target_modules": (TEXT, "all-linear"),
    "actor_model_exclude_modules": (TEXT, ".*visual.*"),
    "actor_use_kl_loss": (TRUTH, True),
    "actor_kl_loss_coef": (NUMBER, 0.01),
    "actor_kl_loss_type": (TEXT, "low_var_kl"),
    "actor_entropy_coeff": (NUMBER, 0.0),
    "actor_model_enable_gradient_checkpointing": (TRUTH, True),
    "actor_fsdp_param_offload": (TRUTH, False),
    "actor_fsdp_optimizer_offload": (TRUTH, False),
    "rollout_log_prob_micro_batch_size_per_gpu": (WHOLE, 20),
    "rollout_tensor_model_parallel_size": (WHOLE, 2),
    "rollout_name": (TEXT, "vllm"),
    "rollout_dtype": (TEXT, "float16"),
    "rollout_disable_mm_preprocessor_cache": (TRUTH, True),
    "rollout_gpu_memory_utilization": (NUMBER, 0.6),
    "rollout_enable_chunked_prefill": (TRUTH, False),
    "rollout_enforce_eager": (TRUTH, False),
    "rollout_free_cache_engine": (TRUTH, False),
    "rollout_n": (WHOLE, 5),
    "ref_log_prob_micro_batch_size_per_gpu": (WHOLE, 20),
    "ref_fsdp_param_offload": (TRUTH, True),
    "algorithm_adv_estimator": (TEXT, "grpo"),
    "algorithm_use_kl_in_reward": (TRUTH, False),
    "trainer_critic_warmup": (WHOLE, 0),
    "trainer_n_gpus_per_node": (WHOLE, 0),
    "trainer_nnodes": (WHOLE, 0),
    "trainer_save_freq": (WHOLE, 20),
    "trainer_test_freq": (WHOLE, 5),
    "trainer_total_epochs": (WHOLE, 15),
    "total_training_steps": (WHOLE, 0),
    "compute_model_import": (TEXT, "serverless"),
    "compute_finetune": (TEXT, "serverless"),
}
CHOICES = {
    "ENGINE": ["vllm", "sglang", "trtllm", "trl"],
    "rollout_name": ["vllm", "sglang", "trtllm"],
    "actor_strategy": ["fsdp", "fsdp2"],
    "data_truncation": ["error", "left", "right", "middle"],
    "rollout_dtype": ["float16", "bfloat16", "float32"],
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return compile_pipelines(["verl_finetune"], tmp_path_factory.mktemp("verl"), short=True)


@pytest.fixture(scope="module")
def root(compiled):
    return next(yaml.load_all(compiled[0].read_text(), yaml.CSafeLoader))


def test_the_table_is_whole():
    assert len(SEED) == 57


@pytest.mark.parametrize("name", SEED)
def test_every_input_of_the_seed_is_there_with_its_type_and_default(root, name):
    kind, default = SEED[name]
    made = root["root"]["inputDefinitions"]["parameters"][name]
    assert (made["parameterType"], made["defaultValue"]) == (kind, default)
    assert made["isOptional"] is True
    if name in CHOICES:
        assert made["literals"] == CHOICES[name]


def test_names_of_other_pipelines_for_the_same_are_no_second_input(root):
    inputs = root["root"]["inputDefinitions"]["parameters"]
    assert not {"train_file_path", "learning_rate", "lora_r", "num_generations", "precision"} & set(inputs)
    assert {"reward_funcs", "custom_reward_function_path", "question_key", "gate_metric"} <= set(inputs)


def test_the_training_is_in_verls_image_and_its_model_is_the_output_of_the_seed(root):
    images = {name: one["container"]["image"] for name, one in root["deploymentSpec"]["executors"].items()}
    assert [name for name, image in images.items() if image == VERL] == ["exec-finetune"]
    made_by = root["root"]["dag"]["outputs"]["artifacts"]["model_output"]["artifactSelectors"][0]
    assert made_by["producerSubtask"] == "finetune"


def test_both_forms_are_sound(compiled):
    assert [file.name for file in compiled] == ["verl_finetune_pipeline.yaml", "verl_finetune_short_pipeline.yaml"]
    assert [problem for file in compiled for problem in check_file(file)] == []
