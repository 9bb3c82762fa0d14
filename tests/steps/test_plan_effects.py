"""A parameter that was set and has no effect is named with the reason, and no other is."""

import pytest
from classifiers import label_rows
from conftest import chat_rows, write_jsonl
from reward_prompts import prompt_rows

from steps.params.pipelines import PARAMETER_MODELS
from steps.params.verl_training import WITHOUT_VERL
from steps.plan.deciding import decide
from steps.plan.effects import IGNORED


@pytest.fixture
def ignored(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    files = {
        "chat_completion": write_jsonl(tmp_path / "chat.jsonl", chat_rows(60)),
        "text_generation": write_jsonl(tmp_path / "texts.jsonl", [{"text": f"text {number}"} for number in range(60)]),
        "text_classification": write_jsonl(tmp_path / "labels.jsonl", label_rows(60)),
        "grpo_chat_completion": write_jsonl(tmp_path / "prompts.jsonl", prompt_rows(60)),
        "verl_finetune": write_jsonl(tmp_path / "verl.jsonl", prompt_rows(60)),
    }
    files["pretraining"] = files["text_generation"]
    columns = {
        "text_classification": {"sentence1_key": "text", "label_key": "kind"},
        "grpo_chat_completion": {"max_prompt_length": 128, "max_completion_length": 64},
        "verl_finetune": {
            "ENGINE": "trl", "question_key": "problem", "answer_key": "solution", "data_source": "own",
            "reward_funcs": "length", "data_max_prompt_length": 128, "data_max_response_length": 64,
            "data_train_batch_size": 4, "actor_ppo_mini_batch_size": 4, "actor_model_lora_rank": 0,
        },
    }  # fmt: skip

    def run(pipeline: str = "chat_completion", **changes) -> list[str]:
        changes = {name: str(value).format(rows=files[pipeline]) if isinstance(value, str) else value
                   for name, value in changes.items()}  # fmt: skip
        rows = "data_train_files" if pipeline == "verl_finetune" else "train_file_path"
        given = {"pytorch_model_path": str(tiny_model), rows: str(files[pipeline]),
                 "number_of_gpu_to_use_finetuning": 0, **columns.get(pipeline, {})}  # fmt: skip
        return [text for text in decide(pipeline, {**given, **changes}).warnings if " is ignored: " in text]

    return run


NO_ADAPTER = "apply_lora is false, so all weights are trained; set apply_lora=true to use it"
# Parameters of verl with other values than their defaults, for a training without verl.
WITHOUT_VERL_GIVEN = {
    "actor_strategy": "fsdp", "actor_fsdp_config_offload_policy": False, "actor_fsdp_param_offload": True,
    "actor_fsdp_optimizer_offload": True, "actor_model_use_remove_padding": False, "rollout_dtype": "bfloat16",
    "rollout_enforce_eager": True, "rollout_enable_chunked_prefill": True, "rollout_free_cache_engine": True,
    "rollout_disable_mm_preprocessor_cache": False, "rollout_log_prob_micro_batch_size_per_gpu": 1,
    "ref_log_prob_micro_batch_size_per_gpu": 1, "ref_fsdp_param_offload": False, "rollout_name": "sglang",
    "critic_optim_lr": 1e-3, "critic_max_token_len_per_gpu": 1000, "algorithm_gamma": 0.5, "algorithm_lam": 0.5,
    "algorithm_kl_coef": 0.5, "data_image_key": "pictures", "actor_model_exclude_modules": "", "rollout_val_n": 2,
    "rollout_val_temperature": 1.0, "rollout_val_top_p": 0.5, "trainer_val_before_train": False,
}  # fmt: skip
# (pipeline, parameters, what is told).
CASES = [
    ("chat_completion", {"lora_r": 16}, [f"lora_r is ignored: {NO_ADAPTER}"]),
    (
        "chat_completion",
        {"lora_alpha": 16, "lora_dropout": 0.1, "lora_target_modules": "q_proj"},
        [f"{name} is ignored: {NO_ADAPTER}" for name in ("lora_alpha", "lora_dropout", "lora_target_modules")],
    ),
    ("text_classification", {"lora_r": 4}, [f"lora_r is ignored: {NO_ADAPTER}"]),
    ("chat_completion", {"lora_r": 16, "apply_lora": True}, []),
    ("chat_completion", {"lora_r": 8, "lora_alpha": "128"}, []),  # the defaults
    ("chat_completion", {"deepspeed_stage": "3"}, ["deepspeed_stage is ignored: apply_deepspeed is false"]),
    ("chat_completion", {"deepspeed": "zero3.json"}, ["deepspeed is ignored: apply_deepspeed is false"]),
    ("chat_completion", {"deepspeed": "false"}, []),
    (
        "chat_completion",
        {"distributed_strategy": "fsdp", "fsdp_cpu_offload": True, "fsdp_reshard_after_forward": False,
         "fsdp_transformer_layer_cls_to_wrap": "LlamaDecoderLayer"},
        [f"{name} is ignored: one process trains" for name in (
            "distributed_strategy", "fsdp_reshard_after_forward", "fsdp_cpu_offload",
            "fsdp_transformer_layer_cls_to_wrap")],
    ),
    (
        "chat_completion",
        {"distributed_strategy": "ddp", "fsdp_cpu_offload": True, "nproc_per_node_finetune": 2},
        ["fsdp_cpu_offload is ignored: distributed_strategy is ddp"],
    ),
    (
        "chat_completion",
        {"warmup_steps": 3, "warmup_ratio": 0.1},
        ["warmup_ratio is ignored: warmup_steps overrides it"],
    ),
    (
        "chat_completion",
        {"lr_scheduler_type": "constant", "warmup_ratio": 0.1},
        ["warmup_ratio is ignored: lr_scheduler_type=constant has no warmup"],
    ),
    ("chat_completion", {"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.1}, []),
    (
        "chat_completion",
        {"max_steps": 5, "num_train_epochs": 3},
        ["num_train_epochs is ignored: max_steps overrides it"],
    ),
    (
        "chat_completion",
        {"early_stopping_patience": 3, "early_stopping_threshold": 0.1},
        [
            "early_stopping_patience is ignored: apply_early_stopping is false",
            "early_stopping_threshold is ignored: apply_early_stopping is false",
        ],
    ),
    ("chat_completion", {"early_stopping_patience": 3, "apply_early_stopping": True}, []),
    ("chat_completion", {"stop_on_loss_spike": True}, []),
    (
        "grpo_chat_completion",
        {"stop_on_loss_spike": True},
        ["stop_on_loss_spike is ignored: with rewards the loss is about zero, whatever is learned"],
    ),
    ("chat_completion", {"eval_steps": 50}, ["eval_steps is ignored: evaluation_strategy is epoch"]),
    (
        "chat_completion",
        {"eval_steps": 50, "eval_strategy": "no"},
        ["eval_steps is ignored: evaluation_strategy is no"],
    ),
    ("chat_completion", {"eval_steps": 50, "eval_strategy": "steps"}, []),
    (
        "text_classification",
        {"metric_for_best_model": "accuracy", "evaluation_strategy": "no"},
        ["metric_for_best_model is ignored: evaluation_strategy is no, so the last checkpoint is the result"],
    ),
    (
        "chat_completion",
        {"logging_steps": 1, "logging_strategy": "epoch"},
        ["logging_steps is ignored: logging_strategy is epoch"],
    ),
    (
        "chat_completion",
        {"registered_model_name": "dates", "registered_model_alias": "best", "register_tuned_model": False},
        [
            "registered_model_name is ignored: register_tuned_model is false",
            "registered_model_alias is ignored: register_tuned_model is false",
        ],
    ),
    (
        "chat_completion",
        {"add_template_tokens": False},
        ["add_template_tokens is ignored: chat_template is no built-in template"],
    ),
    (
        "chat_completion",
        {"huggingface_revision": "v2"},
        ["huggingface_revision is ignored: the model is not from the Hub"],
    ),
    (
        "chat_completion",
        {"dataset_revision": "v2", "dataset_validation_split": "dev"},
        [
            "dataset_revision is ignored: dataset_name is empty",
            "dataset_validation_split is ignored: dataset_name is empty",
        ],
    ),
    ("chat_completion", {"mixing_seed": 1}, ["mixing_seed is ignored: training_data is empty"]),
    (
        "chat_completion",
        {"split": "positional", "validation_file_path": "{rows}", "test_file_path": "{rows}"},
        ["split is ignored: every split is given, so no rows are held out"],
    ),
    ("chat_completion", {"split": "positional", "test_file_path": "{rows}"}, []),
    ("chat_completion", {"delimiter": ";"}, ["delimiter is ignored: no file is csv or tsv"]),
    ("chat_completion", {"json_field": "data"}, ["json_field is ignored: no file is json"]),
    ("text_generation", {"text_separator": " "}, ["text_separator is ignored: ground_truth_key is empty"]),
    (
        "chat_completion",
        {"node_pool_label": "pool"},
        ["node_pool_label is ignored: no compute_* names a node pool"],
    ),
    ("chat_completion", {"node_pool_label": "pool", "compute_finetune": "gpus"}, []),
    (
        "chat_completion",
        {"shm_size_finetune": "6g"},
        ["shm_size_finetune is ignored: a local run has the /dev/shm of this machine"],
    ),
    (
        "chat_completion",
        {"kueue_queue_finetune": "q", "deadline_hours_finetune": 2.0, "training_runtime_finetune": "x"},
        [f"{name} is ignored: num_nodes_finetune is 1" for name in (
            "kueue_queue_finetune", "deadline_hours_finetune", "training_runtime_finetune")],
    ),
    ("chat_completion", {"shm_size_finetune": "5g", "deadline_hours_finetune": 168}, []),  # the defaults
    ("chat_completion", {"experiment_name": "mine"}, []),  # a local run has a store of its own
    ("verl_finetune", WITHOUT_VERL_GIVEN, [f"{name} is ignored: {WITHOUT_VERL[name]}" for name in WITHOUT_VERL
                                           if name in WITHOUT_VERL_GIVEN]),
    (
        "grpo_chat_completion",
        {"eval_steps": 3, "metric_for_best_model": "reward"},
        ["eval_steps is ignored: eval_strategy is no"],
    ),
    ("grpo_chat_completion", {"dataset_validation_split": "{rows}"}, []),  # a file
    ("grpo_chat_completion", {"deepspeed_config": "true"}, ["deepspeed_config is ignored: apply_deepspeed is false"]),
    (
        "grpo_chat_completion",
        {"loss_type": "sapo", "epsilon": 0.2, "epsilon_high": 0.3},
        ["epsilon is ignored: loss_type=sapo clips no ratio", "epsilon_high is ignored: loss_type=sapo clips no ratio"],
    ),
    (
        "grpo_chat_completion",
        {"loss_type": "cispo", "epsilon": 0.2, "epsilon_high": 3.0},
        ["epsilon is ignored: loss_type=cispo clips at epsilon_high only"],
    ),
    ("grpo_chat_completion", {"loss_type": "cispo", "epsilon": 0.2}, []),
    ("grpo_chat_completion", {"method": "rloo", "epsilon": 0.2, "epsilon_high": 0.3}, []),
    (
        "grpo_chat_completion",
        {"vllm_gpu_memory_utilization": 0.5, "vllm_tensor_parallel_size": 2},
        [
            "vllm_gpu_memory_utilization is ignored: no GPU is asked for",
            "vllm_tensor_parallel_size is ignored: no GPU is asked for",
        ],
    ),
    (
        "grpo_chat_completion",
        {"use_vllm": "false", "vllm_tensor_parallel_size": 2},
        ["vllm_tensor_parallel_size is ignored: use_vllm is false"],
    ),
    (
        "grpo_chat_completion",
        {"reward_timeout_seconds": 3.0},
        ["reward_timeout_seconds is ignored: no reward is a function of yours"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("pipeline", "given", "expected"), CASES)
def test_what_has_no_effect_is_named_with_the_reason(ignored, pipeline, given, expected):
    assert ignored(pipeline, **given) == expected


@pytest.mark.parametrize(
    "pipeline", ["chat_completion", "text_generation", "text_classification", "pretraining", "grpo_chat_completion"]
)
def test_of_the_defaults_nothing_is_said(ignored, pipeline):
    assert ignored(pipeline) == []


def test_without_a_server_on_a_cluster_the_experiment_is_named(ignored, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT")
    told = ignored(experiment_name="mine", register_tuned_model=False)
    assert told == ["experiment_name is ignored: no MLflow server is named, so no metrics are sent"]
    assert ignored(experiment_name="mine", mlflow_server_uri="http://m") == []


def test_a_data_set_beside_files_is_named(ignored, tmp_path):
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set/train.jsonl", chat_rows(20))
    told = ignored(dataset_name=str(tmp_path / "set"), dataset_split="all")
    assert told == ["dataset_split is ignored: the training rows are read from files"]


def test_every_rule_is_about_parameters_that_exist_and_has_a_case():
    known = {name for model in PARAMETER_MODELS.values() for name in model.model_fields}
    named = {name for rule in IGNORED for name in rule.names}
    assert named <= known
    cases = {text.split(" ")[0] for _, _, expected in CASES for text in expected}
    alone = {"trainer_n_gpus_per_node", "trainer_nnodes", "trainer_critic_warmup",
             "dataset_split", "experiment_name", "hf_mlflow_log_artifacts", "dataset_config", "dataset_test_split",
             "warmup_steps", "escapechar"}  # fmt: skip
    assert named - cases <= alone
