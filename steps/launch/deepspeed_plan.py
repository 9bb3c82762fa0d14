"""Merges a DeepSpeed configuration with the parameters and refuses unsupported combinations.

A value in the file other than "auto" overrides the parameter: always for batch size and accumulation, as in the
original pipelines, and otherwise only if the parameter has its default. The parameter is then set to the file's value
and the configuration to "auto", so that the plan's arithmetic, the report and the training use the same values.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from steps.errors import Problem, UserError, shown
from steps.launch.deepspeed_config import BUILT_IN, Config, ConfigFile, normalised, offloads, read_file, zero_problems
from steps.params.deepspeed import BUILT_IN as MEANS_BUILT_IN
from steps.params.pipeline import SupervisedParameters

BATCH = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
}
# DeepSpeed flattens all weights into one vector, with which these optimizers compute the same. adafactor and grokadamw
# compute something else, schedule_free_sgd is not switched to evaluation mode, adagrad does not start.
FIT_OPTIMIZERS = ("adamw_hf", "adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")
# Blocks that must not be switched on → reason.
SWITCHED_OFF = {
    "amp": "it needs apex; set precision=16 instead",
    "autotuning": "it starts separate training runs",
    "compression_training": "it changes the model that the plan describes",
    "curriculum_learning": "it changes the rows that the plan counts",
    "data_efficiency": "it changes the rows that the plan counts",
    "elasticity": "it changes the batch size",
    "hybrid_engine": "it is for reinforcement learning",
    "nebula": "it is a service of one cloud provider; checkpoint_dir sets the location of checkpoints",
    "progressive_layer_drop": "it changes the model that the plan describes",
    "quantize_training": "it changes the model that the plan describes",
    "tensorboard": "metrics go to MLflow",
    "wandb": "metrics go to MLflow",
    "csv_monitor": "metrics go to MLflow",
    "comet": "metrics go to MLflow",
}
# Parameters that are unsupported with ZeRO-3, which cannot partition quantised weights.
NOT_WITH_STAGE_3 = ("load_in_4bit", "load_in_8bit")


@dataclass(frozen=True)
class DeepSpeedPlan:
    """The DeepSpeed configuration with which a run will train."""

    config: Config
    """The configuration for the Trainer; values set by parameters are "auto"."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Parameters that are set to the file's value."""
    warnings: list[str] = field(default_factory=list)
    file: ConfigFile | None = None

    @property
    def told(self) -> str:
        """Short description for the plan: ZeRO stage and offloading."""
        held = {"offload_optimizer": "optimizer", "offload_param": "weights"}
        on_cpu = " and ".join(word for name, word in held.items() if offloads(self.config, name))
        return f"ZeRO-{self.config['zero_optimization']['stage']}" + (f", {on_cpu} on the CPU" if on_cpu else "")


def deepspeed_plan(parameters: SupervisedParameters) -> DeepSpeedPlan | None:
    """Read and check the configuration; return None without DeepSpeed.

    Raises UserError with every problem of the configuration, and the errors of `deepspeed_config.read_file`.
    """
    if not parameters.apply_deepspeed:
        return None
    warnings: list[str] = []
    file = None
    where = f"deepspeed_stage={parameters.deepspeed_stage}"
    config = deepcopy(BUILT_IN[parameters.deepspeed_stage])
    if parameters.deepspeed not in MEANS_BUILT_IN:
        where = "deepspeed"
        file = read_file("deepspeed", parameters.deepspeed)
        config = normalised(file.config, lambda what: warnings.append(f"deepspeed: {what}"))
    problems = [*zero_problems(config, where)]
    if problems:
        raise UserError(problems)
    config.setdefault("zero_force_ds_cpu_optimizer", False)  # DeepSpeed's own needs a compiler; torch's does the same
    merging = _Merging(parameters, config, where)
    merging.merge()
    problems += [*merging.problems, *_problems(parameters, config, where)]
    if problems:
        raise UserError(problems)
    stage = str(config["zero_optimization"]["stage"])
    if file and parameters.deepspeed_stage not in ("2", stage):
        warnings.append(f"deepspeed_stage={parameters.deepspeed_stage} is ignored: the file has stage {stage}")
    if config["zero_force_ds_cpu_optimizer"] and offloads(config, "offload_optimizer"):
        warnings.append("deepspeed: zero_force_ds_cpu_optimizer needs a compiler in the image of finetune, and half a "
                        "minute to build DeepSpeed's optimizer; without it, torch's optimizer computes the same"
                        )  # fmt: skip
    return DeepSpeedPlan(config, merging.changes, warnings + merging.told, file)


def ignored(parameters: SupervisedParameters) -> list[str]:
    """Return a warning for each DeepSpeed parameter that is set without apply_deepspeed."""
    if parameters.apply_deepspeed:
        return []
    given = {"deepspeed": parameters.deepspeed not in (*MEANS_BUILT_IN, "false"),
             "deepspeed_stage": parameters.deepspeed_stage != "2"}  # fmt: skip
    return [f"{name} is ignored: apply_deepspeed is false" for name, is_given in given.items() if is_given]


class _Merging:
    """Merges the values that both the configuration and the parameters set."""

    def __init__(self, parameters: SupervisedParameters, config: Config, where: str):
        self.parameters, self.config, self.where = parameters, config, where
        self.changes: dict[str, Any] = {}
        self.told: list[str] = []
        self.problems: list[Problem] = []

    def merge(self) -> None:
        """Merge batch size, clipping and 16 bit; afterwards each is "auto" or equals the parameter."""
        self._batch()
        self._clipping()
        self._half()

    def _batch(self) -> None:
        p, devices = self.parameters, self.parameters.devices
        named = {key: self._whole(key) for key in ("train_batch_size", *BATCH)}
        for key in named:
            self.config[key] = "auto"
        if not any(named.values()) or self.problems:
            return
        if p.total_train_batch_size:
            key = next(key for key, value in named.items() if value)
            self._refuse(key, f"{named[key]} with total_train_batch_size={p.total_train_batch_size}",
                         "only one setting of the batch size", f'write "{key}": "auto"')  # fmt: skip
            return
        total, size, passes = named.values()
        if total and not (size and passes):
            # Compute the missing one of the other two: the size per device if only the accumulation steps are given.
            other = (passes or 1) * devices if passes else (size or p.per_device_train_batch_size) * devices
            follows, left = divmod(total, other)
            if left or not follows:
                self._refuse("train_batch_size", f"{total}, not divisible by {other}",
                             f"a multiple of {other}", 'write "auto"')  # fmt: skip
                return
            size, passes = (follows, passes) if passes else (size, follows)
        size, passes = size or p.per_device_train_batch_size, passes or p.gradient_accumulation_steps
        if total and size * passes * devices != total:
            self._refuse("train_batch_size", f"{total} with {size} × {passes} × {devices} devices",
                         str(size * passes * devices), 'write "auto"')  # fmt: skip
            return
        for name, value in zip(BATCH.values(), (size, passes), strict=True):
            self._take(name, value)

    def _whole(self, key: str) -> int | None:
        """Read a batch size or a number of accumulation steps; return None for "auto" or no value."""
        value = self.config.get(key)
        if value is None or value == "auto":
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value != int(value):
            self._refuse(key, shown(value), 'a positive whole number, or "auto"', 'write "auto"')
            return None
        return int(value)

    def _clipping(self) -> None:
        value = self.config.get("gradient_clipping")
        self.config["gradient_clipping"] = "auto"
        if value is None or value == "auto":
            return
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            self._refuse("gradient_clipping", shown(value), 'a number, or "auto"', 'write "auto"')
            return
        asked, usual = self.parameters.max_grad_norm, type(self.parameters).model_fields["max_grad_norm"].default
        if asked not in (value, usual):
            self._refuse("gradient_clipping", f"{value} with max_grad_norm={asked}", "the same, or one of the two",
                         'write "auto"')  # fmt: skip
            return
        self._take("max_grad_norm", float(value))

    def _half(self) -> None:
        """Merge fp16 and bf16: the file selects one of them, otherwise precision and the GPU do."""
        asked = {name: self._enabled(name) for name in ("fp16", "bf16")}
        on, off = ([name for name, value in asked.items() if value is wanted] for wanted in (True, False))
        if len(on) == 2:
            self._refuse("fp16.enabled", "true, and bf16.enabled too", "one of the two", 'write "auto" for both')
        if "fp16" in on and not self.parameters.number_of_gpu_to_use_finetuning:
            self._refuse(
                "fp16.enabled", "true without a GPU", "bf16, the only 16-bit type supported on a CPU", 'write "auto"'
            )
        if len(off) == 2 and self.parameters.precision == "16":
            self._refuse("fp16.enabled", "false, and bf16.enabled too, with precision=16", "at most one of them false",
                         'write "auto" for both, or set precision=32')  # fmt: skip
        if on:
            self._take("precision", "16")
        for name in asked:
            half = self.parameters.precision == "16" or bool(on)
            the_other_is = next(value for other, value in asked.items() if other != name)
            if not half:
                self.config[name]["enabled"] = False
            elif asked[name] == "auto" and the_other_is != "auto":
                self.config[name]["enabled"] = not the_other_is

    def _enabled(self, name: str) -> bool | str:
        block = self.config.setdefault(name, {"enabled": "auto"})
        value = block.setdefault("enabled", False) if isinstance(block, dict) else block
        if not isinstance(value, bool) and value != "auto":
            self._refuse(f"{name}.enabled", shown(value), 'true, false or "auto"', 'write "auto"')
            self.config[name] = {"enabled": "auto"}
            return "auto"
        return value

    def _take(self, name: str, value: Any) -> None:
        asked = getattr(self.parameters, name)
        if value != asked:
            self.changes[name] = value
            self.told.append(f"{name} is {value} and not {asked}, because the DeepSpeed configuration sets it")

    def _refuse(self, key: str, found: str, expected: str, fix: str) -> None:
        self.problems.append(Problem("PLAN-E0336", f"{self.where}: {key}", found, expected, fix))


def _problems(p: SupervisedParameters, config: Config, where: str) -> Iterator[Problem]:
    """Refuse settings with which DeepSpeed would not train as the plan describes, or not start."""
    for name, reason in SWITCHED_OFF.items():
        block = config.get(name)
        if block is True or (isinstance(block, dict) and block.get("enabled") is True):
            yield Problem("PLAN-E0337", f"{where}: {name}", "switched on", "no such block, or false", "leave it out",
                          why=reason)  # fmt: skip
    if p.optim not in FIT_OPTIMIZERS:
        yield Problem("PLAN-E0338", "optim", f"{p.optim} with apply_deepspeed=true",
                      f"one of {', '.join(FIT_OPTIMIZERS[1:])}", "set optim=adamw_torch, or apply_deepspeed=false",
                      why="DeepSpeed flattens the weights, and only these optimizers compute the same then"
                      )  # fmt: skip
    if config["zero_optimization"]["stage"] == 3:
        for name in NOT_WITH_STAGE_3:
            if getattr(p, name, False):
                yield Problem("PLAN-E0339", name, "true with ZeRO-3", "false",
                              "set deepspeed_stage=2, or leave it out",
                              why="ZeRO-3 cannot partition quantised weights")  # fmt: skip
