"""One settings value for each later step."""

from __future__ import annotations

from typing import Any, Literal

from steps.params.data import Preprocessing
from steps.params.evaluation import EvaluationParams
from steps.params.group import Group
from steps.params.lora import LoraParams
from steps.params.preference import PreferenceMethod
from steps.params.quantisation import QuantisationParams
from steps.params.registration import RegistrationParams, TrackingParams
from steps.params.settings import (
    DataSettings,
    EvaluationSettings,
    FinetuneSettings,
    Head,
    ImportSettings,
    RegistrationSettings,
)
from steps.params.training import CheckpointParams, TrainingParams
from steps.plan.arithmetic import sequences_per_step
from steps.plan.deciding import Decisions
from steps.plan.heads import asked_form
from steps.tasks import load_task

# What the model puts out → who trains it: a row of TRAINERS in steps/finetune.
TRAINERS: dict[Head, Literal["sft", "masked", "classification", "tagging", "answering", "dpo", "seq2seq"]] = {
    "causal_lm": "sft",
    "masked_lm": "masked",
    "sequence_classification": "classification",
    "token_classification": "tagging",
    "seq2seq_lm": "seq2seq",
    "question_answering": "answering",
    "preference_lm": "dpo",
}
# The same for the methods of learning preferences.
METHODS = {"kto": "kto", "orpo": "orpo", "cpo": "cpo", "simpo": "cpo"}
# Their input may be as long as the positions that the answer leaves.
GO_ON: tuple[Head, ...] = ("causal_lm", "preference_lm")


def trainer_of(decisions: Decisions) -> str:
    """Give the row of TRAINERS in steps/finetune that trains."""
    usual = TRAINERS[decisions.head]
    return METHODS.get(_preference(decisions).method, usual) if decisions.head == "preference_lm" else usual


def settings_of(decisions: Decisions) -> dict[str, Group]:
    """One settings value for each later step, by the name of the plan's output."""
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
        head=decisions.head,
        columns=_columns(decisions),
        **{split: found.resolved for split, found in decisions.data.items()},
        source=decisions.source,
        processing_digest=decisions.function_digest,
        seed=p.seed,
        preprocessing=Preprocessing.of(p),
        chat_template_digest=decisions.template_digest,
        max_length=decisions.max_length,
        max_target_length=getattr(p, "max_target_length", 128),
        max_prompt_length=getattr(p, "max_prompt_length", 1536),
        unpairs=_preference(decisions).unpairs,
        rows_per_step=sequences_per_step(p),
    )


def _training(decisions: Decisions) -> FinetuneSettings:
    p = decisions.parameters
    training = TrainingParams.of(p).model_copy(
        update={"gradient_checkpointing": "true" if decisions.memory.checkpointing else "false"}
    )
    writes = decisions.head == "seq2seq_lm" and training.metric_for_best_model != "loss"
    return FinetuneSettings(
        pipeline=decisions.reading.pipeline,
        trainer=trainer_of(decisions),
        training=training,
        lora=LoraParams.of(p),
        quantisation=QuantisationParams.of(p),
        packing=p.packing,
        max_length=decisions.max_length,
        pad_to_max_length=p.pad_to_max_length,
        mlm_probability=getattr(p, "mlm_probability", 0.15),
        new_weights=decisions.model.settings.new_weights,
        pads_with_end=p.missing_pad_token_strategy == "unk-convert-to-eos" and decisions.new_tokens.padding != "",
        max_new_tokens=p.evaluation_max_new_tokens if writes else 0,
        num_beams=_beams(decisions) if writes else 1,
        preference=_preference(decisions),
        deepspeed=decisions.zero.config if decisions.zero else {},
        checkpoints=CheckpointParams.of(p),
        tracking=TrackingParams.of(p),
    )


def _evaluation(decisions: Decisions) -> EvaluationSettings:
    p = decisions.parameters
    return EvaluationSettings(
        task=p.rows_task,
        head=decisions.head,
        columns=_columns(decisions),
        evaluation=EvaluationParams.of(p),
        options=decisions.options,
        batch_size=p.per_device_eval_batch_size,
        num_beams=_beams(decisions),
        beta=_preference(decisions).beta,
        precision=p.precision,
        register_tuned_model=p.register_tuned_model,
    )


def _registration(decisions: Decisions) -> RegistrationSettings:
    p = decisions.parameters
    columns = _columns(decisions)
    name = p.registered_model_name or decisions.reading.pipeline
    lineage = {
        "model": decisions.model.settings.source.model_dump(),
        **_came_with(decisions),
        "data": {split: found.resolved.model_dump() for split, found in decisions.data.items()},
        "parameters": decisions.reading.requested,
    }
    return RegistrationSettings(
        pipeline=decisions.reading.pipeline,
        task=p.task,
        head=decisions.head,
        registration=RegistrationParams.of(p).model_copy(update={"registered_model_name": name}),
        tracking=TrackingParams.of(p),
        max_new_tokens=p.evaluation_max_new_tokens,
        num_beams=_beams(decisions),
        prompt_form=_prompt_form(p.rows_task, columns),
        max_length=None if decisions.head in GO_ON else decisions.max_length,
        pairs=bool(columns.get("sentence2_key")),
        columns=columns if decisions.head == "question_answering" else {},
        lineage=lineage,
    )


def _came_with(decisions: Decisions) -> dict[str, Any]:
    """Name the adapter and the reference, where there are any."""
    settings = decisions.model.settings
    return {
        what: found.model_dump() for what, found in (("adapter", settings.adapter), ("reference", settings.reference))
        if found
    }  # fmt: skip


def _columns(decisions: Decisions) -> dict[str, Any]:
    p = decisions.parameters
    columns = {key: getattr(p, key) for key in load_task(p.rows_task).Columns.model_fields}
    return columns | asked_form(p, decisions.head, decisions.model.layout.config)


def _beams(decisions: Decisions) -> int:
    return int(getattr(decisions.parameters, "num_beams", 1))


def _preference(decisions: Decisions) -> PreferenceMethod:
    """Give how preferences are learned; where the reference came from does not matter, for import_model brings it."""
    p = decisions.parameters
    return (
        PreferenceMethod.of(p).model_copy(update={"reference_model_path": ""})
        if isinstance(p, PreferenceMethod)
        else PreferenceMethod()
    )


def _prompt_form(task: str, columns: dict[str, Any]) -> tuple[str, str]:
    """What a prompt has around the text; nothing for tasks whose rows are whole prompts."""
    module = load_task(task)
    return module.prompt_form(module.Columns(**columns)) if hasattr(module, "prompt_form") else ("", "")
