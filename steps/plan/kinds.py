"""Whether model and parameters fit the kind of model and the method of learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steps.errors import Problem, shown
from steps.kinds.models import masked_lm, seq2seq_lm
from steps.kinds.recipe import Recipe
from steps.params.pipeline import SupervisedParameters
from steps.params.task_columns import USUAL_PREFIX
from steps.plan.seen import Seen
from steps.tasks import load_task


def asked_form(p: SupervisedParameters, chosen: Recipe, config: Mapping[str, Any]) -> dict[str, str]:
    """Give the columns' parameters that the kind of model decides: what stands around a text that an encoder reads."""
    if not chosen.kind.has_encoder:
        return {}
    prefix = getattr(p, "prompt_prefix", "")
    nothing = prefix == USUAL_PREFIX and config.get("model_type") not in seq2seq_lm.TOLD_WHAT_TO_DO
    return {"prompt_prefix": "" if nothing else prefix, "text_separator": ""}


def unfit_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse parameters that this kind of model, this method or this task would ignore."""
    p = seen.parameters
    for name, reason in {**seen.recipe.unfit, **load_task(p.task).UNFIT}.items():
        field = type(p).model_fields.get(name)
        if field is not None and getattr(p, name) != field.default:
            yield Problem("PLAN-E0102", name, shown(getattr(p, name)), f"{field.default!r} for {p.task}",
                          "leave it out", why=reason)  # fmt: skip


def kind_problems(seen: Seen) -> Iterator[Problem]:
    """Yield why the model, or the reference, is none of the kind."""
    for found in (seen.model, seen.reference):
        if found:
            yield from _kind_problems(seen, found.layout.config, found.files.parameter)


def _kind_problems(seen: Seen, config: Mapping[str, Any], source: str) -> Iterator[Problem]:
    kind, task = seen.recipe.kind, load_task(seen.parameters.task)
    model_type = config.get("model_type", "unknown")
    reads, encodes = masked_lm.made_for(config), seq2seq_lm.made_for(config)
    if encodes and not (kind.has_encoder and model_type in seq2seq_lm.MODEL_TYPES):
        name = (config.get("architectures") or [model_type])[0]
        usual = "a model that goes on from its prompt, such as Llama or Qwen: models with an encoder and a decoder are "
        yield Problem("PLAN-E0307", source, f"{name}, an encoder with a decoder",
                      f"one of the kinds {', '.join(sorted(seq2seq_lm.MODEL_TYPES))}, or a decoder"
                      if kind.has_encoder else f"{usual}for summarization and translation",
                      "name another model")  # fmt: skip
    if hasattr(task, "model_problems"):
        yield from task.model_problems(seen.parameters, seen.recipe, config)
    if kind.goes_on and reads:
        yield Problem("PLAN-E0308", source, f"a model of the type {model_type}, which reads a text as a whole",
                      f"a model that goes on from its prompt, such as Llama or Qwen, for {seen.parameters.task}",
                      "name another model")  # fmt: skip
    if kind is masked_lm.KIND and not reads:
        yield Problem("PLAN-E0309", "pretraining_objective", f"masked with a model of the type {model_type}",
                      "a model that puts back hidden tokens, such as BERT or RoBERTa",
                      "set pretraining_objective=causal, or name another model")  # fmt: skip
