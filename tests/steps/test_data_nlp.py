"""Bad and unusual data of the language tasks, with the expected result of each: a table per task."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_cases import Case, check_verdict

from steps.errors import UserError
from steps.prepare_data.alone import check_alone


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(*records):
    text = io.StringIO()
    csv.writer(text).writerows(records)
    return text.getvalue()


def parquet(**columns):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def labelled(*labels):
    """A row for each label, all different."""
    return lines(*({"sentence1": f"text {number}", "label": label} for number, label in enumerate(labels, 1)))


def labelled_csv(*labels):
    return table(["sentence1", "label"], *([f"text {number}", label] for number, label in enumerate(labels, 1)))


def labelled_parquet(labels):
    return parquet(sentence1=[f"text {number}" for number in range(len(labels))], label=labels)


def other(*labels):
    """Rows for a second file: none of them stands in the first."""
    return lines(*({"sentence1": f"other {number}", "label": label} for number, label in enumerate(labels, 1)))


CAFE = "caf\u00e9", "cafe\u0301"
CSV, PARQUET = {"name": "train.csv"}, {"name": "train.parquet"}
MANY = {"options": {"multilabel": True}}

CLASSIFICATION = [
    Case(0, "names", labelled("a", "b", "a", "b"), ""),
    Case(0, "an empty text", lines({"sentence1": " ", "label": "a"}), "DATA-E0603", ":1 (record 1) sentence1"),
    Case(0, "a second text that is missing", labelled("a", "b"), "DATA-E0601", ":1 (record 1) sentence2",
         "set sentence2_key", options={"sentence2_key": "sentence2"}, count=2),
    Case(0, "no column of that name", lines({"sentence1": "x", "Label": "a"}), "DATA-E0601", ":1 (record 1) label",
         "did you mean 'Label'?"),
    Case(10, "one label in NFC and NFD", labelled(*CAFE, "b", "b"), "DATA-W1001", count=2,
         says=r'equal after NFC: "caf\xe9", "cafe\u0301"'),
    Case(10, "NFD in validation only", labelled(CAFE[0], "b", "b"), "DATA-E1006", ":2 (record 2) label",
         "Write it the same way", validation=other("b", CAFE[1])),
    Case(0, "labels that differ in capitals", labelled("Pos", "pos", "neg", " neg"), "DATA-W1002", count=4,
         says="case or blanks"),
    Case(16, "NaN as label", '{"sentence1": "x", "label": NaN}\n', "DATA-E1002", ":1 (record 1) label", "found NaN"),
    Case(16, "NaN as label in parquet", labelled_parquet([0.0, float("nan"), 1.0]), "DATA-E1002", " (record 2) label",
         "found NaN", **PARQUET),
    Case(18, "a label of more than 64 bits", labelled(1, 2, 123456789012345678901234567890), "DATA-E1002",
         ":3 (record 3) label"),
    Case(19, "a label of 2**53 + 1", labelled(2**53 + 1, 2**53 + 2, 2**53 + 1, 2**53 + 2), "DATA-F1003", count=4,
         says="9007199254740993 to 9007199254740994"),
    Case(44, "leading zeros", labelled_csv("007", "7", "007", "7"), "", **CSV),
    Case(45, "the texts NA and null", labelled_csv("NA", "null", "None", "nan", "NA", "null", "None", "nan"), "",
         **CSV),
    Case(46, "a name among listed numbers", labelled_csv("0", "1", "x", "1"), "DATA-E1004", ":4 (record 3) label",
         "expected one of 0, 1", options={"labels": "0,1"}, **CSV),
    Case(46, "a name among numbers", labelled_csv("0", "1", "x", "1", "0"), "DATA-W1004", says='"x"', **CSV),
    Case(46, "numbers among names", labelled("good", "bad", 3, "bad", "good"), "DATA-W1004", says='"3"'),
    Case(47, "1.0 and 0", labelled(1.0, 0, 1, 0.0), "DATA-F1002", count=2),
    Case(47, "1.0 and 0 in csv", labelled_csv("1.0", "0", "1", "0"), "DATA-F1002", **CSV),
    Case(47, "+1.0 and -1.0 in csv", labelled_csv("+1.0", "-1.0", "1", "-1"), "DATA-F1003",
         says="labels -1 to 1 became", count=4, **CSV),
    Case(47, "1.5", labelled(1.0, 0, 1.5), "DATA-E1002", ":3 (record 3) label", "found 1.5"),
    Case(47, "1.5 in csv", labelled_csv("1.0", "0", "1.5"), "DATA-E1002", ":4 (record 3) label", **CSV),
    Case(50, "true, FALSE and yes", labelled_csv("true", "FALSE", "yes", "true"), "DATA-E1007", ":3 (record 2) label",
         'the spellings "true", "FALSE", "yes"', count=2, **CSV),
    Case(50, "true and false as words", labelled_csv("true", "false", "true", "false"), "", **CSV),
    Case(50, "yes, no and perhaps", labelled("yes", "no", "perhaps") * 2, ""),
    Case(51, "1,000 as label", labelled_csv("1,000", "2", "2"), "DATA-E1002", ":2 (record 1) label", **CSV),
    Case(58, "int8 labels", labelled_parquet(pa.array([0, 1, 0, 1], pa.int8())), "", **PARQUET),
    Case(57, "dictionary labels", labelled_parquet(pa.array(["a", "b", "a", "b"]).dictionary_encode()), "", **PARQUET),
    Case(59, "decimal 1.00", labelled_parquet([Decimal("1.00"), Decimal("0.00"), Decimal("1.00"), Decimal("0.00")]),
         "DATA-F1002", count=4, **PARQUET),
    Case(59, "decimal 1.50", labelled_parquet([Decimal("1.00"), Decimal("1.50")]), "DATA-E1002", " (record 2) label",
         "1.50", **PARQUET),
    Case(60, "a timestamp as text", parquet(sentence1=pa.array([0, 1], pa.timestamp("s")), label=["a", "b"]),
         "DATA-E0506", " (record 1) sentence1", "cast the column to text", count=2, **PARQUET),
    Case(63, "a column of nulls", labelled_parquet(pa.nulls(3)), "DATA-E1001", " (record 1) label", count=3, **PARQUET),
    Case(104, "no label", labelled("a", None, "b", ""), "DATA-E1001", ":2 (record 2) label", "found null", count=2),
    Case(104, "a blank label", labelled_csv("a", " ", "b"), "DATA-E1001", ":3 (record 2) label", **CSV),
    Case(105, "true and false", labelled(True, False, True, False), "DATA-F1001", count=4, says="became 0 and 1"),
    Case(106, "labels from 1", labelled(1, 2, 3, 1, 2, 3), "DATA-F1003", count=6,
         says="labels 1 to 3 became the classes 0 to 2"),
    Case(106, "labels with gaps", labelled("0", "7", "20", "0", "7", "20"), "DATA-F1003", count=6, says="0 to 20"),
    Case(107, "one class", labelled("a", "a", "a"), "DATA-E1005", " label", '"a" in every row'),
    Case(107, "one class in two spellings of a number", labelled(1, 1.0, True), "DATA-E1005", " label"),
    Case(108, "labels with a bar", labelled("a", "b", "a|b"), "DATA-E1003", ":3 (record 3) label", "multilabel=true"),
    Case(108, "a list of labels", labelled("a", "b", ["a", "b"]), "DATA-E1003", ":3 (record 3) label",
         "multilabel=true"),
    Case(108, "a list in a csv cell", labelled_csv("a", '["a"]', "b"), "DATA-E1003", ":3 (record 2) label", **CSV),
    Case(108, "several labels on purpose", labelled("a|b", ["b"], [], "a"), "", **MANY),
    Case(108, "several labels in csv", labelled_csv("a|b", '["b", "a"]', "[]", "a"), "", **CSV, **MANY),
    Case(108, "one label twice in a row", labelled("a|a", "b", ["a", "b"]), "DATA-F1004", **MANY),
    Case(108, "nothing between two bars", labelled("a||b", "b"), "DATA-E1001", ":1 (record 1) label[1]", **MANY),
    Case(108, "a cell that is half a list", labelled_csv('["a"', "b"), "DATA-E1011", ":2 (record 1) label", **CSV,
         **MANY),
    Case(108, "an unknown one of several", labelled("a|b", "a|c"), "DATA-E1004", ":2 (record 2) label[1]",
         options={"multilabel": True, "labels": "a, b"}),
    Case(109, "a class that was never learned", labelled("a", "b") * 2, "DATA-E1006", ":2 (record 2) label",
         'expected one of the training rows\' "a", "b"', validation=other("a", "c", "b", "c"), count=2),
    Case(109, "… in the test file", labelled("a", "b") * 2, "DATA-E1006", ":1 (record 1) label", test=other("c", "b")),
    Case(109, "numbers here, names there", labelled(0, 1, 0), "DATA-E1006", ":1 (record 1) label", '"pos"',
         validation=other("pos", 1)),
    Case(109, "… though it is listed", labelled("a", "b", "a"), "DATA-W1005", says='"c"', validation=other("c", "a"),
         options={"labels": "a,b,c"}),
    Case(110, "a class with one row", labelled("a", "a", "b", "b", "c", "d"), "DATA-W1003", count=2, says='"c", "d"'),
]  # fmt: skip


def tagged(*rows):
    return lines(*({"tokens": tokens, "tags": tags} for tokens, tags in rows))


def words(*tags):
    """Rows of one word per tag, all different."""
    return [([f"word{number}" for _ in row], row) for number, row in enumerate(tags)]


GOOD_TAGS = [["B-PER", "I-PER", "O"], ["O", "B-LOC", "I-LOC"], ["B-PER", "I-PER", "O"], ["O", "B-LOC", "I-LOC"]]
ADA = (["Ada", "wrote"], ["B-PER", "O"])

TOKENS = [
    Case(0, "good tags", tagged(*words(*GOOD_TAGS)), ""),
    Case(0, "lists in csv cells",
         table(["tokens", "tags"], *([json.dumps(t), json.dumps(g)] for t, g in words(*GOOD_TAGS))), "", **CSV),
    Case(0, "lists in parquet", parquet(tokens=[t for t, _ in words(*GOOD_TAGS)], tags=GOOD_TAGS), "", **PARQUET),
    Case(0, "a Python list in a csv cell", table(["tokens", "tags"], ["['Ada']", '["O"]']), "DATA-E1011",
         ":2 (record 1) tokens", "json.dumps", **CSV),
    Case(0, "tags without words", lines({"tags": ["O"]}), "DATA-E0601", ":1 (record 1) tokens", "token_key"),
    Case(0, "fewer tags than words", tagged(ADA, (["Ada", "wrote"], ["B-PER"])), "DATA-E1104", ":2 (record 2) tags",
         "1 tags for 2 words"),
    Case(10, "one tag in NFC and NFD", tagged(*words(["B-" + CAFE[0], "B-" + CAFE[1]])), "DATA-W1001", count=2,
         validation=tagged((["x"], ["B-" + CAFE[0]])), test=tagged((["y"], ["B-" + CAFE[0]]))),
    Case(107, "nothing but O", tagged(*words(["O"], ["O"])), "DATA-E1005", " tags"),
    Case(109, "a tag that was never learned", tagged(*words(*GOOD_TAGS)), "DATA-E1006", ":2 (record 2) tags",
         "list all classes in tags", validation=tagged((["x"], ["O"]), (["y"], ["B-ORG"]))),
    Case(110, "a tag in one row", tagged(*words(*GOOD_TAGS, ["B-ORG", "B-ORG"])), "DATA-W1003", says='"B-ORG"'),
    Case(111, "a tag outside the list", tagged(ADA, (["x"], ["B-LOC"])), "DATA-E1105", ":2 (record 2) tags[0]",
         "expected one of O, B-PER", options={"tags": "O,B-PER"}),
    Case(111, "a number outside the list", tagged((["x", "y"], [0, 2])), "DATA-E1105", ":1 (record 1) tags[1]",
         "from 0 to 1", options={"tags": "O,B-PER"}),
    Case(111, "a negative number", tagged((["x", "y"], [0, -1])), "DATA-E1105", ":1 (record 1) tags[1]",
         options={"tags": "O,B-PER"}),
    Case(111, "numbers without a list", tagged((["x", "y"], [0, 1])), "DATA-E1106", ":1 (record 1) tags[0]",
         "the parameter tags"),
    Case(111, "numbers of listed tags", tagged((["x", "y"], [0, 1]), (["y", "x"], ["O", 1]), (["z"], ["O"])),
         "DATA-F1101",
         options={"tags": "O,B-PER"}, count=2),
    Case(111, "a null tag", tagged((["x", "y"], [None, "O"])), "DATA-E1106", ":1 (record 1) tags[0]", "found null"),
    Case(111, "an empty tag", tagged((["x", "y"], ["O", ""])), "DATA-E1106", ":1 (record 1) tags[1]"),
    Case(112, "words as one text", tagged(("Ada wrote", ["O"])), "DATA-E1101", ":1 (record 1) tokens", "not text"),
    Case(112, "words as one text in csv", table(["tokens", "tags"], ["Ada wrote", "O O"]), "DATA-E1101",
         ":2 (record 1) tags", "not text", **CSV),
    Case(113, "no words", tagged(ADA, ([], [])), "DATA-E1102", ":2 (record 2) tokens"),
    Case(113, "an empty word", tagged((["Ada", ""], ["B-PER", "O"])), "DATA-E1103", ":1 (record 1) tokens[1]"),
    Case(113, "a blank word", tagged((["Ada", "\u00a0"], ["B-PER", "O"])), "DATA-E1103", ":1 (record 1) tokens[1]"),
    Case(113, "a number as word", tagged((["Ada", 1843], ["B-PER", "O"])), "DATA-E1103", ":1 (record 1) tokens[1]",
         "not a number"),
    Case(113, "a null word", tagged((["Ada", None], ["B-PER", "O"])), "DATA-E1103", ":1 (record 1) tokens[1]", "null"),
    Case(114, "I- after O, and at the start", tagged(*words(*GOOD_TAGS, ["O", "I-PER"], ["I-LOC"])), "DATA-W1101",
         count=2),
    Case(114, "I-X after B-Y", tagged(*words(*GOOD_TAGS, ["B-LOC", "I-PER"])), "DATA-W1101"),
]  # fmt: skip


def asked(*answers, context="Ada wrote it."):
    return lines(*({"question": f"Who, {number}?", "context": context, "answers": answer}
                   for number, answer in enumerate(answers, 1)))  # fmt: skip


def answer(text="Ada", start=0):
    return {"text": [text], "answer_start": [start]}


NONE = {"text": [], "answer_start": []}
FLAT = {"options": {"answers_key": ""}}


def asked_csv(*answers):
    return table(["question", "context", "text", "answer_start"],
                 *([f"Who, {number}?", "Ada wrote it.", *pair] for number, pair in enumerate(answers, 1)))  # fmt: skip


ANSWERS = [
    Case(0, "good answers", asked(answer(), answer("wrote", 4), NONE), ""),
    Case(0, "answers as in the SQuAD files", asked(*[[{"text": "Ada", "answer_start": 0}]] * 3), ""),
    Case(0, "answers as JSON in csv", table(["question", "context", "answers"], *(
        [f"Who, {n}?", "Ada wrote it.", json.dumps(answer())] for n in range(3))), "", **CSV),
    Case(0, "answers as Python in csv", table(["question", "context", "answers"], ["Who?", "Ada.", str(answer())]),
         "DATA-E1011", ":2 (record 1) answers", "json.dumps", **CSV),
    Case(0, "one answer in two columns", asked_csv(("Ada", "0"), ("wrote", "4.0"), ("", "")), "", **FLAT, **CSV),
    Case(0, "lists in two columns", asked_csv(('["Ada"]', "[0]"), ("[]", "[]"), ('["Ada", "it"]', "[0, 10]")), "",
         **FLAT, **CSV),
    Case(0, "two columns, though one is expected", asked_csv(("Ada", "0")), "DATA-E0601", ":1 answers",
         "set answers_key to an empty text", **CSV),
    Case(0, "answers as a text", asked("Ada"), "DATA-E1201", ":1 (record 1) answers", "not text"),
    Case(0, "answers under other names", asked({"words": ["Ada"], "start": [0]}), "DATA-E1201", ":1 (record 1) answers",
         "found the keys words, start"),
    Case(0, "a column named like a part of the answers", asked(answer()), "DATA-E0601", ":1 (record 1) text",
         "set context_key", options={"context_key": "text"}),
    Case(0, "an empty question", lines({"question": "", "context": "x", "answers": NONE}), "DATA-E0603",
         ":1 (record 1) question"),
    Case(0, "an empty answer", asked(answer("")), "DATA-E1207", ":1 (record 1) answers.text[0]"),
    Case(51, "a start with a comma", asked_csv(("Ada", "1,000")), "DATA-E1206", ":2 (record 1) answer_start", "1,000",
         **FLAT, **CSV),
    Case(47, "a start of 0.5", asked(answer(start=0.5)), "DATA-E1206", ":1 (record 1) answers.answer_start[0]"),
    Case(105, "a start of false", asked(answer(start=False)), "DATA-E1206", ":1 (record 1) answers.answer_start[0]"),
    Case(115, "an answer that is not there", asked(answer(), answer("Bob")), "DATA-E1205",
         ":2 (record 2) answers.text[0]",
         '"Bob"'),
    Case(115, "an answer that is elsewhere", asked(answer("wrote", 5)), "DATA-E1205",
         ":1 (record 1) answers.answer_start[0]", '"wrote", which is at 4. Fix: set it to 4'),
    Case(115, "the nearest of two places", asked(answer("a", 5), context="a bc  a b"), "DATA-E1205",
         ":1 (record 1) answers.answer_start[0]", "set it to 6"),
    Case(115, "a place counted in bytes", asked(answer("Ada", 7), context="Köln: Ada"), "DATA-E1205",
         ":1 (record 1) answers.answer_start[0]",
         "set it to 6 (offsets are counted in characters; this one counts bytes)"),
    Case(116, "a start of -1", asked(answer(start=-1)), "DATA-E1204", ":1 (record 1) answers.answer_start[0]",
         "set it to 0"),
    Case(116, "a start counted from the end", asked(answer(".", -1)), "DATA-E1204",
         ":1 (record 1) answers.answer_start[0]", "set it to 12"),
    Case(116, "a start behind the end", asked(answer(start=99)), "DATA-E1204", ":1 (record 1) answers.answer_start[0]",
         "0 to 12"),
    Case(116, "a start beyond 64 bits", asked(answer(start=10**30)), "DATA-E1206",
         ":1 (record 1) answers.answer_start[0]"),
    Case(117, "no answer where one must be", asked(answer(), NONE), "DATA-E1203", ":2 (record 2) answers.text",
         options={"allow_no_answer": False}),
    Case(117, "no answer in two columns", asked_csv(("Ada", "0"), ("", "")), "DATA-E1203", ":3 (record 2) text",
         options={"answers_key": "", "allow_no_answer": False}, **CSV),
    Case(118, "more texts than starts", asked({"text": ["Ada", "it"], "answer_start": [0]}), "DATA-E1202",
         ":1 (record 1) answers.answer_start", "1 starts for 2 texts"),
    Case(118, "a list and a number", asked({"text": ["Ada"], "answer_start": 0}), "DATA-E1201", ":1 (record 1) answers",
         "two lists"),
]  # fmt: skip


def summed(*pairs):
    return lines(*({"document": document, "summary": summary} for document, summary in pairs))


SUMMARIES = [
    Case(0, "good summaries", summed(("a long text", "text"), ("another one", "one"), ("a third text", "third")), ""),
    Case(0, "no summary", summed(("text", None)), "DATA-E0602", ":1 (record 1) summary"),
    Case(0, "a blank summary", summed(("text", "\t")), "DATA-E0603", ":1 (record 1) summary"),
    Case(119, "longer than the document", summed(("a", "ab"), ("b", "bc"), ("text", "t")), "DATA-W1301", count=2),
    Case(119, "equal to the document", summed(("same", "same"), ("text", "t"), ("other", "o")), "DATA-W1302"),
]  # fmt: skip


def pairs(*texts):
    return lines(*({"en": source, "de": target} for source, target in texts))


def hub(*rows):
    return lines(*({"id": str(number), "translation": row} for number, row in enumerate(rows)))


HUB = {"options": {"translation_key": "translation"}}
TWENTY = [(f"cat {number}", f"Katze {number}") for number in range(20)]

TRANSLATIONS = [
    Case(0, "columns by language", pairs(*TWENTY), ""),
    Case(0, "the Hub's column", hub(*({"en": s, "de": t} for s, t in TWENTY)), "DATA-F0601", says="id", count=1, **HUB),
    Case(0, "the Hub's column in parquet", parquet(translation=[{"en": s, "de": t} for s, t in TWENTY]), "", **HUB,
         **PARQUET),
    Case(0, "the Hub's column, not named", parquet(translation=[{"en": s, "de": t} for s, t in TWENTY]), "DATA-E0601",
         " en", "set translation_key=translation", **PARQUET),
    Case(0, "an object in a csv cell", table(["translation"], *([json.dumps({"en": s, "de": t})] for s, t in TWENTY)),
         "",
         **HUB, **CSV),
    Case(0, "no object", hub("cat"), "DATA-E1402", ":1 (record 1) translation", "not text", **HUB),
    Case(0, "an empty translation", pairs(("cat", "")), "DATA-E0603", ":1 (record 1) de"),
    Case(120, "5 % equal", pairs(*TWENTY[1:], ("OK", "OK")), ""),
    Case(120, "10 % equal", pairs(*TWENTY[2:], ("OK", "OK"), ("1", "1")), "DATA-W1401", says="10.0 %", count=2),
    Case(120, "another language", hub({"en": "cat", "de": "Katze"}, {"en": "cat", "fr": "chat"}), "DATA-E1401",
         ":2 (record 2) translation.de", "found the languages en, fr", **HUB),
    Case(120, "another language as column", lines({"en": "cat", "fr": "chat"}), "DATA-E0601", ":1 (record 1) de",
         "set target_lang"),
    Case(120, "a null text", hub({"en": "cat", "de": None}), "DATA-E0602", ":1 (record 1) translation.de", **HUB),
]  # fmt: skip

TEXTS = [
    Case(0, "good texts", lines(*({"text": f"text {number}"} for number in range(5))), ""),
    Case(45, "the text NA", table(["text"], ["NA"], ["null"], ["nan"]), "", **CSV),
    Case(18, "a number as text", lines({"text": 2**70}), "DATA-E0602", ":1 (record 1) text", "not a number"),
    Case(96, "a blank text", lines({"text": "a"}, {"text": "\n"}), "DATA-E0603", ":2 (record 2) text"),
    Case(56, "a column with other capitals", lines({" Text": "a"}), "DATA-E0601", ":1 (record 1) text",
         "did you mean ' Text'?"),
]  # fmt: skip

CASES = [
    pytest.param(task, case, id=f"{task} {case}")
    for task, cases in {
        "text_classification": CLASSIFICATION,
        "token_classification": TOKENS,
        "question_answering": ANSWERS,
        "summarization": SUMMARIES,
        "translation": TRANSLATIONS,
        "pretraining": TEXTS,
    }.items()
    for case in cases
]


@pytest.mark.parametrize(("task", "case"), CASES)
def test_the_verdict_on_language_data(tmp_path, task, case):
    checked = check_verdict(case, tmp_path, task)
    if checked and not case.verdict:
        assert [warning for warning in checked.warnings if warning["code"].startswith("DATA-W1")] == []
        assert [repair for repair in checked.repairs if repair["code"].startswith("DATA-F1")] == []


def test_options_are_text_on_the_command_line(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text(table(["body", "topics"], ["a", "x;y"], ["b", "y"], ["c", "[]"], ["d", "x"]))
    names = {"sentence1_key": "body", "label_key": "topics"}
    with pytest.raises(UserError, match="DATA-E0701"):  # the rows are good, but too few
        check_alone("text_classification", str(file), options={**names, "multilabel": "true", "label_separator": ";"})
    with pytest.raises(UserError, match="DATA-E1003"):
        check_alone("text_classification", str(file), options={**names, "label_separator": ";"})
