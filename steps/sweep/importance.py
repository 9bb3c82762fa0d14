"""How much each parameter of a sweep explains of the differences between its trials, by Optuna's fANOVA."""

from __future__ import annotations

import json
import math
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TRIALS_PER_PARAMETER = 4  # with fewer finished trials, the forest of fANOVA mostly shows its own randomness
SEED = 0


def importance(sweep: dict[str, Any]) -> dict[str, float]:
    """Return the share of each varied parameter in the variance of the score, largest first; the sum is 1.

    `sweep` is the content of sweep.json. The result is empty with fewer than TRIALS_PER_PARAMETER finished trials for
    each varied parameter, and with equal scores. A parameter that some finished trials lack is left out.
    """
    varied = list(sweep.get("varied") or ())
    finished = [trial for trial in sweep.get("trials") or () if _is_measured(trial)]
    scores = [float(trial["score"]) for trial in finished]
    if not varied or len(finished) < TRIALS_PER_PARAMETER * len(varied) or max(scores) == min(scores):
        return {}
    space = sweep.get("space") or {}
    columns = {name: _column(name, space.get(name), finished) for name in varied}
    return _fanova([column for column in columns.items() if column[1]], scores, bool(sweep.get("higher_is_better")))


def _is_measured(trial: dict[str, Any]) -> bool:
    score = trial.get("score")
    return trial.get("state") == "finished" and score is not None and math.isfinite(score)


def _column(name: str, entry: Any, trials: list[dict[str, Any]]) -> tuple[BaseDistribution, list[Any]] | None:
    """Return the distribution of a parameter and its value in each trial; None if a trial lacks it or none differ.

    Numbers of a list become their places in it: fANOVA weights an interval by its length, and 1e-5, 1e-4, 1e-3 are
    equally likely. Everything else that is no number becomes a category.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if any(name not in (trial.get("parameters") or {}) for trial in trials):
        return None
    values = [trial["parameters"][name] for trial in trials]
    if len({_text(value) for value in values}) < 2:
        return None
    numeric = all(_is_number(value) for value in values)
    if numeric and isinstance(entry, dict) and _is_number(entry.get("low")) and _is_number(entry.get("high")):
        numbers = [float(value) for value in values]
        low, high = min(entry["low"], *numbers), max(entry["high"], *numbers)
        return FloatDistribution(low, high, log=bool(entry.get("log")) and low > 0), numbers
    entry = entry.get("choices", entry) if isinstance(entry, dict) else entry  # the two ways to write a list
    listed = [*entry, *values] if isinstance(entry, list) else values
    if numeric:
        places = sorted({float(value) for value in listed if _is_number(value)})
        return IntDistribution(0, len(places) - 1), [places.index(float(value)) for value in values]
    return CategoricalDistribution(sorted({_text(value) for value in listed})), [_text(value) for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _fanova(columns: list[tuple[str, Any]], scores: list[float], higher_is_better: bool) -> dict[str, float]:
    import optuna

    if not columns:
        return {}
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(direction="maximize" if higher_is_better else "minimize")
            for place, score in enumerate(scores):
                values = {name: values[place] for name, (_, values) in columns}
                distributions = {name: distribution for name, (distribution, _) in columns}
                trial = optuna.trial.create_trial(params=values, distributions=distributions, value=score)
                study.add_trial(trial)
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=SEED)
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(level)
    shares = {name: float(share) for name, share in found.items()}
    return shares if all(math.isfinite(share) for share in shares.values()) else {}
