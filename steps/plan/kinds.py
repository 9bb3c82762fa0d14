"""Check that model and parameters fit the kind of model and the training method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steps.errors import Problem, nearest, shown
from steps.kinds.models import masked_lm, seq2seq_lm
from steps.kinds.recipe import Recipe
from steps.models.known_types import known_types
from steps.params.pipeline import SupervisedParameters
from steps.params.task_columns import USUAL_PREFIX
from steps.plan.images import text_problems
from steps.plan.seen import Seen
from steps.tasks import load_task


def asked_form(p: SupervisedParameters, chosen: Recipe, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the prompt format for encoder-decoder models, which overrides the parameters; empty for other kinds."""
    if not chosen.kind.has_encoder:
        return {}
    prefix = getattr(p, "prompt_prefix", "")
    unused = prefix == USUAL_PREFIX and config.get("model_type") not in seq2seq_lm.TOLD_WHAT_TO_DO
    return {"prompt_prefix": "" if unused else prefix, "text_separator": ""}


def unfit_problems(seen: Seen) -> Iterator[Problem]:
    """Yield a problem for each parameter that has no effect for this kind of model, method or task."""
    p = seen.parameters
    for name, reason in {**seen.recipe.unfit, **load_task(p.task).UNFIT}.items():
        field = type(p).model_fields.get(name)
        if field is not None and getattr(p, name) != field.default:
            yield Problem("PLAN-E0102", name, shown(getattr(p, name)), f"{field.default!r} for {p.task}",
                          "leave it out", why=reason)  # fmt: skip


def kind_problems(seen: Seen) -> Iterator[Problem]:
    """Yield problems if the model or the reference model is of another kind."""
    for found in (seen.model, seen.reference):
        if found:
            yield from _kind_problems(seen, found.layout.config, found.files.parameter)


def _kind_problems(seen: Seen, config: Mapping[str, Any], source: str) -> Iterator[Problem]:
    kind, task = seen.recipe.kind, load_task(seen.parameters.task)
    model_type = config.get("model_type", "unknown")
    if known_types() and model_type not in known_types():
        yield Problem("MODEL-E0129", f"{source}: model_type", shown(model_type), "an architecture that the installed "
                      "transformers knows", nearest(model_type, known_types()) or "name another model")  # fmt: skip
    reads, encodes = masked_lm.made_for(config), seq2seq_lm.made_for(config)
    if encodes and not (kind.has_encoder and model_type in seq2seq_lm.MODEL_TYPES):
        name = (config.get("architectures") or [model_type])[0]
        supported = f"one of the types {', '.join(sorted(seq2seq_lm.MODEL_TYPES))}, or a decoder-only model"
        usual = "a decoder-only model, such as Llama or Qwen"
        yield Problem("PLAN-E0307", source, f"{name}, an encoder-decoder model",
                      supported if kind.has_encoder else usual, "name another model",
                      why="" if kind.has_encoder else "encoder-decoder models are only used with summarization and "
                      "translation")  # fmt: skip
    yield from text_problems(kind.reads_images, config, source)
    if hasattr(task, "model_problems"):
        yield from task.model_problems(seen.parameters, seen.recipe, config)
    if kind.goes_on and reads:
        yield Problem("PLAN-E0308", source, f"a model of type {model_type}, a masked language model",
                      f"a decoder-only model, such as Llama or Qwen, for {seen.parameters.task}",
                      "name another model")  # fmt: skip
    if kind is masked_lm.KIND and not reads:
        yield Problem("PLAN-E0309", "pretraining_objective", f"masked with a model of type {model_type}",
                      "a masked language model, such as BERT or RoBERTa",
                      "set pretraining_objective=causal, or name another model")  # fmt: skip
