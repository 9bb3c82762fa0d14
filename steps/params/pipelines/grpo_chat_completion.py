"""Training a chat model with rewards of the answers that it writes."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator

from steps.params.chat_columns import GrpoColumns
from steps.params.grpo_inputs import GrpoDataset, GrpoDeepSpeed, GrpoDefaults
from steps.params.pipeline import COMMON_INPUTS
from steps.params.rewarded import RewardedParameters

# Without effect here, or with one choice, or needed less often than what is below.
NOT_SHORT = ("max_seq_length", "gate_metric", "total_train_batch_size")


class GrpoChatCompletionParameters(
    GrpoColumns,
    GrpoDataset,
    GrpoDeepSpeed,
    GrpoDefaults,
    RewardedParameters,
):
    """Train a chat model with rewards of the answers that it writes (GRPO)."""

    task: ClassVar[str] = "grpo"
    own_names: ClassVar[Mapping[str, str]] = {
        "evaluation_strategy": "eval_strategy",
        "deepspeed": "deepspeed_config",
    }
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (
        RewardedParameters.needed[0],
        ("train_file_path", "dataset_train_split", "dataset_name"),
    )
    short_inputs: ClassVar[tuple[str, ...]] = (
        *(name for name in COMMON_INPUTS if name not in NOT_SHORT),
        "reward_funcs", "reward_weights", "system_prompt", "num_generations", "max_completion_length",
        "per_device_train_batch_size", "gradient_accumulation_steps",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _as_elsewhere(cls, given: Any) -> Any:
        """Read inputs that mean what others mean, so that only these are looked at later."""
        return GrpoDeepSpeed.implied(GrpoDataset.as_elsewhere(given)) if isinstance(given, dict) else given

    def asked_as(self, name: str) -> str:
        """Return the parameter that the user set in place of this one: the rows have two names."""
        split = next((split for split in ("train", "validation") if name == f"{split}_file_path"), "")
        asked = f"dataset_{split}_split"
        return asked if split and not self.dataset_name and getattr(self, asked) else name
