"""Combines a DeepSpeed configuration with our parameters, and checks both.

A number in the file (not "auto") overrides a parameter: batch size and accumulation always (the seed's rule), other
values only if the parameter has its default. The parameter is then set to the file's value, and the configuration to
"auto", so that the plan's arithmetic, the report and the training use the same values.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from steps.errors import Problem, UserError, shown
from steps.launch.deepspeed_config import BUILT_IN, Config, ConfigFile, normalised, offloads, read_file, zero_problems
from steps.params.batch import split_total
from steps.params.deepspeed import BUILT_IN as MEANS_BUILT_IN
from steps.params.pipeline import SupervisedParameters

BATCH = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
}
# DeepSpeed flattens all weights into one vector. These optimizers give the same result then. adafactor and grokadamw
# give another result, schedule_free_sgd is not switched to evaluation mode, and adagrad fails at the start.
FIT_OPTIMIZERS = ("adamw_hf", "adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")
# Block that must be left out or disabled → reason.
SWITCHED_OFF = {
    "amp": "it needs apex; precision=16 has the same effect",
    "autotuning": "it starts its own training runs",
    "compression_training": "it changes the model that is trained",
    "curriculum_learning": "it changes the training rows",
    "data_efficiency": "it changes the training rows",
    "elasticity": "it changes the batch size",
    "hybrid_engine": "it is for reinforcement learning",
    "progressive_layer_drop": "it changes the model that is trained",
    "quantize_training": "it changes the model that is trained",
}
# Parameter that must be false with ZeRO-3 → reason.
NOT_WITH_STAGE_3 = {
    "load_in_4bit": "ZeRO-3 cannot partition quantised weights",
    "load_in_8bit": "ZeRO-3 cannot partition quantised weights",
}


@dataclass(frozen=True)
class DeepSpeedPlan:
    """The DeepSpeed configuration of a training, and its effect on the parameters."""

    config: Config
    """The configuration for the Trainer; values that our parameters set are "auto"."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Parameters that the file overrides, with its values."""
    warnings: list[str] = field(default_factory=list)
    file: ConfigFile | None = None

    @property
    def told(self) -> str:
        """The configuration in a few words."""
        held = {"offload_optimizer": "optimizer", "offload_param": "weights"}
        on_cpu = " and ".join(word for name, word in held.items() if offloads(self.config, name))
        return f"ZeRO-{self.config['zero_optimization']['stage']}" + (f", {on_cpu} on the CPU" if on_cpu else "")


def deepspeed_plan(parameters: SupervisedParameters) -> DeepSpeedPlan | None:
    """Read and check the configuration; return None without DeepSpeed.

    Raises UserError with all its problems, and the errors of `deepspeed_config.read_file`.
    """
    if not parameters.apply_deepspeed:
        return None
    warnings: list[str] = []
    file = None
    where = f"deepspeed_stage={parameters.deepspeed_stage}"
    config = deepcopy(BUILT_IN[parameters.deepspeed_stage])
    if parameters.deepspeed not in MEANS_BUILT_IN:
        where = parameters.named("deepspeed")
        file = read_file(where, parameters.deepspeed)
        config = normalised(file.config, lambda what: warnings.append(f"deepspeed: {what}"))
    problems = [*zero_problems(config, where)]
    if problems:
        raise UserError(problems)
    # DeepSpeed's own optimizer needs a compiler; torch's gives the same result.
    config.setdefault("zero_force_ds_cpu_optimizer", False)
    merging = _Merging(parameters, config, where)
    merging.merge()
    problems += [*merging.problems, *_problems(parameters, config, where)]
    if problems:
        raise UserError(problems)
    stage = str(config["zero_optimization"]["stage"])
    if file and parameters.deepspeed_stage not in ("2", stage):
        warnings.append(f"deepspeed_stage={parameters.deepspeed_stage} is ignored: the file sets stage {stage}")
    if config["zero_force_ds_cpu_optimizer"] and offloads(config, "offload_optimizer"):
        warnings.append("deepspeed: zero_force_ds_cpu_optimizer needs a compiler where finetune runs, and half a "
                        "minute to build DeepSpeed's optimizer; torch's gives the same result without")  # fmt: skip
    return DeepSpeedPlan(config, merging.changes, warnings + merging.told, file)


class _Merging:
    """Combines the values that both the parameters and the configuration set."""

    def __init__(self, parameters: SupervisedParameters, config: Config, where: str):
        self.parameters, self.config, self.where = parameters, config, where
        self.changes: dict[str, Any] = {}
        self.told: list[str] = []
        self.problems: list[Problem] = []

    def merge(self) -> None:
        """Combine batch, clipping and 16 bit; afterwards each is "auto" or equal to the parameter."""
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
        if total and not self._fits(total, size, passes):
            size, passes = self._divided(total, size, passes)
        elif total and passes:
            size = total // (passes * devices)
        elif total:
            passes = total // ((size or p.per_device_train_batch_size) * devices)
        size, passes = size or p.per_device_train_batch_size, passes or p.gradient_accumulation_steps
        for name, value in zip(BATCH.values(), (size, passes), strict=True):
            self._take(name, value)

    def _fits(self, total: int, size: int | None, passes: int | None) -> bool:
        """Return whether a total can be made of the numbers that the file has as well, on these devices."""
        if size and passes:
            return size * passes * self.parameters.devices == total
        return total % ((passes or size or self.parameters.per_device_train_batch_size) * self.parameters.devices) == 0

    def _divided(self, total: int, size: int | None, passes: int | None) -> tuple[int | None, int | None]:
        """Divide a total that was written for another number of processes: the same rows per step, more passes."""
        devices = self.parameters.devices
        most = size or self.parameters.per_device_train_batch_size
        try:
            fitting = split_total(total, devices, most)
        except ValueError:
            self._refuse("train_batch_size", f"{total} over {devices} devices", f"a multiple of {devices}",
                         'write "auto"')  # fmt: skip
            return size, passes
        written = " × ".join(str(number) for number in (size, passes) if number)
        self.told.append(
            f"train_batch_size={total}{f' with {written}' if written else ''} is for another number of processes: "
            f"each step keeps its {total} rows, as {fitting[0]} × {fitting[1]} on {devices} device"
            f"{'s' if devices > 1 else ''}"
        )
        return fitting

    def _whole(self, key: str) -> int | None:
        """Read a number of rows or accumulation steps; None for "auto" or no value."""
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
            self._refuse("gradient_clipping", f"{value} with max_grad_norm={asked}",
                         "equal values, or only one of the two", 'write "auto"')  # fmt: skip
            return
        self._take("max_grad_norm", float(value))

    def _half(self) -> None:
        """Choose fp16 or bf16 as in the file; if the file sets neither, precision and the GPU decide."""
        asked = {name: self._enabled(name) for name in ("fp16", "bf16")}
        on, off = ([name for name, value in asked.items() if value is wanted] for wanted in (True, False))
        if len(on) == 2:
            self._refuse(
                "fp16.enabled", "true, and bf16.enabled as well", "only one of the two", 'write "auto" for both'
            )
        if "fp16" in on and not self.parameters.number_of_gpu_to_use_finetuning:
            self._refuse("fp16.enabled", "true without a GPU", "bf16", 'write "auto"', "a CPU cannot train in fp16")
        if len(off) == 2 and self.parameters.precision == "16":
            self._refuse("fp16.enabled", "false, and bf16.enabled as well, with precision=16", "at most one false",
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
            self.told.append(f"{name} is {value} instead of {asked}, as set in the DeepSpeed configuration")

    def _refuse(self, key: str, found: str, expected: str, fix: str, why: str = "") -> None:
        self.problems.append(Problem("PLAN-E0336", f"{self.where}: {key}", found, expected, fix, why=why))


def _problems(p: SupervisedParameters, config: Config, where: str) -> Iterator[Problem]:
    """Yield problems with settings that would change the training from the plan, or that do not work."""
    for name, reason in SWITCHED_OFF.items():
        block = config.get(name)
        if block is True or (isinstance(block, dict) and block.get("enabled") is True):
            yield Problem("PLAN-E0337", f"{where}: {name}", "enabled", "no value, or false",
                          "leave it out", why=reason)  # fmt: skip
    if p.optim not in FIT_OPTIMIZERS:
        yield Problem("PLAN-E0338", "optim", f"{p.optim} with apply_deepspeed=true",
                      f"one of {', '.join(FIT_OPTIMIZERS[1:])}",
                      "set optim=adamw_torch, or apply_deepspeed=false",
                      why="DeepSpeed flattens the weights, with which other optimizers train differently or "
                      "fail")  # fmt: skip
    if config["zero_optimization"]["stage"] == 3:
        for name, reason in NOT_WITH_STAGE_3.items():
            if getattr(p, name, False):
                yield Problem("PLAN-E0339", name, "true with ZeRO-3", "false",
                              "set deepspeed_stage=2, or leave it out", why=reason)  # fmt: skip
