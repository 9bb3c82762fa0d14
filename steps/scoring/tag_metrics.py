"""Precision, recall and F1 of entities, from tags of words, computed with seqeval.

An entity is right if its words and its type are right. Tags may be IO, BIO, BIOES or BILOU. A tag without such a
prefix (NOUN, VERB) is a class, and each word with it is an entity of one word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from steps.scoring.scored import Scored

OUTSIDE = "O"
LAST_AND_UNIT = {"L": "E", "U": "S"}  # BILOU's prefixes → those of BIOES
MEASURES = ("precision", "recall", "f1")


def score_tags(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], split: str = "test") -> Scored:
    """Compare tags, one list per sentence; entities are found as in conlleval: I- after another type starts one.

    precision, recall and f1 are over all entities (micro). accuracy is the share of words with the right tag, including
    O. macro and weighted averages are over the entity types that occur in `truth`. All range from 0 to 1. `split` names
    the rows in remarks. Raises ValueError for sentences of unequal length, or if there are no words.
    """
    from seqeval.metrics import accuracy_score
    from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

    lengths = [(len(right), len(said)) for right, said in zip(truth, predicted, strict=True)]
    if any(right != said for right, said in lengths) or not any(right for right, _ in lengths):
        raise ValueError("no words, or a sentence without a tag for each word")
    true, said = ([[_lettered(tag) for tag in tags] for tags in sentences] for sentences in (truth, predicted))
    values = {"accuracy": float(accuracy_score(list(truth), list(predicted)))}
    types, called = ({name for name, _, _ in get_entities(tags)} for tags in (true, said))
    if not types:
        why = f"no {split} row contains an entity"
        every = (
            *MEASURES,
            *(f"{measure}_{average}" for measure in MEASURES for average in ("micro", "macro", "weighted")),
        )
        return Scored(values, dict.fromkeys(every, why), {}, tuple(_called_for_nothing(called, split)))
    each = precision_recall_fscore_support(true, said, average=None, zero_division=0)
    classes = {}
    for name, *numbers, rows in zip(sorted(types | called), *(column.tolist() for column in each), strict=True):
        own = dict(zip(MEASURES, numbers, strict=True))
        if name not in called:
            del own["precision"]
        if name not in types:
            del own["recall"]
        classes[name] = {"rows": float(rows), **own}
    present = [index for index, name in enumerate(sorted(types | called)) if name in types]
    micro = precision_recall_fscore_support(true, said, average="micro", zero_division=0)[:3]
    undefined = {} if called else dict.fromkeys(("precision", "precision_micro"), "no entity was predicted")
    for measure, column, overall in zip(MEASURES, each, micro, strict=False):
        values[measure] = values[f"{measure}_micro"] = float(overall)
        values[f"{measure}_macro"] = float(np.mean(column[present]))
        values[f"{measure}_weighted"] = float(np.average(column[present], weights=each[3][present]))
    values = {name: value for name, value in values.items() if name not in undefined}
    remarks = [f"{name!r} was never predicted: its precision counts as 0" for name in sorted(types - called)]
    return Scored(values, undefined, classes, (*_called_for_nothing(called - types, split), *remarks))


@lru_cache(maxsize=4096)
def _lettered(tag: str) -> str:
    """Convert a tag to BIOES: B-PER, L-PER → E-PER, NOUN → S-NOUN."""
    if tag == OUTSIDE:
        return tag
    found = re.fullmatch(r"([BIESLU])-(.+)", tag, re.DOTALL)
    return f"{LAST_AND_UNIT.get(found[1], found[1])}-{found[2]}" if found else f"S-{tag}"


def _called_for_nothing(names: set[str], split: str) -> list[str]:
    why = f"has no entity in the {split} rows and is in no macro or weighted average"
    return [f"{name!r} {why}" for name in sorted(names)]
