"""Metrics that compare generated texts with references."""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steps.params.evaluation_config import EvaluationOptions
from steps.scoring.answer_metrics import best_f1

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEUScore

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
BLEU_ORDERS = (1, 2, 3, 4)
PUNCTUATION = str.maketrans("", "", string.punctuation)


def score_texts(
    answers: list[str], references: list[str], options: EvaluationOptions | None = None
) -> dict[str, float]:
    """Compare answers with references: exact_match is a share from 0 to 1, all others range from 0 to 100.

    word_f1 is the mean over rows of SQuAD's F1 of words, without case, punctuation and articles. bleu is sacreBLEU's
    corpus BLEU with its default tokenizer (13a) and smoothing (exp). bleu_1 to bleu_4 are corpus BLEU as Papineni et
    al. (2002) define it, from n-grams of up to that length, with the same tokenizer and no smoothing: 0 if no n-gram of
    some length is right. chrf is sacreBLEU's chrF2. ROUGE is the mean over rows of the F measure with Porter stemming;
    rougeLsum treats lines as sentences.
    """
    options = options or EvaluationOptions()
    import sacrebleu
    from rouge_score import rouge_scorer

    logging.getLogger("absl").setLevel(logging.WARNING)  # rouge_score logs its tokenizer on each call
    right = sum(exact(answer, reference, options) for answer, reference in zip(answers, references, strict=True))
    shared = sum(
        best_f1(without(answer, options), [without(reference, options)])
        for answer, reference in zip(answers, references, strict=True)
    )
    scorer = rouge_scorer.RougeScorer(list(ROUGE), use_stemmer=options.use_stemmer)
    rows = [scorer.score(reference, answer) for answer, reference in zip(answers, references, strict=True)]
    bleu = sacrebleu.corpus_bleu(answers, [references])
    return {
        "exact_match": right / len(answers),
        "word_f1": 100 * shared / len(answers),
        "bleu": bleu.score,
        **{f"bleu_{order}": _of_order(bleu, order, options.smoothing) for order in BLEU_ORDERS},
        "chrf": sacrebleu.corpus_chrf(answers, [references]).score,
        **{name: 100 * sum(row[name].fmeasure for row in rows) / len(rows) for name in ROUGE},
    }


def generated_length(token_counts: Sequence[int]) -> dict[str, float]:
    """Return gen_len, the mean number of generated tokens per answer, without padding."""
    return {"gen_len": sum(token_counts) / len(token_counts)}


def exact(answer: str, reference: str, options: EvaluationOptions | None = None) -> bool:
    """Return whether an answer equals the reference, ignoring surrounding whitespace and what `options` ignores."""
    if options is None:
        return answer.strip() == reference.strip()
    return without(answer, options).strip() == without(reference, options).strip()


def without(text: str, options: EvaluationOptions) -> str:
    """Remove from a text what `options` ignores."""
    for pattern in options.regexes_to_ignore:
        text = re.sub(pattern, "", text)
    if options.ignore_case:
        text = text.lower()
    if options.ignore_punctuation:
        text = text.translate(PUNCTUATION)
    if options.ignore_numbers:
        text = re.sub(r"\d+", "", text)
    return " ".join(text.split()) if options.ignore_punctuation or options.ignore_numbers else text


def _of_order(bleu: BLEUScore, order: int, smoothing: bool) -> float:
    """Compute BLEU of n-grams up to `order` from the counts of a higher order, so that texts are read only once."""
    from sacrebleu import BLEU

    correct, total = bleu.counts[:order], bleu.totals[:order]
    return BLEU.compute_bleu(
        correct, total, bleu.sys_len, bleu.ref_len, smooth_method="exp" if smoothing else "none", max_ngram_order=order
    ).score
