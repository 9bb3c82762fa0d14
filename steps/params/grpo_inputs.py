"""Inputs of Azure's GRPO component (seed 0) that other pipelines have under another name, or with another default."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from steps.errors import Problem, shown
from steps.params.choice import switch
from steps.params.compute import ComputeParams
from steps.params.data import DatasetSplits, FilePaths
from steps.params.group import Group, Renamed, with_default
from steps.params.lora import LoraParams
from steps.params.several import LINES
from steps.params.training import STRATEGY_NAMES, CheckpointParams, Scheduler, TrainingParams

NO_FILE = ("", "true", "false")  # of deepspeed_config


class GrpoDataset(Group):
    """Rows as files or as splits of a data set."""

    dataset_train_split: Annotated[str, LINES] = ""
    """Training rows: a file, as train_file_path; with dataset_name the name of its split, as dataset_split."""

    dataset_validation_split: Annotated[str, LINES] = ""
    """Rows for evaluation during training: a file, as validation_file_path; with dataset_name the name of its split."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse two values of what has two names, and files beside a data set."""
        pairs = (("train", "dataset_split"), ("validation", "dataset_validation_split"))
        for split, of_dataset in pairs:
            name = f"dataset_{split}_split"
            if not (asked := getattr(self, name)):
                continue
            other = of_dataset if getattr(self, "dataset_name", "") else f"{split}_file_path"
            if (value := getattr(self, other)) != asked:
                yield Problem("PARAM-E0336", name, f"{shown(asked)}, and {other}={value}", "one of them",
                              f"leave {other} out", why=f"both mean the {split} rows")  # fmt: skip
            elif other == of_dataset and ("/" in asked or asked.endswith(FILE_ENDS)):
                yield Problem("PARAM-E0337", name, f"the file {shown(asked)} with dataset_name",
                              "the name of a split of the data set",
                              "leave dataset_name out, or name the split")  # fmt: skip

    def rows_named(self) -> dict[str, str]:
        """Return the name elsewhere → the one here, of the rows that were set by the one here."""
        pairs = {"train": "dataset_split", "validation": "dataset_validation_split"}
        others = {
            split: of_dataset if getattr(self, "dataset_name", "") else f"{split}_file_path"
            for split, of_dataset in pairs.items()
        }
        asked = {other: f"dataset_{split}_split" for split, other in others.items()}
        return {
            other: name for other, name in asked.items()
            if other != name and getattr(self, name) and getattr(self, name) == getattr(self, other)
        }  # fmt: skip

    @classmethod
    def as_elsewhere(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Add the values under the names that the other pipelines have for them.

        {"dataset_train_split": "rows.jsonl"} → the same with train_file_path, or dataset_split with dataset_name
        """
        values = dict(given)
        for split in ("train", "validation"):
            named = values.get(f"dataset_{split}_split")
            of_files = f"{split}_file_path"
            if named and not values.get("dataset_name"):
                values[of_files] = values.get(of_files) or named
            elif named and split == "train" and values.get("dataset_split", USUAL_SPLIT) == USUAL_SPLIT:
                values["dataset_split"] = named
        return values


FILE_ENDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz")
USUAL_SPLIT = DatasetSplits.model_fields["dataset_split"].default
assert {"train_file_path", "validation_file_path"} <= set(FilePaths.model_fields)


class GrpoDeepSpeed(Group):
    """DeepSpeed by its file."""

    deepspeed_config: Annotated[str, BeforeValidator(switch)] = ""
    """DeepSpeed configuration file (JSON, a path or URI), with which apply_deepspeed is true; empty: the built-in."""

    # The name in the other pipelines.
    deepspeed: ClassVar[Any] = property(lambda p: "true" if p.deepspeed_config in NO_FILE else p.deepspeed_config)

    @classmethod
    def implied(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Add apply_deepspeed where a file is named."""
        named = str(given.get("deepspeed_config") or "").lower() not in NO_FILE
        return {**given, "apply_deepspeed": True} if named else given


class GrpoDefaults(Group):
    """Training, with the defaults of Azure's component."""

    eval_strategy: Annotated[Literal["no", "steps", "epoch"], STRATEGY_NAMES] = "no"
    """When to evaluate the model and write a checkpoint; with no, the model at the end is the result."""

    # The name in the other pipelines.
    evaluation_strategy: ClassVar[Any] = property(lambda p: p.eval_strategy)

    apply_lora: bool = with_default(LoraParams, "apply_lora", True)
    per_device_train_batch_size: int = with_default(TrainingParams, "per_device_train_batch_size", 8)
    per_device_eval_batch_size: int = with_default(TrainingParams, "per_device_eval_batch_size", 8)
    learning_rate: float = with_default(TrainingParams, "learning_rate", 1e-6)
    lr_scheduler_type: Scheduler = with_default(TrainingParams, "lr_scheduler_type", "cosine")
    warmup_ratio: float = with_default(TrainingParams, "warmup_ratio", 0.1)
    num_train_epochs: float = with_default(TrainingParams, "num_train_epochs", 4.0)
    logging_steps: int = with_default(TrainingParams, "logging_steps", 5)
    eval_steps: int = Field(1, ge=1)
    """Steps between evaluations with eval_strategy=steps."""

    optim: Annotated[Literal[
        "adamw_torch", "adamw_torch_fused", "adafactor", "ademamix", "sgd", "adagrad", "rmsprop", "galore_adamw",
        "grokadamw", "schedule_free_sgd",
    ], Renamed(values={"adamw_hf": "adamw_torch", "": "adamw_torch"})] = "adamw_torch"  # fmt: skip
    """Optimizer."""

    save_steps: int = with_default(CheckpointParams, "save_steps", 100)
    save_total_limit: int = with_default(CheckpointParams, "save_total_limit", 20)
    instance_type_finetune: str = with_default(ComputeParams, "instance_type_finetune", "STANDARD_ND96ISRF_H100_V5")
