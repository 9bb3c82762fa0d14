"""The files of one split are checked together, and every row keeps the name of its file."""

import gzip
import json

import numpy as np
import pytest
from checking import check_data
from conftest import write_jsonl
from datasets import Dataset, interleave_datasets

from steps.errors import UserError


def texts(count, start=0, word="number"):
    return [{"text": f"text {word} {number}"} for number in range(start, start + count)]


def labelled(file, *labels):
    return write_jsonl(file, [{"sentence1": f"{file.stem} {n}", "label": label} for n, label in enumerate(labels)])


def read(rows):
    return [row["text"] for row in rows.table().to_pylist()]


def folder_of_three(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", texts(30))
    (folder / "b.csv").write_text("id,text\n" + "".join(f"{n},{row['text']}\n" for n, row in enumerate(texts(30, 30))))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in texts(40, 60)).encode()))
    return folder


def test_a_folder_is_one_split_and_every_row_knows_its_file(tmp_path):
    folder = folder_of_three(tmp_path)
    checked = check_data("text_generation", folder, split="positional", scratch=tmp_path)
    assert checked.counts == {"train": 80, "validation": 10, "test": 10}
    together = read(checked.rows["train"]) + read(checked.rows["validation"]) + read(checked.rows["test"])
    assert together == [f"text number {number}" for number in range(100)]
    train = checked.rows["train"]
    assert train.where(35) == f"{folder}/b.csv:7 (record 6)"
    assert train.where(61, "text") == f"{folder}/c.jsonl.gz:2 (record 2) text"
    assert train.source == f"{folder}/a.jsonl and 2 more"
    assert checked.repairs[0] == {"code": "DATA-F0601", "what": f"{folder}/b.csv: columns not used: id", "count": 1}
    assert checked.repairs[1]["what"].startswith(f"{folder}/a.jsonl and 2 more: 10 rows for validation and 10 rows")


def test_problems_of_all_files_of_a_folder_are_told_with_their_names(tmp_path):
    folder = folder_of_three(tmp_path)
    (folder / "a.jsonl").write_text('{"text": 1}\n')
    (folder / "d.jsonl").write_text('{"text": "good"}\n{"text": ""}\n')
    with pytest.raises(UserError) as error:
        check_data("text_generation", folder)
    assert [problem.where for problem in error.value.problems] == [
        f"{folder}/a.jsonl:1 (record 1) text",
        f"{folder}/d.jsonl:2 (record 2) text",
    ]


def test_what_many_files_share_is_told_once(tmp_path):
    for number in range(4):
        rows = [{**row, "id": number} for row in texts(20, 20 * number)]
        write_jsonl(tmp_path / f"{number}.jsonl", rows)
    repair, _ = check_data("text_generation", tmp_path / "*.jsonl").repairs
    assert repair["what"] == f"{tmp_path}/0.jsonl and 3 more files: columns not used: id"
    assert repair["count"] == 4


def test_counts_go_over_all_files_and_name_the_row_in_its_own(tmp_path):
    for name, labels in (("a", "xy"), ("b", "yx")):
        write_jsonl(
            tmp_path / f"{name}.jsonl", [{"sentence1": f"{name} {n}", "label": labels[n % 2]} for n in range(20)]
        )
    held = write_jsonl(
        tmp_path / "held.jsonl", [{"sentence1": "one", "label": "x"}, {"sentence1": "two", "label": "y"}]
    )
    new = write_jsonl(
        tmp_path / "new.jsonl", [{"sentence1": "three", "label": "x"}, {"sentence1": "four", "label": "z"}]
    )
    train = f"{tmp_path}/a.jsonl, {tmp_path}/b.jsonl"
    check_data("text_classification", train, held, held)
    with pytest.raises(UserError) as error:
        check_data("text_classification", train, f"{held},{new}", held)
    [problem] = error.value.problems
    assert problem.where == f"{new}:2 (record 2) label"
    with pytest.raises(UserError) as error:  # the last row of the first file
        check_data("text_classification", train, f"{new},{held}", held)
    [problem] = error.value.problems
    assert problem.where == f"{new}:2 (record 2) label"


def test_a_mixture_takes_turns_or_draws_by_weight_after_the_held_out_rows_were_taken(tmp_path):
    small, large = write_jsonl(tmp_path / "s.jsonl", texts(10, word="small")), tmp_path / "l.jsonl"
    write_jsonl(large, texts(90, word="large"))

    def mixture(first, second, **more):
        parts = [{"path": str(small), "sampling_weight": first}, {"path": str(large), "sampling_weight": second}]
        return check_data("text_generation", training_data=json.dumps(parts), scratch=tmp_path, **more)

    turns = mixture(1.0, 1.0)
    assert turns.counts["validation"] + turns.counts["test"] == 20
    train = read(turns.rows["train"])
    assert [text.split()[1] for text in train[:6]] == ["small", "large"] * 3
    assert turns.sources == {str(small): len(train) // 2, str(large): len(train) // 2}
    assert not set(train) & {*read(turns.rows["validation"]), *read(turns.rows["test"])}
    drawn = mixture(0.3, 0.7, mixing_seed=7)
    texts_of = {"small": [], "large": []}
    for text in dict.fromkeys(read(drawn.rows["train"])):
        texts_of[text.split()[1]].append({"text": text})
    in_file_order = [sorted(rows, key=lambda row: int(row["text"].split()[-1])) for rows in texts_of.values()]
    peer = interleave_datasets(
        [Dataset.from_list(rows) for rows in in_file_order],
        probabilities=[0.3, 0.7],
        seed=7,
        stopping_strategy="all_exhausted",
    )
    assert read(drawn.rows["train"]) == list(peer["text"])
    alone = mixture(0, 2.0)
    assert alone.sources == {str(large): 72}


def test_a_source_without_rows_for_training_is_refused(tmp_path):
    parts = [{"path": str(write_jsonl(tmp_path / "s.jsonl", texts(1, word="small")))},
             {"path": str(write_jsonl(tmp_path / "l.jsonl", texts(30)))}]  # fmt: skip
    seeds = np.arange(40)
    refusals = 0
    for seed in seeds:
        try:
            check_data("text_generation", training_data=json.dumps(parts), seed=int(seed))
        except UserError as error:
            refusals += error.problems[0].code == "DATA-E2301"
    assert 0 < refusals < len(seeds)


def test_the_users_function_changes_rows_before_they_are_checked(tmp_path):
    code = tmp_path / "clean.py"
    code.write_text(
        "def clean(row):\n    if row['n'] % 10 == 0:\n        return None\n    return {'text': row['raw'].strip()}\n"
    )
    file = write_jsonl(tmp_path / "a.jsonl", [{"raw": f"  row {n} ", "n": n} for n in range(50)])
    checked = check_data("text_generation", file, processing_function=f"{code}:clean", scratch=tmp_path)
    assert sum(checked.counts.values()) == 45
    assert checked.rows["train"].where(0).startswith(f"{file}:2 (record 2)")
    assert [warning["code"] for warning in checked.warnings] == ["DATA-W2201"]
    write_jsonl(file, [{"raw": 7, "n": 1}])
    with pytest.raises(UserError, match=r"a.jsonl:1 \(record 1\).*AttributeError.*clean.py:4"):
        check_data("text_generation", file, processing_function=f"{code}:clean")
