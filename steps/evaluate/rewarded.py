"""Training with rewards: both models complete the held-out prompts, and the rewards of the training judge them.

The prompts are the tokens that the training's prompts are made of. Completions are written greedily, one to each
prompt, so that the result does not depend on chance. A reward is the mean over the rows that it applies to.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from steps.artifacts import read_manifest
from steps.errors import Problem, UserError
from steps.evaluate.comparison import Comparison
from steps.evaluate.completing import Completed, complete
from steps.evaluate.held_out import arrays, first_rows
from steps.params.settings import EvaluationSettings
from steps.rewards.asked import load_asked
from steps.rewards.scoring import Rewards, Scores
from steps.rewards.texts import as_table_text
from steps.tasks.rules.messages import as_one_text
from steps.tasks.rules.rewarded import as_columns, judged_row

log = logging.getLogger("finetune")

TOTAL = "reward"
AT_ONCE = 64  # completions that a reward judges together at least; its time limit is meant for a batch


def compare(settings: EvaluationSettings, base: Path, tuned: Path, data: Path) -> Comparison:
    """Complete the prompts with both models and score the completions. Raises as `evaluate`.

    Raises UserError also if a reward fails, if its file changed after the plan, or if no reward applies to any row.
    """
    assert settings.rewards is not None
    rewards = load_asked(settings.rewards)
    rows, tokens = first_rows(settings, data, ["prompt_ids"])
    facts = read_manifest(data, "data").facts
    given, columns = _given(settings, rows, facts)
    rewards.check_columns(columns)
    asked, end = arrays(tokens["prompt_ids"]), facts.get("end_of_turn", "")
    images = rows["images"].to_pylist() if settings.recipe.kind.reads_images else ()
    before = complete(base, asked, end, settings, images)
    written = {"base": before, "tuned": before if tuned == base else complete(tuned, asked, end, settings, images)}
    judged = {"base": _judged(rewards, given, columns, before, f"base model, {settings.split}", settings)}
    judged["tuned"] = judged["base"] if tuned == base else _judged(
        rewards, given, columns, written["tuned"], f"tuned model, {settings.split}", settings
    )  # fmt: skip
    _warn_of_odd_completions(written["tuned"])
    scores = {name: _scores(rewards, judged[name], written[name]) for name in written}
    _refuse_without_reward(scores, settings)
    more = {"rewards": _told(settings, rewards, scores, judged, written)}
    return Comparison(scores, _predictions(given, rewards, written, judged), more)


def _given(
    settings: EvaluationSettings, rows: pa.Table, facts: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """Return the rows, and the columns for the rewards: those of the whole data set."""
    texts = rows.select([name for name in rows.column_names if name != "images"])
    given = [judged_row(row) for row in texts.to_pylist()]
    names = facts.get("columns") or dict.fromkeys(name for row in given for name in row if name != "prompt")
    return given, as_columns(given, names)


def _judged(
    rewards: Rewards,
    given: Sequence[dict[str, Any]],
    columns: dict[str, list[Any]],
    written: Completed,
    whose: str,
    settings: EvaluationSettings,
) -> Scores:
    """Score the completions of one model, a batch at a time; `whose` tells an error's reader which ones they are."""
    size = max(settings.batch_size, AT_ONCE)
    parts = []
    for start in range(0, len(given), size):
        span = slice(start, start + size)
        completions = [[{"role": "assistant", "content": text}] for text in written.texts[span]]
        try:
            parts.append(
                rewards.score(
                    [row["prompt"] for row in given[span]],
                    completions,
                    {name: values[span] for name, values in columns.items()},
                    written.tokens[span],
                )
            )
        except UserError as error:
            where = f"completions of the {whose} rows {start + 1} to {start + len(completions)}"
            problems = [replace(problem, where=f"{problem.where} ({where})") for problem in error.problems]
            raise UserError(problems) from error
    return _joined(parts, [min(size, len(given) - start) for start in range(0, len(given), size)])


def _joined(parts: Sequence[Scores], counts: Sequence[int]) -> Scores:
    """Return the scores of all batches; a column that a reward logged in some of them is None in the others."""
    extras = sorted({name for part in parts for name in part.extra})
    return Scores(
        {name: [value for part in parts for value in part.rewards[name]] for name in parts[0].rewards},
        [value for part in parts for value in part.totals],
        {
            name: [value for part, count in zip(parts, counts, strict=True)
                   for value in part.extra.get(name, [None] * count)]
            for name in extras
        },
    )  # fmt: skip


def _scores(rewards: Rewards, judged: Scores, written: Completed) -> dict[str, float]:
    """Return the metrics of one model; a reward that applies to no row has none."""
    means = {TOTAL: _mean(judged.totals)}
    means |= {f"rewards/{one.short}": _mean(judged.rewards[one.name]) for one in rewards.rewards}
    means |= {"gen_len": _mean([len(tokens) for tokens in written.tokens]), "finished": _mean(written.finished)}
    return {name: value for name, value in means.items() if value is not None}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _refuse_without_reward(scores: dict[str, dict[str, float]], settings: EvaluationSettings) -> None:
    if none := [f"the {name} model" for name, values in scores.items() if TOTAL not in values]:
        raise UserError(
            Problem("EVAL-E0233", f"{settings.split} rows", f"no reward that applies to a completion of "
                    f"{' or '.join(none)}", "a reward for at least one row",
                    "add what the rewards need to the rows, or add a reward that always applies")
        )  # fmt: skip


def _warn_of_odd_completions(written: Completed) -> None:
    if not any(text.strip() for text in written.texts):
        log.warning("WARNING every completion of the tuned model is empty")
    elif not any(written.finished):
        log.warning("WARNING no completion of the tuned model ended within max_completion_length")


def _told(
    settings: EvaluationSettings,
    rewards: Rewards,
    scores: dict[str, dict[str, float]],
    judged: dict[str, Scores],
    written: dict[str, Completed],
) -> dict[str, Any]:
    """Return what the report says beside the metrics."""
    assert settings.completions is not None
    applies = {
        which: {name: sum(value is not None for value in values) for name, values in one.rewards.items()}
        for which, one in judged.items()
    }
    return {
        "rewards": [
            {
                "name": one.name,
                "short": one.short,
                "weight": one.weight,
                **{which: values.get(f"rewards/{one.short}") for which, values in scores.items()},
                "applies": {which: counts[one.name] for which, counts in applies.items()},
            }
            for one in rewards.rewards
        ],
        "without": {which: sum(value is None for value in one.totals) for which, one in judged.items()},
        "longest": settings.completions.max_completion_length,
        "split": settings.split,
        "engine": written["tuned"].engine,
    }


def _predictions(
    given: Sequence[dict[str, Any]], rewards: Rewards, written: dict[str, Completed], judged: dict[str, Scores]
) -> pa.Table:
    """Return one row for each held-out prompt."""
    made: dict[str, Any] = {
        "row": pa.array(range(len(given)), pa.int64()),
        "prompt": pa.array([as_one_text(row["prompt"]) for row in given], pa.string()),
        "ground_truth": pa.array([row["ground_truth"] for row in given], pa.string()),
    }
    for which, one in written.items():
        made[which] = pa.array(one.texts, pa.string())
    for which, one in written.items():
        scores = judged[which]
        made |= {
            f"{which}_reward": pa.array(scores.totals, pa.float64()),
            **{f"{which}_rewards/{reward.short}": pa.array(scores.rewards[reward.name], pa.float64())
               for reward in rewards.rewards},
            f"{which}_tokens": pa.array([len(tokens) for tokens in one.tokens], pa.int64()),
            f"{which}_finished": pa.array(one.finished, pa.bool_()),
            **{f"{which}_{name}": pa.array(list(map(as_table_text, values)), pa.string())
               for name, values in scores.extra.items()},
        }  # fmt: skip
    return pa.table(made)
