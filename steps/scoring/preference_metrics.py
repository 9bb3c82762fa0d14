"""Preference metrics: how well a model separates better from worse answers, from their log-probabilities.

A reward is beta · (log-probability of the model − that of the reference), as in DPO (Rafailov et al. 2023). A pair with
equal values counts as half right, so a model that learned nothing has an accuracy of one half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Likely:
    """The log-probabilities of one kind of answers; arrays have one entry for each row."""

    logps: np.ndarray
    """Sum of the log-probabilities of the answer's tokens, in nats."""
    counts: np.ndarray
    """Number of these tokens."""

    @property
    def per_token(self) -> np.ndarray:
        """Mean log-probability of a token."""
        return self.logps / np.maximum(self.counts, 1)

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood over all tokens, in nats, as for the other text losses."""
        return float(-self.logps.sum() / self.counts.sum())

    def of(self, rows: np.ndarray) -> Likely:
        """Keep the rows for which the mask is true."""
        return Likely(self.logps[rows], self.counts[rows])


def score_pairs(model: dict[str, Likely], reference: dict[str, Likely], beta: float) -> dict[str, float]:
    """Score pairs; `model` and `reference` map chosen and rejected to their log-probabilities, in nats."""
    chosen, rejected = model["chosen"], model["rejected"]
    margins = beta * ((chosen.logps - reference["chosen"].logps) - (rejected.logps - reference["rejected"].logps))
    return {
        "loss": float(np.logaddexp(0, -margins).mean()),
        "reward_accuracy": _above(margins),
        "reward_margin": float(margins.mean()),
        "preference_accuracy": _above(chosen.logps - rejected.logps),
        "preference_accuracy_per_token": _above(chosen.per_token - rejected.per_token),
        "chosen_loss": chosen.loss,
        "rejected_loss": rejected.loss,
    }


def score_rated(model: Likely, reference: Likely, good: np.ndarray, beta: float) -> dict[str, float]:
    """Score rated answers; `good` is True for good answers. Some metrics are missing without both kinds."""
    from sklearn.metrics import roc_auc_score

    rewards = beta * (model.logps - reference.logps)
    for_it = np.where(good, rewards, -rewards)
    scores = {"loss": float(np.logaddexp(0, -for_it).mean()), "reward_accuracy": _above(for_it)}
    if good.all() or not good.any():
        return scores
    return scores | {
        "reward_auc": float(roc_auc_score(good, rewards)),
        "reward_margin": float(rewards[good].mean() - rewards[~good].mean()),
        "preference_auc": float(roc_auc_score(good, model.per_token)),
        "chosen_loss": model.of(good).loss,
        "rejected_loss": model.of(~good).loss,
    }


def _above(differences: np.ndarray) -> float:
    return float((differences > 0).mean() + (differences == 0).mean() / 2)
