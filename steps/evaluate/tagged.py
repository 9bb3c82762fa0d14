"""Token classification: a tag for each word.

A base model without a head for these tags is replaced by a baseline: each word gets the tag that it has most often in
the training rows, an unknown word the most frequent tag of all. A base that is a tagger of exactly these tags is
evaluated itself. Words after the truncation of a long row count as O; they are not left out of the metrics.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.artifacts import read_manifest
from steps.errors import Problem, UserError
from steps.evaluate.comparison import Comparison
from steps.evaluate.held_out import IGNORED, arrays, first_rows
from steps.params.settings import EvaluationSettings
from steps.scoring.scored import Scored
from steps.scoring.tag_metrics import OUTSIDE, score_tags


@dataclass(frozen=True)
class Tagger:
    """The predictions of one model for the held-out rows."""

    tags: list[list[str]]
    """A tag for each word."""
    loss: float
    """Mean cross-entropy over the labelled words, in nats."""


def compare(settings: EvaluationSettings, base: Path, tuned: Path, data: Path) -> Comparison:
    """Evaluate the tuned tagger, and the base or its baseline. Raises as `evaluate`."""
    facts = read_manifest(data, "data").facts
    names = facts["class_names"]
    rows, tokens = first_rows(settings, data)
    sentences, truth = rows["tokens"].to_pylist(), rows["tags"].to_pylist()
    knows = _is_tagger_of(base, names)
    if knows:
        before = _tagged(base, tokens, sentences, settings, names)
    else:
        before = _by_frequency(data, facts["splits"]["train"]["classes"], sentences, truth)
    after = before if tuned == base and knows else _tagged(tuned, tokens, sentences, settings, names)
    scored = {name: score_tags(truth, one.tags, settings.split) for name, one in (("base", before), ("tuned", after))}
    _refuse_undefined(settings.evaluation.gate_metric, {"tuned": scored["tuned"]} if after is before else scored)
    scores = {name: {"loss": one.loss, **scored[name].values} for name, one in (("base", before), ("tuned", after))}
    lost = sum(map(len, sentences)) - sum(map(len, arrays(tokens["words"])))
    told = {
        "classes": scored["tuned"].classes,
        "undefined": {which: one.undefined for which, one in scored.items()},
        "remarks": [*scored["tuned"].remarks, *([f"{lost:,} truncated words count as O"] if lost else [])],
        "base": "The base model is a tagger of these tags." if knows else
        "The base model has no head for these tags: base is the most frequent tag of each word in the training rows.",
    }  # fmt: skip
    return Comparison(scores, _predictions(sentences, truth, before, after), {"tags": told})


def _is_tagger_of(folder: Path, names: list[str]) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    listed = {int(number): name for number, name in (config.get("id2label") or {}).items()}
    kind = (config.get("architectures") or [""])[0]
    return kind.endswith("ForTokenClassification") and listed == dict(enumerate(names))


def _tagged(
    folder: Path, tokens: pa.Table, sentences: list[list[str]], settings: EvaluationSettings, names: list[str]
) -> Tagger:
    from scipy.special import log_softmax

    from steps.evaluate.tagging import logits_of_words

    logits = logits_of_words(folder, tokens, settings)
    labels = np.concatenate([row[row != IGNORED] for row in arrays(tokens["labels"])])
    chances = log_softmax(np.concatenate([row for row in logits if len(row)]), axis=1)
    loss = float(-chances[np.arange(len(labels)), labels].mean())
    tags = [[OUTSIDE] * len(words) for words in sentences]
    for row, (places, said) in enumerate(zip(arrays(tokens["words"]), logits, strict=True)):
        for place, number in zip(places.tolist(), said.argmax(axis=1).tolist() if len(said) else [], strict=True):
            tags[row][place] = names[number]
    return Tagger(tags, loss)


def _by_frequency(data: Path, counts: dict[str, int], sentences: list[list[str]], truth: list[list[str]]) -> Tagger:
    """Return the baseline from the training rows; its loss is that of the tags' shares, independent of the word."""
    train = pq.read_table(data / "rows" / "train.parquet", columns=["tokens", "tags"])
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for words, tags in zip(train["tokens"].to_pylist(), train["tags"].to_pylist(), strict=True):
        for word, tag in zip(words, tags, strict=True):
            seen[word][tag] += 1
    usual = max(counts, key=lambda tag: counts[tag])
    best = {word: max(sorted(tags), key=lambda tag: tags[tag]) for word, tags in seen.items()}
    whole = sum(counts.values())
    shares = {tag: max(count, 0.5) / whole for tag, count in counts.items()}  # avoids an infinite loss for unseen tags
    surprise = [-float(np.log(shares[tag])) for tags in truth for tag in tags]
    return Tagger([[best.get(word, usual) for word in words] for words in sentences], float(np.mean(surprise)))


def _refuse_undefined(metric: str, scored: dict[str, Scored]) -> None:
    for which, one in scored.items():
        if metric != "loss" and metric not in one.values:
            raise UserError(
                Problem("EVAL-E0206", "gate_metric", f"{metric}, which has no value for {which}: "
                        f"{one.undefined.get(metric, 'it is not computed')}", f"one of loss, {', '.join(one.values)}",
                        "set gate_metric to one of them")
            )  # fmt: skip


def _predictions(sentences: list[list[str]], truth: list[list[str]], before: Tagger, after: Tagger) -> pa.Table:
    """Return one row for each held-out row."""
    texts = pa.list_(pa.string())
    return pa.table(
        {
            "row": pa.array(range(len(sentences)), pa.int64()),
            "tokens": pa.array(sentences, texts),
            "tags": pa.array(truth, texts),
            "base": pa.array(before.tags, texts),
            "predicted": pa.array(after.tags, texts),
            "right": pa.array([said == right for said, right in zip(after.tags, truth, strict=True)], pa.bool_()),
        }
    )
