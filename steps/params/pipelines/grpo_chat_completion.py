"""Training a chat model with rewards of the answers that it writes."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator

from steps.params.chat_columns import GrpoColumns
from steps.params.grpo_inputs import GrpoDataset, GrpoDeepSpeed, GrpoDefaults
from steps.params.pipeline import COMMON_INPUTS
from steps.params.rewarded import RewardedParameters
from steps.params.wording import with_values

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

    @property
    def names_told(self) -> dict[str, str]:
        """What messages say in place of other names: the rows have two, of which one was set."""
        return {**self.other_names(), **with_values(self.rows_named())}
