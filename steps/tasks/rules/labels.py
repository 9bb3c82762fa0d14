"""Labels of the classification tasks: their text, the class list, and checks of their counts.

Labels are texts: `as_label` converts a value to one, `in_order` sorts them into the class list, `judge_labels` checks
their counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from steps.errors import FOUND_LIMIT
from steps.tasks import Fault, as_found
from steps.tasks.rules.cells import whole_number
from steps.tasks.rules.characters import is_blank, trimmed
from steps.tasks.rules.counting import RECORDS_KEPT, Judgement, Tally

# A number not written as a whole number: 1.0 (and 1.5), or 1,000, in which the comma is ambiguous.
NUMBER = re.compile(r"[+-]?[0-9]{1,18}\.[0-9]*|[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?")
INTEGER = re.compile(r"-?[0-9]{1,18}")
TRUTH = {"true": 0, "false": 0, "yes": 1, "no": 1}  # word → index of its pair
NO_LABEL = ("-1", "-100")
STARTS = frozenset("0123456789+-[")  # first characters of texts that may be a number or a list


def as_label(value: Any) -> str | None:
    """Convert a label to text: 1, 1.0 and decimal 1.00 to "1", false and true to "0" and "1"; None if it is no label.

    Text is kept, except that "1.0" becomes "1", because csv files have no numbers; "1.5" and "1,000" are not labels.
    """
    if type(value) is str:
        if value[:1] not in STARTS or not NUMBER.fullmatch(value):
            return None if is_blank(value) else value
        value = value.removeprefix("+")
    elif type(value) is bool:
        return "1" if value else "0"
    number = whole_number(value)
    return None if number is None else str(number)


@lru_cache(maxsize=8)
def declared(names: str) -> dict[str, None]:
    """Split a comma-separated list of labels; keeps the order, drops duplicates."""
    return dict.fromkeys(name.strip() for name in names.split(",") if name.strip())


def names_in(column: pa.ChunkedArray, listed: str = "") -> list[str]:
    """Return the class list: from the parameter, else the sorted values of a column of lists."""
    return list(declared(listed)) or in_order(pc.unique(pc.list_flatten(column)).to_pylist())


def in_order(labels: Iterable[str]) -> list[str]:
    """Sort labels: as numbers if all are whole numbers, else as texts."""
    labels = list(labels)
    if all(INTEGER.fullmatch(label) for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def judge_labels(tallies: Mapping[str, Tally], column: str, listed: str, parameter: str) -> Iterator[Judgement]:
    """Yield conclusions from the label counts of `column`; `parameter` may list the labels, with the value `listed`."""
    train = tallies.get("train")
    if not listed:  # otherwise the user has said that it is a label
        yield from _without_label(tallies, column, parameter)
    for split, tally in tallies.items():
        for code, what, odd in _alike(tally):
            yield _told(split, tally, odd, Fault(code, "", what, "", ""), len(odd))
        yield from _spellings(split, tally, column)
        if split != "train" and train and train.rows:
            yield from _unseen(split, tally, train, column, listed, parameter)
    if not train or not train.rows:
        return
    if len(train.counts) < 2:
        found = f"{_listed(train.counts)} in every row" if train.counts else "no label in any row"
        yield Judgement("train", Fault("DATA-E1005", column, found, "at least two different labels",
                                       "add rows of another class"))  # fmt: skip
    if rare := [label for label, count in train.counts.items() if count == 1]:
        what = f"{column}: classes with a single row: {_listed(rare)}"
        yield _told("train", train, rare, Fault("DATA-W1003", "", what, "", ""), len(rare))


def judge_numbers(tally: Tally, column: str) -> Iterator[Judgement]:
    """Note that classes are numbered from 0 (for labels 1 to N), and warn of numbers mixed with names."""
    labels = [str(label) for label in tally.counts]
    numbers = {label for label in labels if INTEGER.fullmatch(label)}
    names = [label for label in labels if label not in numbers]
    if numbers and names:
        rows = [sum(tally.counts[label] for label in part) for part in (numbers, names)]
        odd = sorted(numbers) if rows[0] < rows[1] else names
        what = f"{column}: numbers and names are mixed; {_listed(odd)} is the smaller part"
        yield _told("train", tally, odd, Fault("DATA-W1004", "", what, "", ""))
        return
    ordered = in_order(numbers)
    plain = all(str(int(label)) == label for label in ordered)  # 007 is a name, not a number
    if plain and ordered != [str(number) for number in range(len(ordered))]:
        what = f"labels {ordered[0]} to {ordered[-1]} became the classes 0 to {len(ordered) - 1}, in this order"
        yield Judgement("train", Fault("DATA-F1003", "", what, "", ""), tally.rows)


def _without_label(tallies: Mapping[str, Tally], column: str, parameter: str) -> Iterator[Judgement]:
    """Refuse -1 and -100 beside other labels: data sets on hubs have them in rows without a label.

    -1 and 1 alone are two classes.
    """
    labels = {str(label) for tally in tallies.values() for label in tally.counts}
    if labels <= {"-1", "1"} and "1" in labels:
        return
    for split, tally in tallies.items():
        if odd := [label for label in tally.counts if str(label) in NO_LABEL]:
            others = ",".join(in_order(labels))[:60]
            fault = Fault("DATA-E1008", column, _listed(odd), "a label; data sets have this number where there is none",
                          f"remove these rows, or set {parameter}={others} if it is a label")  # fmt: skip
            yield _told(split, tally, odd, fault)


def _unseen(
    split: str, tally: Tally, train: Tally, column: str, listed: str, parameter: str
) -> Iterator[Judgement]:  # fmt: skip
    unseen = [label for label in tally.counts if label not in train.counts and (listed or str(label) not in NO_LABEL)]
    if not unseen:
        return
    if listed:  # rows with labels outside the list were refused
        what = f"{column}: {_listed(unseen)} occurs in no training row"
        yield _told(split, tally, unseen, Fault("DATA-W1005", "", what, "", ""))
        return
    folded = {_fold(str(label)): label for label in train.counts}
    fix = f"add training rows with them, remove these rows, or list all classes in {parameter}"
    for label in unseen:
        if meant := folded.get(_fold(str(label))):
            fix = f"did you mean {as_found(meant)} by {as_found(label)}? Write it the same way in all files"
            break
    expected = f"one of the training rows' {_listed(in_order(map(str, train.counts)))}"
    yield _told(split, tally, unseen, Fault("DATA-E1006", column, _listed(unseen), expected, fix))


def _alike(tally: Tally) -> Iterator[tuple[str, str, list[Any]]]:
    """Find labels that look the same: equal after NFC, or except for case and surrounding blanks."""
    for code, normal, why in (
        ("DATA-W1001", _nfc, "equal after NFC"),
        ("DATA-W1002", _fold, "equal except for case or blanks"),
    ):
        groups = defaultdict(set)
        for label in tally.counts:
            groups[normal(str(label))].add(label if normal is _nfc else _nfc(str(label)))
        odd = [label for label in tally.counts if len(groups[normal(str(label))]) > 1]
        if odd:
            # Without escapes the labels would look the same.
            shown = ", ".join(f'"{_escaped(label)}"' for label in odd[:4]) if normal is _nfc else _listed(odd)
            yield code, f"{len(odd)} labels {why}: {shown}", odd


def _spellings(split: str, tally: Tally, column: str) -> Iterator[Judgement]:
    """Refuse true, FALSE and yes in one column: they may mean two classes or four."""
    styles: dict[tuple[int, str], list[Any]] = {}
    for label, _ in tally.counts.most_common():
        word = str(label).strip()
        if word.lower() in TRUTH:
            case = next((case for case in ("lower", "upper", "title") if getattr(word, case)() == word), word)
            styles.setdefault((TRUTH[word.lower()], case), []).append(label)
    if len(styles) > 1:
        usual, *others = styles.values()
        odd = [label for labels in others for label in labels]
        found = f"the spellings {_listed([*usual, *odd])}"
        fault = Fault("DATA-E1007", column, found, "one spelling for yes and one for no, such as true and false",
                      f"write {_listed(odd)} like {_listed(usual)}")  # fmt: skip
        yield _told(split, tally, odd, fault)


def _told(split: str, tally: Tally, labels: Iterable[Any], fault: Fault, count: int = 0) -> Judgement:
    """Return a judgement with the first rows of these labels; without a count, with the number of their rows."""
    labels = list(labels)
    first = sorted({record for label in labels for record in tally.records[label]})[:RECORDS_KEPT]
    return Judgement(split, fault, count or sum(tally.counts[label] for label in labels), tuple(first))


def _nfc(label: str) -> str:
    return unicodedata.normalize("NFC", label)


def _escaped(label: Any) -> str:
    return str(label).encode("unicode_escape").decode("ascii")


def _fold(label: str) -> str:
    return trimmed(_nfc(label)).casefold()


def _listed(labels: Iterable[Any]) -> str:
    """List labels as written in the file, as many as fit into a message."""
    labels = list(labels)
    shown = [as_found(label) for label in labels[:8]]
    while len(shown) > 1 and len(", ".join(shown)) > FOUND_LIMIT:
        shown.pop()
    more = len(labels) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
