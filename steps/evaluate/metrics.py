"""Numbers out of losses, answers and references."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steps.errors import NumericError, Problem
from steps.evaluate.held_out import Measured

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEUScore

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
BLEU_ORDERS = (1, 2, 3, 4)


def score(measured: Measured, references: Sequence[str | None]) -> dict[str, float]:
    """Compute every metric of one model; those of text only when there are answers.

    loss is the mean over all supervised tokens (not over rows), in nats; perplexity is its exponential.
    """
    loss = float(measured.nll.sum() / measured.supervised.sum())
    scores = {"loss": loss, "perplexity": _exp(loss)}
    pairs = [
        (answer, reference)
        for answer, reference in zip(measured.answers, references, strict=True)
        if answer is not None and reference is not None
    ]
    return {**scores, **(score_texts(*map(list, zip(*pairs, strict=True))) if pairs else {})}


def score_texts(answers: list[str], references: list[str]) -> dict[str, float]:
    """Compare answers with references: exact_match is a share of 0 to 1, all others go from 0 to 100.

    bleu is sacreBLEU's corpus BLEU with its default tokenizer (13a) and smoothing (exp). bleu_1 to bleu_4 are corpus
    BLEU as Papineni et al. (2002) define it, from n-grams of up to that length, with the same tokenizer and no
    smoothing: 0 when no n-gram of some length is right. chrf is sacreBLEU's chrF2. ROUGE is the mean over rows of the F
    measure with Porter stemming; rougeLsum takes lines as sentences.
    """
    import sacrebleu
    from rouge_score import rouge_scorer

    logging.getLogger("absl").setLevel(logging.WARNING)  # rouge_score tells which tokenizer it takes, each time
    right = sum(exact(answer, reference) for answer, reference in zip(answers, references, strict=True))
    scorer = rouge_scorer.RougeScorer(list(ROUGE), use_stemmer=True)
    rows = [scorer.score(reference, answer) for answer, reference in zip(answers, references, strict=True)]
    bleu = sacrebleu.corpus_bleu(answers, [references])
    return {
        "exact_match": right / len(answers),
        "bleu": bleu.score,
        **{f"bleu_{order}": _unsmoothed(bleu, order) for order in BLEU_ORDERS},
        "chrf": sacrebleu.corpus_chrf(answers, [references]).score,
        **{name: 100 * sum(row[name].fmeasure for row in rows) / len(rows) for name in ROUGE},
    }


def generated_length(token_counts: Sequence[int]) -> dict[str, float]:
    """Mean number of generated tokens per answer, without padding, as gen_len."""
    return {"gen_len": sum(token_counts) / len(token_counts)}


def exact(answer: str, reference: str) -> bool:
    """Whether an answer is the reference, but for white space around it."""
    return answer.strip() == reference.strip()


def refuse_non_finite(scores: dict[str, dict[str, float]]) -> None:
    """Raise NumericError naming every metric that is NaN or infinite: such a number compares with nothing."""
    problems = [
        Problem("EVAL-E0601", f"{metric} of the {model} model", str(value), "a finite number",
                "lower learning_rate, or set precision=32" if model == "tuned" else "set precision=32")
        for model, values in scores.items()
        for metric, value in values.items()
        if not math.isfinite(value)
    ]  # fmt: skip
    if problems:
        raise NumericError(problems)


def _unsmoothed(bleu: BLEUScore, order: int) -> float:
    """Take BLEU of n-grams up to `order` from the counts of a BLEU of longer ones, so that texts are read once."""
    from sacrebleu import BLEU

    correct, total = bleu.counts[:order], bleu.totals[:order]
    return BLEU.compute_bleu(
        correct, total, bleu.sys_len, bleu.ref_len, smooth_method="none", max_ngram_order=order
    ).score


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
