"""The settings value of each later step."""

from __future__ import annotations

from typing import Any

from steps.params.compute import WORKSPACE
from steps.params.data import Preprocessing
from steps.params.distributed import FsdpParams, Processes
from steps.params.evaluation import EvaluationParams
from steps.params.group import Group
from steps.params.lora import LoraParams
from steps.params.pipeline import SupervisedParameters
from steps.params.preference import PreferenceMethod
from steps.params.quantisation import QuantisationParams
from steps.params.registration import RegistrationParams, TrackingParams
from steps.params.reward_training import Completions, RewardTraining
from steps.params.settings import (
    DataSettings,
    EvaluationSettings,
    FinetuneSettings,
    ImportSettings,
    RegistrationSettings,
)
from steps.params.training import CheckpointParams, TrainingParams
from steps.params.verl_settings import VerlSettings
from steps.params.verl_training import BY_SOURCE
from steps.plan.deciding import Decisions
from steps.plan.generations import Generations, rewarded
from steps.plan.kinds import asked_form
from steps.plan.nodes import nodes_of
from steps.plan.verl import asked
from steps.tasks import load_task, reads_pairs


def settings_of(decisions: Decisions) -> dict[str, Group]:
    """Return one settings value for each later step, by the name of the plan's output."""
    return {
        "model": _model(decisions),
        "data": _data(decisions),
        "training": _training(decisions),
        "evaluation": _evaluation(decisions),
        "registration": _registration(decisions),
    }


def _model(decisions: Decisions) -> ImportSettings:
    new = decisions.new_tokens
    return decisions.model.settings.model_copy(update={"new_tokens": new.tokens, "padding_token": new.padding})


def _data(decisions: Decisions) -> DataSettings:
    p = decisions.parameters
    return DataSettings(
        task=p.rows_task,
        **_learned(decisions),
        columns=_columns(decisions),
        **{split: found.resolved for split, found in decisions.data.items()},
        source=decisions.source,
        processing_digest=decisions.function_digest,
        seed=p.seed,
        preprocessing=Preprocessing.of(p),
        chat_template_digest=decisions.template_digest,
        max_length=decisions.max_length,
        **_given(p, "max_target_length", "max_prompt_length", "max_completion_length"),
        reward_columns=decisions.rewards.columns if decisions.rewards else (),
        unpairs=isinstance(p, PreferenceMethod) and p.unpairs,
        rows_per_step=_rows_per_step(p),
        **_words(decisions),
    )


def _words(decisions: Decisions) -> dict[str, str]:
    """Return the pipeline for messages, if it has names of its own: nothing else of a task changes with it."""
    return {"named_by": decisions.reading.pipeline} if decisions.parameters.other_names() else {}


def _rows_per_step(p: SupervisedParameters) -> int:
    if of_verl := asked(p):
        return of_verl.data_train_batch_size
    with_rewards = rewarded(p)
    return p.sequences_per_step if with_rewards is None else Generations.of(with_rewards).prompts


def _training(decisions: Decisions) -> FinetuneSettings:
    p = decisions.parameters
    training = TrainingParams.of(p).model_copy(
        update={"gradient_checkpointing": "true" if decisions.memory.checkpointing else "false"}
    )
    nodes = nodes_of(decisions)
    writes = decisions.recipe.kind.writes_while_training and training.metric_for_best_model != "loss"
    return FinetuneSettings(
        pipeline=decisions.reading.pipeline,
        kind=decisions.recipe.kind.name,
        gpus=nodes.gpu_count if nodes else int(decisions.hardware["finetune"].gpu_count),
        processes=_processes(decisions),
        nodes=nodes,
        training=training,
        lora=LoraParams.of(p),
        quantisation=QuantisationParams.of(p),
        packing=p.packing,
        max_length=decisions.max_length,
        pad_to_max_length=p.pad_to_max_length,
        **_given(p, "mlm_probability"),
        new_weights=decisions.model.settings.new_weights,
        pads_with_end=p.missing_pad_token_strategy == "unk-convert-to-eos" and decisions.new_tokens.padding != "",
        max_new_tokens=p.evaluation_max_new_tokens if writes else 0,
        **(_given(p, "num_beams") if writes else {}),
        preference=_preference(p),
        rewarded=RewardTraining.of(p) if decisions.rewards else None,
        rewards=decisions.rewards.settings if decisions.rewards else None,
        verl=_verl(p, decisions.reading.pipeline, decisions.recipe.kind.reads_images),
        deepspeed=decisions.zero.config if decisions.zero else {},
        checkpoints=CheckpointParams.of(p).model_copy(update={"save_minutes": decisions.saves.minutes}),
        tracking=TrackingParams.of(p),
    )


def _verl(p: SupervisedParameters, pipeline: str, images: bool) -> VerlSettings | None:
    """Return the settings of verl; None where it does not train. `images`: whether prompts may have some."""
    found = asked(p)
    if found is None:
        return None
    return VerlSettings.resolved(found, images=images, project=p.experiment_name, experiment=pipeline)


def _processes(decisions: Decisions) -> Processes:
    p, strategy = decisions.parameters, decisions.choice.sharing.strategy
    return Processes(
        nodes=p.num_nodes_finetune,
        per_node=p.processes_per_node,
        strategy=strategy,
        fsdp=FsdpParams.of(p) if strategy == "fsdp" else FsdpParams(),
    )


def _evaluation(decisions: Decisions) -> EvaluationSettings:
    p = decisions.parameters
    return EvaluationSettings(
        task=p.rows_task,
        **_learned(decisions),
        columns=_columns(decisions),
        evaluation=EvaluationParams.of(p),
        options=decisions.options,
        gpus=int(decisions.hardware["evaluate"].gpu_count),
        batch_size=p.per_device_eval_batch_size,
        **_given(p, "num_beams"),
        **({} if decisions.rewards else _given(p, "beta")),
        completions=Completions.of(p) if decisions.rewards else None,
        rewards=decisions.rewards.settings if decisions.rewards else None,
        precision=p.precision,
        **_words(decisions),
    )


def _registration(decisions: Decisions) -> RegistrationSettings:
    p = decisions.parameters
    columns = _columns(decisions)
    name = p.registered_model_name or decisions.reading.pipeline
    lineage = {
        "model": _model_source(decisions),
        **_came_with(decisions),
        "data": {split: found.resolved.model_dump() for split, found in decisions.data.items()},
        "parameters": {
            name: value for name, value in p.short().items() if name not in {"overrides", *_in_workspace(p)}
        },
    }
    return RegistrationSettings(
        pipeline=decisions.reading.pipeline,
        task=p.task,
        **_learned(decisions),
        registration=RegistrationParams.of(p).model_copy(update={"registered_model_name": name}),
        tracking=TrackingParams.of(p),
        max_new_tokens=getattr(p, "max_completion_length", p.evaluation_max_new_tokens),
        **_given(p, "num_beams"),
        prompt_form=_prompt_form(p.rows_task, columns),
        system_prompt=columns.get("system_prompt", ""),
        max_length=None if decisions.recipe.kind.goes_on else decisions.max_length,
        pairs=reads_pairs(p.rows_task, columns),
        columns=columns if decisions.recipe.kind.served_columns else {},
        lineage=lineage,
    )


def _in_workspace(p: SupervisedParameters) -> set[str]:
    """Return the parameters that name a place in the run's workspace, because KFP mounts it into a task with them."""
    return {name for name, value in p if isinstance(value, str) and WORKSPACE in value}


def _model_source(decisions: Decisions) -> dict[str, str]:
    """Return the model's source, by the name of the registered model if it was found by one."""
    settings = decisions.model.settings
    return {**settings.source.model_dump(), **({"uri": settings.registered} if settings.registered else {})}


def _came_with(decisions: Decisions) -> dict[str, Any]:
    """Return the sources of the adapter and the reference model, if there are any."""
    settings = decisions.model.settings
    return {
        what: found.model_dump() for what, found in (("adapter", settings.adapter), ("reference", settings.reference))
        if found
    }  # fmt: skip


def _columns(decisions: Decisions) -> dict[str, Any]:
    p = decisions.parameters
    columns = {key: getattr(p, key) for key in load_task(p.rows_task).Columns.model_fields}
    if "data_image_key" in columns and not decisions.recipe.kind.reads_images:
        columns["data_image_key"] = ""
    if decisions.rewards and "system_prompt" in columns:
        columns["system_prompt"] = decisions.rewards.system_prompt
    if "custom_reward_function_path" in columns and decisions.rewards:
        # Any data_source is accepted where the user says what judges it. Which rewards changes no row, so that these
        # are taken from the cache.
        columns["custom_reward_function_path"] = "" if decisions.rewards.settings.rewards == [BY_SOURCE] else "given"
    return columns | asked_form(p, decisions.recipe, decisions.model.layout.config)


def _learned(decisions: Decisions) -> dict[str, str]:
    return {"kind": decisions.recipe.kind.name, "method": decisions.recipe.method.name}


def _given(p: SupervisedParameters, *names: str) -> dict[str, Any]:
    """Return those parameters that the pipeline has; the others keep the default of the settings."""
    return {name: getattr(p, name) for name in names if hasattr(p, name)}


def _preference(p: SupervisedParameters) -> PreferenceMethod | None:
    """Return the parameters of preference training without the reference's path, because import_model copies it."""
    if not isinstance(p, PreferenceMethod):
        return None
    return PreferenceMethod.of(p).model_copy(update={"reference_model_path": ""})


def _prompt_form(task: str, columns: dict[str, Any]) -> tuple[str, str]:
    """Return the text before and after a prompt; empty for tasks whose rows are complete prompts."""
    module = load_task(task)
    return module.prompt_form(module.Columns(**columns)) if hasattr(module, "prompt_form") else ("", "")
