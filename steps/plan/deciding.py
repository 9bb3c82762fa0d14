"""Every check that needs no GPU, and every choice, in one pass that gathers all problems."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from steps.errors import Problem, StepError, UserError, nearest, shown
from steps.params.data import DataSource
from steps.params.evaluation_config import EvaluationOptions
from steps.params.packages import packages_of
from steps.params.pipelines import PARAMETER_MODELS, SupervisedParameters
from steps.params.preference import PreferenceMethod
from steps.params.reading import Reading, defaults, read_parameters
from steps.params.settings import Head
from steps.params.training import NO_MODEL_ARGS
from steps.plan.adapters import adapter_problems
from steps.plan.batch_rule import resolved
from steps.plan.deepspeed import DeepSpeedPlan, deepspeed_plan, ignored
from steps.plan.evaluation_options import evaluation_options
from steps.plan.hardware import Hardware, hardware_of
from steps.plan.heads import head_of, head_problems
from steps.plan.input_adapter import continued
from steps.plan.memory import GIB, MemoryEstimate, estimate
from steps.plan.new_tokens import NewTokens, look_for_new_tokens
from steps.plan.packages import missing_here
from steps.plan.soft_prompts import soft_prompt_problems, virtual_tokens
from steps.plan.sources import (
    DataFound,
    ModelFound,
    function_digest,
    look_at_data,
    look_at_model,
    look_at_reference,
    pinned_source,
    template_digest,
    with_reference,
)
from steps.plan.unbuilt import unbuilt
from steps.plan.unfit import unfit
from steps.sources.storage import local_path
from steps.tracking.target import MEANS_OFF, is_off, store_of

LOCAL_ROOT = "FINETUNE_ROOT"
WINDOW = 384  # tokens; attention grows with the square, and windows overlap anyway
T = TypeVar("T")


@dataclass(frozen=True)
class Decisions:
    """Everything that was found out and chosen."""

    reading: Reading
    head: Head
    model: ModelFound
    new_tokens: NewTokens
    data: dict[str, DataFound]
    source: DataSource
    template_digest: str
    function_digest: str
    options: EvaluationOptions
    hardware: dict[str, Hardware]
    memory: MemoryEstimate
    max_length: int
    warnings: list[str]
    reference: ModelFound | None = None
    """What preferences are measured against, where it is not the model itself."""
    zero: DeepSpeedPlan | None = None
    """How DeepSpeed trains, where it does."""

    @property
    def parameters(self) -> SupervisedParameters:
        """The effective parameters."""
        return training_parameters(self.reading)


def decide(pipeline: str, arguments: dict[str, Any]) -> Decisions:
    """Make every check that needs no GPU, and every choice.

    Raises UserError with everything that is the user's to mend; else the first refusal or outage.
    """
    reading = read_parameters(pipeline, asked_for(pipeline, arguments))
    parameters = training_parameters(reading)
    trouble = Trouble([*unbuilt(parameters), *_runtime_conflicts(parameters), *_package_problems(parameters)])
    zero = trouble.gather(lambda: deepspeed_plan(parameters))
    if zero and zero.changes:
        parameters = parameters.model_copy(update=zero.changes)
    asked = parameters
    parameters = trouble.gather(lambda: resolved(asked)) or parameters
    if parameters is not reading.parameters:
        trouble.problems += parameters.all_conflicts()  # a method may not learn from the batch that came out
        reading = replace(reading, parameters=parameters)
    model = trouble.gather(lambda: look_at_model(parameters))
    head = head_of(parameters, model.layout.config if model else {})
    trouble.problems += unfit(parameters, head)
    if model and model.adapter and parameters.adapter_use == "continue":
        adapter = model.adapter
        asked = parameters
        parameters = trouble.gather(lambda: continued(asked, adapter)) or parameters
        trouble.problems += [one for one in parameters.all_conflicts() if one not in trouble.problems]
        reading = replace(reading, parameters=parameters)
    data = trouble.gather(lambda: look_at_data(parameters))
    hardware = trouble.gather(lambda: hardware_of(parameters))
    source = trouble.gather(lambda: pinned_source(parameters))
    template = trouble.gather(lambda: template_digest(parameters))
    function = trouble.gather(lambda: function_digest(parameters))
    options = trouble.gather(lambda: evaluation_options(parameters, head))
    judged = _judge(parameters, head, model, trouble) if model else None
    trouble.raise_if_any()
    assert judged is not None
    assert data is not None
    assert source is not None
    assert hardware is not None
    assert options is not None
    model, reference, new_tokens = judged
    max_length = parameters.max_seq_length if parameters.max_seq_length > 0 else usual_length(parameters, head, model)
    gpu_memory = 0 if runs_here() else hardware["finetune"].gpu_memory
    memory = estimate(
        parameters,
        head,
        model.layout.config,
        model.parameters,
        max_length,
        gpu_memory,
        reference=reference.parameters if reference else 0,
        zero=zero.config["zero_optimization"] if zero else None,
    )
    warnings = [*_warnings(reading, memory), *new_tokens.warnings]
    warnings += [warning for found in data.values() for warning in found.warnings]
    warnings += model.adapter.warnings if model.adapter else ()
    warnings += zero.warnings if zero else ignored(parameters)
    warnings += _cpu_memory_warnings(memory, hardware["finetune"])
    looked = (head, model, new_tokens, data, source, template or "", function or "", options)
    return Decisions(reading, *looked, hardware, memory, max_length, warnings, reference, zero)


def _judge(
    p: SupervisedParameters, head: Head, model: ModelFound, trouble: Trouble
) -> tuple[ModelFound, ModelFound | None, NewTokens]:
    """Make the checks that ask the model, and give what goes with it: its reference, and the tokens it gets."""
    config, named = model.layout.config, model.files.parameter
    trouble.problems += _length_problems(p, head, model)
    new_tokens = trouble.gather(lambda: look_for_new_tokens(p, head, model)) or NewTokens()
    trouble.problems += _model_args_problems(p, config)
    trouble.problems += head_problems(p, head, config, named)
    trouble.problems += adapter_problems(p, config, named)
    trouble.problems += soft_prompt_problems(p, head, model.layout.max_positions)
    reference = trouble.gather(lambda: look_at_reference(p, model))
    if reference:
        trouble.problems += head_problems(p, head, reference.layout.config, reference.files.parameter)
    return with_reference(model, reference), reference, new_tokens


def training_parameters(reading: Reading) -> SupervisedParameters:
    """Give the parameters of a pipeline that trains."""
    assert isinstance(reading.parameters, SupervisedParameters)
    return reading.parameters


def usual_length(p: SupervisedParameters, head: Head, model: ModelFound) -> int:
    """Give the longest input where none is asked for: the model's own limit, for windows of a context at most 384.

    A learned prompt takes its positions from it.
    """
    limit = model.layout.max_length
    if positions := model.layout.max_positions:
        limit = min(limit, positions - virtual_tokens(p))
    return min(limit, WINDOW) if head == "question_answering" else limit


def asked_for(pipeline: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Leave out what has its default: KFP passes every parameter, and nobody asked for these."""
    known = defaults(PARAMETER_MODELS[pipeline]) if pipeline in PARAMETER_MODELS else {}
    return {name: value for name, value in arguments.items() if name not in known or value != known[name]}


def runs_here() -> bool:
    """Whether a local runner started this process: it keeps checkpoints and an MLflow store in its own root."""
    return LOCAL_ROOT in os.environ


class Trouble:
    """Problems of several independent looks; one failing look does not hide what the others find."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        self.harder: list[StepError] = []

    def gather(self, look: Callable[[], T]) -> T | None:
        try:
            return look()
        except UserError as error:
            self.problems += error.problems
        except StepError as error:
            self.harder.append(error)
        return None

    def raise_if_any(self) -> None:
        if self.problems:
            raise UserError(self.problems)
        if self.harder:
            raise self.harder[0]


def _runtime_conflicts(p: SupervisedParameters) -> list[Problem]:
    """What depends on where the pipeline runs."""
    problems = []
    here = runs_here()
    if p.checkpoint_dir and local_path(p.checkpoint_dir) is None:
        problems.append(
            Problem("PLAN-E0301", "checkpoint_dir", p.checkpoint_dir, "a folder on a mounted volume",
                    "mount the bucket or a volume claim, and name its path")
        )  # fmt: skip
    if p.resume_from_checkpoint != "false" and not (p.checkpoint_dir or here):
        problems.append(
            Problem("PLAN-E0302", "resume_from_checkpoint", f"{p.resume_from_checkpoint} without checkpoint_dir",
                    "a folder that outlives the pod", "set checkpoint_dir to a mounted volume")
        )  # fmt: skip
    if p.register_tuned_model and not (p.mlflow_server_uri or os.environ.get("MLFLOW_TRACKING_URI") or here):
        problems.append(
            Problem("PLAN-E0303", "mlflow_server_uri", "nothing, and no MLFLOW_TRACKING_URI in the environment",
                    "the MLflow server that gets the version", "set it, or register_tuned_model=false")
        )  # fmt: skip
    return problems


def _model_args_problems(p: SupervisedParameters, config: dict[str, Any]) -> list[Problem]:
    """What model_args names must be there: the library would hand it to the model's class, which fails on a GPU."""
    problems = []
    if p.attn_implementation == "flash_attention_2" and not p.number_of_gpu_to_use_finetuning:
        problems.append(
            Problem("PLAN-E0316", "attn_implementation", "flash_attention_2 without a GPU", "auto, eager or sdpa",
                    "leave it out")
        )  # fmt: skip
    for name in p.model_args:
        if name not in config and name not in NO_MODEL_ARGS:
            fix = nearest(name, config) or "see the model's config.json"
            problems.append(Problem("PLAN-E0317", f"model_args.{name}", shown(p.model_args[name]),
                                    "a value that the model's configuration has", fix))  # fmt: skip
    return problems


def _package_problems(p: SupervisedParameters) -> list[Problem]:
    """What is not installed where training would run: the image has everything, this machine may not."""
    return [
        Problem("PLAN-E0311", where, f"{value}, but the package {package} is missing", f"{package} installed",
                f"install it (pip install {package}), or {otherwise}")
        for where, value, package, otherwise in packages_of(p, p, p.apply_deepspeed)
        if missing_here(package)
    ]  # fmt: skip


def _length_problems(p: SupervisedParameters, head: Head, model: ModelFound) -> list[Problem]:
    limit = model.layout.max_positions
    if p.max_seq_length == 0:
        return [Problem("PLAN-E0306", "max_seq_length", "0", "-1 or a positive number", "leave it out")]
    names = ["max_seq_length", *(["max_target_length"] if head == "seq2seq_lm" else [])]
    long = [
        Problem("PLAN-E0305", name, str(getattr(p, name)), f"at most {limit}, the model's positions",
                f"set {name}={limit}")
        for name in names
        if limit and getattr(p, name) > limit
    ]  # fmt: skip
    if long:
        return long
    return list(_prompt_problems(p, p.max_seq_length if p.max_seq_length > 0 else model.layout.max_length))


def _prompt_problems(p: SupervisedParameters, limit: int) -> Iterator[Problem]:
    """A prompt that may fill the whole row leaves no room for the answer; the default just has no effect then."""
    if not isinstance(p, PreferenceMethod) or p.max_prompt_length < limit:
        return
    if p.max_prompt_length != PreferenceMethod.model_fields["max_prompt_length"].default:
        yield Problem("PLAN-E0321", "max_prompt_length", str(p.max_prompt_length),
                      f"less than {limit}, the longest row: the answer stands behind the prompt",
                      "lower it, or raise max_seq_length")  # fmt: skip


def _cpu_memory_warnings(memory: MemoryEstimate, hardware: Hardware) -> list[str]:
    """What DeepSpeed moves off the GPU must fit beside it."""
    there = int(hardware.memory.removesuffix("Gi"))
    if runs_here() or memory.on_cpu < there * GIB:
        return []
    return [f"DeepSpeed puts {memory.on_cpu / GIB:.0f} GiB into the CPU's memory, where finetune has {there} GiB: "
            "choose a larger instance_type_finetune"]  # fmt: skip


def _warnings(reading: Reading, memory: MemoryEstimate) -> list[str]:
    warnings, parameters = reading.warnings, training_parameters(reading)
    if is_off():
        warnings.append(f"{MEANS_OFF} is set: metrics go into history.json and the reports only; "
                        "the tuned model is registered all the same")  # fmt: skip
    if (store := store_of(parameters.mlflow_server_uri)) != parameters.mlflow_server_uri:
        warnings.append(f"mlflow_server_uri: {store} is used, for MLflow 3 keeps nothing in plain folders")
    if parameters.warmup_steps and parameters.warmup_ratio:
        warnings.append("warmup_ratio is ignored: warmup_steps wins over it")
    if memory.available is not None and memory.needed > memory.available:
        warnings.append(
            f"finetune is expected to need {memory.needed / GIB:.1f} GiB of GPU memory where "
            f"{memory.available / GIB:.1f} GiB are usable: lower per_device_train_batch_size or max_seq_length, or "
            "set apply_lora=true"
        )
    return warnings
