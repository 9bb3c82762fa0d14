"""What data sets of hubs and joined files bring: names of classes, rows without a label, marks, other encodings."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checking import check_data
from conftest import write_jsonl
from data_cases import notes, refusals

from steps.params.task_columns import ClassificationColumns, TokenColumns
from steps.tasks import load_task

NAMES = ["negative", "positive"]


def labels_of(task, checked, name="labels"):
    rows = [row for part in checked.rows.values() for row in part.table().to_pylist()]
    assert set(load_task(task).label_names(pa.Table.from_pylist(rows))) == {one for row in rows for one in row[name]}
    return sorted({one for row in rows for one in row[name]})


def reviews(labels, names=NAMES):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"sentence1": Value("string"), "label": ClassLabel(names=names)})
    rows = {"sentence1": [f"text {number}" for number in range(len(labels))], "label": labels}
    return Dataset.from_dict(rows, features=features)


def saved(made, folder, form):
    from datasets import DatasetDict

    if form == "folder of one split":
        made.save_to_disk(str(folder / "saved"))
    elif form == "folder of splits":
        DatasetDict({"train": made}).save_to_disk(str(folder / "saved"))
    else:
        (folder / "saved").mkdir()
        made.to_parquet(str(folder / "saved" / "train.parquet"))
    return folder / "saved" / "train.parquet" if form == "parquet" else folder / "saved"


FORMS = ["folder of one split", "folder of splits", "parquet", "folder of parquet"]


@pytest.mark.parametrize("form", FORMS)
def test_classes_have_the_names_that_a_data_set_lists(tmp_path, form):
    given = saved(reviews([0, 1] * 15), tmp_path, form)
    checked = check_data("text_classification", given, scratch=tmp_path)
    assert labels_of("text_classification", checked) == NAMES
    note = notes(checked)["DATA-F0520"]
    assert note["count"] == 30
    assert "numbers in the column label read as the classes that the file lists: negative, positive" in note["what"]
    assert "DATA-F1003" not in notes(checked)


def test_a_data_set_by_name_has_the_names_of_its_classes(tmp_path):
    (tmp_path / "set").mkdir()
    reviews([0, 1] * 15).to_parquet(str(tmp_path / "set" / "train-00000-of-00001.parquet"))
    checked = check_data("text_classification", dataset_name=str(tmp_path / "set"), scratch=tmp_path)
    assert labels_of("text_classification", checked) == NAMES


def test_the_features_of_a_data_set_s_card_name_the_classes_of_its_json_files(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"sentence1": f"text {n}", "label": n % 2} for n in range(30)])
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: sentence1\n    dtype: string\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:\n          '0': negative\n          '1': positive\n---\n"
    )
    checked = check_data("text_classification", dataset_name=str(tmp_path), scratch=tmp_path)
    assert labels_of("text_classification", checked) == NAMES


def test_tags_have_the_names_that_a_data_set_lists(tmp_path):
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=["O", "B-PER"]))})
    rows = {"tokens": [["Ada", f"word{n}"] for n in range(30)], "tags": [[1, 0]] * 30}
    file = tmp_path / "a.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(str(file))
    checked = check_data("token_classification", file, scratch=tmp_path)
    assert labels_of("token_classification", checked, "tags") == ["B-PER", "O"]
    assert notes(checked)["DATA-F0520"]["count"] == 30
    assert check_data("token_classification", file, columns=TokenColumns(tags="O,B-PER")).counts["train"] == 24


def test_several_classes_of_a_row_have_their_names(tmp_path):
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features({"sentence1": Value("string"), "label": List(ClassLabel(names=["war", "drama", "sport"]))})
    rows = {"sentence1": [f"text {n}" for n in range(30)], "label": [[0, 1], [2], []] * 10}
    file = tmp_path / "a.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(str(file))
    checked = check_data("text_classification", file, columns=ClassificationColumns(multilabel=True), scratch=tmp_path)
    assert labels_of("text_classification", checked) == ["drama", "sport", "war"]


@pytest.mark.parametrize("form", FORMS)
def test_a_row_without_a_label_is_refused_where_the_data_set_lists_names(tmp_path, form):
    given = saved(reviews([0, 1, -1] * 10), tmp_path, form)
    problem = refusals("text_classification", given)["DATA-E1008"]
    assert (problem.count, problem.rows) == (10, (3, 6, 9, 12, 15))


def test_a_number_for_which_the_file_has_no_name_is_refusals(tmp_path):
    file = tmp_path / "a.parquet"
    reviews([0, 1] * 15).to_parquet(str(file))
    table = pq.read_table(file)
    wrong = table.set_column(1, table.schema.field("label"), pa.array([0, 1, 7] * 10))
    pq.write_table(wrong, file)
    problem = refusals("text_classification", file)["DATA-E0520"]
    assert (problem.where, problem.found, problem.count) == (f"{file} (record 3) label", "7", 10)
    assert "negative, positive" in problem.expected


def test_yes_and_no_are_read_from_numbers_whatever_the_file_calls_them(tmp_path):
    made = reviews([0, 1] * 15).rename_columns({"sentence1": "passage", "label": "relevant"})
    made = made.add_column("query", [f"query {n}" for n in range(30)])
    made.to_parquet(str(tmp_path / "a.parquet"))
    assert "DATA-F0520" not in notes(check_data("reranking", tmp_path / "a.parquet"))


def test_the_user_s_function_gets_numbers_and_the_names_are_notes(tmp_path):
    (tmp_path / "f.py").write_text("def keep(row):\n    return row\n")
    reviews([0, 1] * 15).to_parquet(str(tmp_path / "a.parquet"))
    given = {"processing_function": f"{tmp_path / 'f.py'}:keep"}
    assert "DATA-W0521" in notes(check_data("text_classification", tmp_path / "a.parquet", **given))


NO_NAMES = b'{"info": {"features": {"label": {"names": null, "_type": "ClassLabel"}}}}'


@pytest.mark.parametrize(
    "content", [b"{}", b"nonsense", b'{"info": {"features": [1]}}', b'{"info": 3}', NO_NAMES, b"[" * 5000]
)
def test_other_metadata_of_a_file_does_not_matter(tmp_path, content):
    table = pa.table({"sentence1": [f"text {n}" for n in range(30)], "label": [0, 1] * 15})
    pq.write_table(table.replace_schema_metadata({b"huggingface": content}), tmp_path / "a.parquet")
    checked = check_data("text_classification", tmp_path / "a.parquet", scratch=tmp_path)
    assert labels_of("text_classification", checked) == ["0", "1"]


# Labels, whether -1 is refused, and the parameter labels.
WITHOUT_LABEL = [
    ([0, 1, -1], True, ""),
    ([0, 1, 2, -100], True, ""),
    (["0", "1", "-1"], True, ""),
    (["a", "b", -1], True, ""),
    ([-1, -1, -1], True, ""),
    ([-1, 1, 1], False, ""),  # two classes
    ([0, 1, -1], False, "-1,0,1"),
    ([-2, -3, -2], False, ""),
]


@pytest.mark.parametrize(("labels", "bad", "listed"), WITHOUT_LABEL)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_minus_one_beside_other_labels_is_no_label(tmp_path, labels, bad, listed, kind):
    rows = [{"sentence1": f"text {n}", "label": labels[n % len(labels)]} for n in range(30)]
    if kind == "jsonl":
        write_jsonl(tmp_path / "a.jsonl", rows)
    elif kind == "csv":
        lines = ["sentence1,label", *(f"{row['sentence1']},{row['label']}" for row in rows)]
        (tmp_path / "a.csv").write_text("\n".join(lines))
    else:
        rows = rows if len(set(map(type, labels))) == 1 else [{**row, "label": str(row["label"])} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    columns = ClassificationColumns(labels=listed)
    if bad:
        problem = refusals("text_classification", tmp_path / f"a.{kind}", columns=columns)["DATA-E1008"]
        assert "-1" in problem.found
        assert "labels=" in problem.fix
    else:
        assert check_data("text_classification", tmp_path / f"a.{kind}", columns=columns).counts["train"] == 24


def test_a_test_file_without_labels_is_refused_for_that_reason(tmp_path):
    train = write_jsonl(tmp_path / "a.jsonl", [{"sentence1": f"text {n}", "label": n % 2} for n in range(30)])
    test = write_jsonl(tmp_path / "b.jsonl", [{"sentence1": f"other {n}", "label": -1} for n in range(5)])
    problems = refusals("text_classification", train, "", test)
    assert list(problems) == ["DATA-E1008"]
    assert problems["DATA-E1008"].where == f"{test}:1 (record 1) label"
