"""One settings value for each later step."""

from __future__ import annotations

from typing import Any, Literal

from steps.params.data import Preprocessing
from steps.params.evaluation import EvaluationParams
from steps.params.group import Group
from steps.params.lora import LoraParams
from steps.params.registration import RegistrationParams, TrackingParams
from steps.params.settings import DataSettings, EvaluationSettings, FinetuneSettings, RegistrationSettings
from steps.params.training import CheckpointParams, TrainingParams
from steps.plan.arithmetic import sequences_per_step
from steps.plan.deciding import Decisions
from steps.tasks import load_task

# What the model puts out (`HEAD` of the task) → who trains it: a row of TRAINERS in steps/finetune.
TRAINERS: dict[str, Literal["sft", "classification"]] = {
    "causal_lm": "sft",
    "sequence_classification": "classification",
}


def settings_of(decisions: Decisions) -> dict[str, Group]:
    """One settings value for each later step, by the name of the plan's output."""
    p = decisions.parameters
    task = p.task
    name = p.registered_model_name or decisions.reading.pipeline
    registration = RegistrationParams.of(p).model_copy(update={"registered_model_name": name})
    training = TrainingParams.of(p).model_copy(
        update={"gradient_checkpointing": "true" if decisions.memory.checkpointing else "false"}
    )
    sources = {split: found.resolved for split, found in decisions.data.items()}
    columns = {key: getattr(p, key) for key in load_task(task).Columns.model_fields}
    data = DataSettings(
        task=task,
        columns=columns,
        **sources,
        source=decisions.source,
        processing_digest=decisions.function_digest,
        seed=p.seed,
        preprocessing=Preprocessing.of(p),
        chat_template_digest=decisions.template_digest,
        max_length=decisions.max_length,
        rows_per_step=sequences_per_step(p),
    )
    finetune = FinetuneSettings(
        pipeline=decisions.reading.pipeline,
        trainer=TRAINERS[load_task(task).HEAD],
        training=training,
        lora=LoraParams.of(p),
        packing=p.packing,
        max_length=decisions.max_length,
        pad_to_max_length=p.pad_to_max_length,
        checkpoints=CheckpointParams.of(p),
        tracking=TrackingParams.of(p),
    )
    evaluation = EvaluationSettings(
        task=task,
        columns=columns,
        evaluation=EvaluationParams.of(p),
        batch_size=p.per_device_eval_batch_size,
        precision=p.precision,
        register_tuned_model=p.register_tuned_model,
    )
    lineage = {
        "model": decisions.model.settings.source.model_dump(),
        "data": {split: resolved.model_dump() for split, resolved in sources.items()},
        "parameters": decisions.reading.requested,
    }
    registered = RegistrationSettings(
        pipeline=decisions.reading.pipeline,
        task=task,
        registration=registration,
        tracking=TrackingParams.of(p),
        max_new_tokens=p.evaluation_max_new_tokens,
        prompt_form=_prompt_form(task, columns),
        max_length=None if load_task(task).HEAD in ("causal_lm", "seq2seq_lm") else decisions.max_length,
        pairs=bool(columns.get("sentence2_key")),
        lineage=lineage,
    )
    return {
        "model": decisions.model.settings,
        "data": data,
        "training": finetune,
        "evaluation": evaluation,
        "registration": registered,
    }


def _prompt_form(task: str, columns: dict[str, Any]) -> tuple[str, str]:
    """What a prompt has around the text; nothing for tasks whose rows are whole prompts."""
    module = load_task(task)
    return module.prompt_form(module.Columns(**columns)) if hasattr(module, "prompt_form") else ("", "")
