"""Preference training: log-probabilities of better and worse answers.

Two groups of metrics: preference_… compare the log-probabilities that a model assigns to the better and the worse
answer. reward_… compare rewards, beta · (log-probability by the model − log-probability by the reference); the better
answer should have the higher reward. The reference is the base, whose own rewards are therefore 0: it is right in half
of the pairs, and its loss −log σ(margin) is ln 2. If the training had a separate reference, the rewards of both models
are relative to that reference, and the base's rewards are generally not 0.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from steps.artifacts import read_manifest
from steps.errors import Problem, UserError
from steps.evaluate.comparison import Comparison
from steps.evaluate.held_out import IGNORED, HeldOut, arrays, first_rows
from steps.generation.tokenizer import load_tokenizer
from steps.params.settings import EvaluationSettings
from steps.scoring.preference_metrics import Likely, score_pairs, score_rated
from steps.tasks import load_task
from steps.tasks.rules.messages import as_one_text

log = logging.getLogger("finetune")

ROWS_ANSWERED = 5  # prompts that both models answer, for the report: right preferences do not ensure good answers


def compare(
    settings: EvaluationSettings, base: Path, tuned: Path, data: Path, reference: Path | None = None
) -> Comparison:
    """Evaluate both models on the answers of the held-out rows, with `reference` or the base as reference.

    Raises as `evaluate`.
    """
    rows, tokens = first_rows(settings, data)
    names = [name.removesuffix("_ids") for name in tokens.column_names if name not in ("prompt_ids", "label")]
    if rated := names == ["completion"]:
        good = tokens["label"].to_numpy()
        _refuse_one_kind(settings.evaluation.gate_metric, good, settings.split)
    answers = {name: _sequences(tokens, name) for name in names}
    asked = arrays(tokens["prompt_ids"].slice(0, ROWS_ANSWERED))
    end = read_manifest(data, "data").facts.get("end_of_turn", "")
    before, was = _measured(base, answers, asked, end, settings)
    after, now = (before, was) if tuned == base else _measured(tuned, answers, asked, end, settings)
    against = _measured(reference, answers, [], end, settings)[0] if reference else before
    models = {"base": before, "tuned": after}
    if rated:
        scores = {
            name: score_rated(one["completion"], against["completion"], good, settings.beta)
            for name, one in models.items()
        }
    else:
        scores = {name: score_pairs(one, against, settings.beta) for name, one in models.items()}
    predictions = _predictions(settings, rows, tokens, before, after, against)
    for name, texts in (("base_answer", was), ("tuned_answer", now)):
        column = pa.array([*texts, *[None] * (len(rows) - len(texts))], pa.string())
        predictions = predictions.append_column(name, column)
    told = {
        "chat": bool(predictions["chat"].to_numpy(zero_copy_only=False).all()),
        "rated": rated,
        "beta": settings.beta,
        "own_reference": reference is not None,
        "split": settings.split,
    }
    return Comparison(scores, predictions, {"preferences": told})


def _sequences(tokens: pa.Table, name: str) -> HeldOut:
    """Join prompts and answers; the prompts have no loss."""
    prompts, answers = arrays(tokens["prompt_ids"]), arrays(tokens[f"{name}_ids"])
    pairs = list(zip(prompts, answers, strict=True))
    ids = [np.concatenate(pair) for pair in pairs]
    labels = [np.concatenate((np.full(len(prompt), IGNORED), answer)) for prompt, answer in pairs]
    return HeldOut(ids, labels, [None] * len(ids), [None] * len(ids), rendered=True)


def _measured(
    folder: Path, answers: dict[str, HeldOut], asked: list[np.ndarray], end_of_turn: str, settings: EvaluationSettings
) -> tuple[dict[str, Likely], list[str]]:
    """Compute one model's log-probabilities of all answers, and generate its answers to a few prompts.

    Raises OutOfResources if the GPU's memory is too small.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from steps.evaluate.losses import row_losses
    from steps.generation.loading import load, too_large

    started = time.monotonic()
    likely = {}
    try:
        model = load(AutoModelForCausalLM, folder, settings.precision)
        with torch.inference_mode():
            for name, held_out in answers.items():
                nll, counts = row_losses(model, held_out, settings.batch_size)
                likely[name] = Likely(-nll, counts)
            said = _answers(model, folder, asked, end_of_turn, settings) if asked else []
    except torch.OutOfMemoryError as error:
        raise too_large(folder, settings.batch_size) from error
    count = sum(map(len, answers.values()))
    log.info("measured %s on %d answers in %.1f s", folder.name, count, time.monotonic() - started)
    return likely, said


def _answers(
    model: Any, folder: Path, asked: list[np.ndarray], end_of_turn: str, settings: EvaluationSettings
) -> list[str]:
    from steps.generation.generating import answers

    tokenizer = load_tokenizer(folder)
    return answers(
        model,
        tokenizer,
        [tokenizer.decode(prompt) for prompt in asked],
        rendered=True,
        max_new_tokens=settings.evaluation.evaluation_max_new_tokens,
        batch_size=settings.batch_size,
        end_of_turn=end_of_turn,
    )


def _refuse_one_kind(metric: str, good: np.ndarray, split: str) -> None:
    if metric in ("reward_auc", "preference_auc", "reward_margin") and len(np.unique(good)) < 2:
        kind = "good" if good[0] else "bad"
        raise UserError(
            Problem("EVAL-E0208", "gate_metric", f"{metric} for {split} rows that are all {kind}",
                    "good and bad answers", f"use {split} rows of both kinds, or set gate_metric=loss")
        )  # fmt: skip


def _predictions(
    settings: EvaluationSettings,
    rows: pa.Table,
    tokens: pa.Table,
    before: dict[str, Likely],
    after: dict[str, Likely],
    against: dict[str, Likely],
) -> pa.Table:
    """Return one row for each held-out row: texts, log-probabilities, rewards or margin, and preferences."""
    module = load_task(settings.task)
    columns = module.Columns(**settings.columns)
    given = [module.training_row(row, columns) for row in rows.to_pylist()]
    made: dict[str, Any] = {
        "row": pa.array(range(len(rows)), pa.int64()),
        "chat": pa.array([type(row["prompt"]) is list for row in given], pa.bool_()),
    }
    for name in ("prompt", *before):
        made[name] = pa.array([as_one_text(row[name]) for row in given], pa.string())
    for name, likely in before.items():
        made |= {f"{name}_tokens": likely.counts, f"base_{name}_logp": likely.logps}
        made[f"tuned_{name}_logp"] = after[name].logps
        if against is not before:
            made[f"reference_{name}_logp"] = against[name].logps
    rewards = {name: settings.beta * (after[name].logps - against[name].logps) for name in before}
    if "completion" in rewards:
        made |= {"label": tokens["label"], "reward": rewards["completion"]}
    else:
        made |= {
            "margin": rewards["chosen"] - rewards["rejected"],
            "base_prefers": before["chosen"].logps > before["rejected"].logps,
            "tuned_prefers": after["chosen"].logps > after["rejected"].logps,
        }
    return pa.table(made)
