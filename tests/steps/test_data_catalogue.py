"""Bad data that spans several files or splits; each test names its rows of the catalogue."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checking import check_data
from conftest import write_jsonl
from data_cases import Case, check_verdict, notes, refused

from steps.params.data import DataSource, TextColumns
from steps.tasks import load_task

NUL = "a\0b"
ANSWER = {"text": ["a"], "answer_start": [0]}
# Task, a good row, and where U+0000 is put into it.
ROWS_WITH_NUL = [
    ("text_generation", {"text": NUL}, "text"),
    ("pretraining", {"text": NUL}, "text"),
    ("text_classification", {"sentence1": NUL, "label": "x"}, "sentence1"),
    ("reranking", {"query": "q", "passage": NUL, "relevant": 1}, "passage"),
    ("token_classification", {"tokens": ["x", NUL], "tags": ["O", "B-X"]}, "tokens[1]"),
    ("question_answering", {"question": NUL, "context": "abc", "answers": ANSWER}, "question"),
    ("summarization", {"document": NUL + " and more", "summary": "short"}, "document"),
    ("translation", {"en": NUL, "de": "c"}, "en"),
    ("chat_completion", {"messages": [{"role": "user", "content": NUL}, {"role": "assistant", "content": "b"}]},
     "messages[0].content"),
    ("preference", {"prompt": "p ", "chosen": NUL, "rejected": "c"}, "chosen"),
    ("kto", {"prompt": "p ", "completion": NUL, "label": True}, "completion"),
    ("prompts", {"prompt": NUL}, "prompt"),
]  # fmt: skip


def texts(count, start=0, **more):
    return [{"text": f"text number {number}", **more} for number in range(start, start + count)]


def with_neighbours(task, row):
    """Rows of the same kind around the given one, which is the second of five."""
    plain = json.loads(json.dumps(row).replace("\\u0000", "-"))
    others = []
    for number in range(4):
        other = json.loads(json.dumps(plain).replace("a-b", f"a-b {number}"))
        if "relevant" in other:
            other["relevant"] = number % 2
        if "label" in other:
            other["label"] = bool(number % 2) if task == "kto" else "xy"[number % 2]
        others.append(other)
    return [others[0], row, *others[1:]]


@pytest.mark.parametrize(("task", "row", "column"), ROWS_WITH_NUL, ids=[row[0] for row in ROWS_WITH_NUL])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_u0000_is_a_warning_and_strictly_a_refusal_in_every_task_and_format(tmp_path, task, row, column, name):  # 6
    file, rows = tmp_path / name, with_neighbours(task, row)
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("\n".join(map(json.dumps, rows)) if name == "a.jsonl" else json.dumps(rows))
    held = write_jsonl(tmp_path / "held.jsonl", [json.loads(json.dumps(r).replace("a-b", "held")) for r in rows[2:]])
    columns = load_task(task).Columns
    warning = notes(check_data(task, file, held, held, columns(), min_train_rows=1))["DATA-W0202"]
    assert (warning["count"], warning["rows"]) == (1, [2])
    [problem] = refused(task, file, held, held, columns=columns(strict=True), min_train_rows=1)
    line = ":2" if name == "a.jsonl" else ":1" if name == "a.json" else ""
    assert (problem.code, problem.where) == ("DATA-E0413", f"{file}{line} (record 2) {column}")


def test_a_backslash_before_u0000_is_no_such_character(tmp_path):  # 6
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": f"{number} \\u0000"}) + "\n" for number in range(20)))
    assert "DATA-W0202" not in notes(check_data("text_generation", file, columns=TextColumns(strict=True)))


CASES = [
    Case(25, "a list in .jsonl", json.dumps(texts(5)), "DATA-W2401", says="name the file .json"),
    Case(25, "a list in .jsonl is read", json.dumps(texts(5)), "DATA-F0201"),
    Case(30, "a required column that comes late", "\n".join(map(json.dumps, [{"id": 1}] * 7 + texts(3))),
         "DATA-E0601", ":1 (record 1) text", "first: 1, 2, 3, 4, 5", count=7),
    Case(30, "an optional column that comes late",
         "\n".join(map(json.dumps, texts(5) + texts(5, 5, extra="x"))), "DATA-F0601", says="extra"),
    Case(31, "unknown columns", "\n".join(map(json.dumps, texts(9, id=1, url="x"))), "DATA-F0601",
         says="columns not used: id, url"),
    Case(32, "rows under a key", json.dumps({"data": texts(5), "version": 1}), "DATA-E0212", "",
         "keys data (5 items), version", name="train.json"),
    Case(32, "the key is named", json.dumps({"train": texts(5)}), "DATA-E0212", "", "set json_field=train",
         name="train.json"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_verdict(case, tmp_path):
    check_verdict(case, tmp_path, "text_generation")


CHAT = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes"}] for n in range(20)]


def parquet_folder(tmp_path, *tables):
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number}.parquet")
    return folder


def test_parquet_files_of_another_column_order_or_width_are_read_alike_and_counted(tmp_path):  # 70
    first = pa.table({"sentence1": [f"a{n}" for n in range(20)], "label": pa.array([0, 1] * 10, pa.int8())})
    second = pa.table({"label": pa.array([0, 1] * 10, pa.int64()), "sentence1": [f"b{n}" for n in range(20)]})
    third = pa.table({"sentence1": [f"c{n}" for n in range(20)], "label": pa.array([0, 1] * 10, pa.int8())})
    folder = parquet_folder(tmp_path, first, second, third)
    checked = check_data("text_classification", folder, scratch=tmp_path)
    assert notes(checked)["DATA-F2402"]["count"] == 1
    assert notes(checked)["DATA-F2402"]["what"].startswith(f"{folder}/1.parquet: columns have another order")
    labels = [label for part in checked.rows.values() for row in part.table().to_pylist() for label in row["labels"]]
    assert sorted(labels) == ["0"] * 30 + ["1"] * 30


def test_an_optional_member_may_be_missing_in_some_files_and_a_required_one_not(tmp_path):  # 71
    named = [[{**message, "name": "Ann"} for message in talk] for talk in CHAT[:10]]
    folder = parquet_folder(tmp_path, pa.table({"messages": named}), pa.table({"messages": CHAT[10:]}))
    assert sum(check_data("chat_completion", folder).counts.values()) == 20
    silent = [[{"role": message["role"]} for message in talk] for talk in CHAT[:3]]
    pq.write_table(pa.table({"messages": silent}), folder / "2.parquet")
    problems = refused("chat_completion", folder)
    assert [(p.code, p.where, p.count) for p in problems] == [
        ("DATA-E0404", f"{folder}/2.parquet (record 1) messages[0].content", 3)
    ]


def test_a_null_among_the_messages_is_named_with_its_place(tmp_path):  # 65
    talks = [CHAT[0], [CHAT[1][0], None, CHAT[1][1]], *CHAT[2:]]
    pq.write_table(pa.table({"messages": talks}), tmp_path / "a.parquet")
    [problem] = refused("chat_completion", tmp_path / "a.parquet")
    assert problem.where == f"{tmp_path}/a.parquet (record 2) messages[1]"
    assert problem.found == "null"


def test_what_all_rows_have_in_common_is_not_said_of_a_file_with_unreadable_rows(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b"sentence1,label\ncaf\xe9,1\n" + b"".join(b"b%d,2\n" % number for number in range(20)))
    assert [problem.code for problem in refused("text_classification", file)] == ["DATA-E0103"]


# Splits


def test_a_split_that_was_made_is_told_with_its_seed(tmp_path):  # 127
    file = write_jsonl(tmp_path / "a.jsonl", texts(100))
    note = notes(check_data("text_generation", file, seed=7))["DATA-F2401"]
    assert note["count"] == 20
    assert note["what"] == (
        f"{file}: 10 rows for validation and 10 rows for test were taken from the training rows, "
        "shuffled with the seed 7"
    )
    held = write_jsonl(tmp_path / "b.jsonl", texts(5, 200))
    note = notes(check_data("text_generation", file, held, split="positional"))["DATA-F2401"]
    assert note["what"] == f"{file}: 20 rows for test were taken from the training rows, from the end"
    assert "DATA-F2401" not in notes(
        check_data("text_generation", file, held, write_jsonl(tmp_path / "c", texts(5, 300)))
    )


def test_without_auto_split_every_split_must_be_named():  # 127
    def missing(**given):
        return [p.where for p in DataSource(auto_split=False, **given).all_conflicts() if p.code == "PARAM-E0236"]

    assert missing(train_file_path="a") == ["validation_file_path", "test_file_path"]
    assert missing(train_file_path="a", validation_mltable_path="b") == ["test_file_path"]
    assert missing(dataset_name="a", dataset_validation_split="b", dataset_test_split="c") == []


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_held_out_file_without_rows_or_with_other_columns_is_refused(tmp_path, split):  # 128
    file, held = write_jsonl(tmp_path / "a.jsonl", texts(30)), tmp_path / "held.csv"
    for content, code, place in (
        ("text\n", "DATA-E0108", ""),
        ("", "DATA-E0101", ""),
        ("txt\na\n", "DATA-E0601", ":1 text"),
    ):
        held.write_text(content)
        files = (file, held) if split == "validation" else (file, "", held)
        [problem] = refused("text_generation", *files)
        assert (problem.code, problem.where) == (code, f"{held}{place}")


def test_dedup_drops_repeats_of_training_rows_before_they_are_split(tmp_path):  # 131
    rows = texts(96)
    file = write_jsonl(tmp_path / "a.jsonl", [*rows, rows[3], rows[3], rows[5], {"text": "other"}])
    plain, unique = (check_data("text_generation", file, dedup=dedup, scratch=tmp_path) for dedup in (False, True))
    assert notes(plain)["DATA-W0701"]["count"] == 3
    assert notes(unique)["DATA-F2403"]["count"] == 3
    assert not {"DATA-W0701", "DATA-W0702"} & notes(unique).keys()
    assert (sum(plain.counts.values()), sum(unique.counts.values())) == (100, 97)
    kept = [row["text"] for part in unique.rows.values() for row in part.table().to_pylist()]
    assert sorted(kept) == sorted({row["text"] for row in rows} | {"other"})


def test_dedup_of_labelled_rows_keeps_the_shares_of_the_labels(tmp_path):  # 131
    rows = [{"sentence1": f"text {number}", "label": "ab"[number % 10 == 0]} for number in range(200)]
    file = write_jsonl(tmp_path / "a.jsonl", rows[:100] + rows)
    checked = check_data("text_classification", file, dedup=True, scratch=tmp_path)
    assert checked.counts == {"train": 160, "validation": 20, "test": 20}
    for split, rare in (("train", 16), ("validation", 2), ("test", 2)):
        labels = [row["labels"] for row in checked.rows[split].table().to_pylist()]
        assert labels.count(["b"]) == rare


def test_one_file_by_two_names_is_a_warning_and_its_rows_count_twice(tmp_path):  # 133
    file = write_jsonl(tmp_path / "a.jsonl", texts(40))
    given = f"{file}, file://{file}"
    checked = check_data("text_generation", given)
    assert (notes(checked)["DATA-W0115"]["count"], notes(checked)["DATA-W0701"]["count"]) == (1, 40)
    assert sum(check_data("text_generation", given, dedup=True).counts.values()) == 40
