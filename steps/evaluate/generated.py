"""Text generation: losses of the right answers, and generated answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from steps.evaluate.comparison import Comparison
from steps.evaluate.gate import refuse_unmeasurable
from steps.evaluate.guessing import guess, vocabulary_of_new
from steps.evaluate.held_out import HeldOut, Measured, read_held_out
from steps.evaluate.metrics import right_ones, score
from steps.kinds import load
from steps.params.evaluation_config import EvaluationOptions
from steps.params.settings import EvaluationSettings

log = logging.getLogger("finetune")

Engine = Callable[[Path, HeldOut, EvaluationSettings], Measured]


def compare(settings: EvaluationSettings, base: Path, tuned: Path, data: Path) -> Comparison:
    """Compute losses and answers of both models. Raises as `evaluate`."""
    held_out = read_held_out(settings, data, base)
    refuse_unmeasurable(settings.evaluation, held_out.asked, settings.split)
    measure: Engine = load(settings.recipe.kind.engine)
    vocabulary = vocabulary_of_new(base)
    before = guess(held_out, vocabulary) if vocabulary else measure(base, held_out, settings)
    measured = {"base": before, "tuned": before if tuned == base else measure(tuned, held_out, settings)}
    scores = {name: score(one, held_out.references, settings.options) for name, one in measured.items()}
    if (answers := [a for a in measured["tuned"].answers if a is not None]) and not any(a.strip() for a in answers):
        log.warning("WARNING every answer of the tuned model is empty")
    more: dict[str, Any] = {"template_tokens": held_out.template_tokens} if held_out.template_tokens else {}
    if measured["tuned"].engine:
        more["answers_by"] = measured["tuned"].engine
    return Comparison(scores, _predictions(held_out, measured, settings.options), more)


def _predictions(held_out: HeldOut, measured: dict[str, Measured], options: EvaluationOptions) -> pa.Table:
    base, tuned = measured["base"], measured["tuned"]
    columns = {
        "row": pa.array(range(len(held_out)), pa.int64()),
        "prompt": pa.array(held_out.prompts, pa.string()),
        "reference": pa.array(held_out.references, pa.string()),
        "base": pa.array(base.answers, pa.string()),
        "tuned": pa.array(tuned.answers, pa.string()),
        "base_exact": pa.array(right_ones(base.answers, held_out.references, options), pa.bool_()),
        "tuned_exact": pa.array(right_ones(tuned.answers, held_out.references, options), pa.bool_()),
        "base_loss": pa.array(base.row_losses, pa.float64()),
        "tuned_loss": pa.array(tuned.row_losses, pa.float64()),
    }
    return pa.table(columns)
