"""Reinforcement learning with verl, or with its parameters on a small machine."""

from typing import ClassVar

from steps.params.compute import ComputeParams
from steps.params.group import with_default
from steps.params.verl_training import VerlTrainingParameters


class VerlFinetuneParameters(VerlTrainingParameters):
    """Train a chat model with rewards of the answers that it writes, with verl."""

    instance_type_finetune: str = with_default(ComputeParams, "instance_type_finetune", "Standard_ND96isr_H100_v5")

    short_inputs: ClassVar[tuple[str, ...]] = (
        "huggingface_id", "pytorch_model_path", "data_train_files", "data_val_files", "reward_funcs",
        "data_train_batch_size", "data_max_prompt_length", "data_max_response_length", "actor_optim_lr",
        "actor_ppo_mini_batch_size", "actor_ppo_micro_batch_size_per_gpu", "rollout_n",
        "rollout_tensor_model_parallel_size", "trainer_total_epochs",
        "number_of_gpu_to_use_finetuning", "instance_type_finetune", "registered_model_name", "mlflow_server_uri",
    )  # fmt: skip
