"""Sources of rows: MLTables, data sets and mixtures; and what is refused."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from data_cases import assert_six_parts
from opening import Told, open_all, read_source, refused, rows, table, texts_of

from steps.errors import SecurityRefusal, UserError
from steps.params.data import DataSource
from steps.params.reading import read_parameters
from steps.prepare_data.findings import Findings
from steps.sources import data_sources

JSON_LINES = "transformations:\n  - read_json_lines:\n      encoding: utf8\n"


def test_a_table_reads_what_its_files_hold(tmp_path):
    folder = table(tmp_path, "type: mltable\npaths:\n  - file: ./a.data\n" + JSON_LINES, a__data=rows("a", "b"))
    for given in ({"train_mltable_path": folder}, {"train_file_path": folder}):
        assert texts_of(open_all(tmp_path, **given)[0]) == {f"{folder}/a.data": ["a", "b"]}


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ("- file: ./a.jsonl", ["a.jsonl"]),
        ("- folder: .", ["a.jsonl", "b.jsonl"]),
        ("- pattern: ./*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("- pattern: ./**/*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("- file: b.jsonl\n  - pattern: ./*.jsonl", ["b.jsonl", "a.jsonl"]),
    ],
)
def test_paths_of_a_table_are_files_folders_and_patterns(tmp_path, paths, names):
    folder = table(tmp_path, f"paths:\n  {paths}\n", a__jsonl=rows("a"), b__jsonl=rows("b"))
    assert list(texts_of(open_all(tmp_path, train_mltable_path=folder)[0])) == [f"{folder}/{name}" for name in names]


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ("{delimiter: ';', encoding: utf8, header: all_files_same_headers}", "id;text\n1;a, b\n"),
        ("{support_multi_line: true, infer_column_types: 'false'}", 'id,text\n1,"a, b"\n'),
        ('{delimiter: "\\t"}', "id\ttext\n1\ta, b\n"),
    ],
)
def test_delimited_files_of_a_table(tmp_path, options, content):
    folder = table(tmp_path, "paths: [{file: a.txt}]\ntransformations:\n  - read_delimited: " + options, a__txt=content)
    assert texts_of(open_all(tmp_path, train_mltable_path=folder)[0]) == {f"{folder}/a.txt": ["a, b"]}


def test_a_table_without_header_numbers_its_columns(tmp_path):
    text = "paths: [{file: a.csv}]\ntransformations:\n  - read_delimited: {header: no_header}"
    folder = table(tmp_path, text, a__csv="1,a\n2,\n")
    [opened], _ = open_all(tmp_path, train_mltable_path=folder)
    read = list(read_source(opened, {"text_key": "Column2"}, Findings(opened.name)))
    assert read == [(1, 1, {"Column2": "a"}), (2, 2, {"Column2": ""})]


def test_a_table_of_parquet_equals_the_files_read_directly(tmp_path):
    folder = table(tmp_path, "paths: [{pattern: '*.parquet'}]\ntransformations: [read_parquet: {}]")
    pq.write_table(pa.table({"text": ["a", "b"]}), f"{folder}/x.parquet")
    assert texts_of(open_all(tmp_path, train_mltable_path=folder)[0]) == texts_of(
        open_all(tmp_path, train_file_path=f"{folder}/x.parquet")[0]
    )


def test_a_table_wins_over_files_with_one_warning(tmp_path):
    folder = table(tmp_path, "paths: [{file: a.jsonl}]", a__jsonl=rows("a"))
    files, told = open_all(tmp_path, train_mltable_path=folder, train_file_path="absent.jsonl")
    assert list(texts_of(files)) == [f"{folder}/a.jsonl"]
    assert told.codes == ["DATA-W2001"]


@pytest.mark.parametrize(
    "path", ["../a.jsonl", "x/../../a.jsonl", "/etc/passwd", "~/a.jsonl", "azureml://datastores/a", "file:///etc/x"]
)
def test_a_table_that_leaves_its_folder_is_refused_for_security(tmp_path, path):  # 74
    (tmp_path / "a.jsonl").write_text(rows("secret"))
    for kind in ("file", "folder", "pattern"):
        folder = table(tmp_path, f"paths: [{{{kind}: '{path}'}}]", a__jsonl=rows("a"))
        error = refused(tmp_path, train_mltable_path=folder)
        assert isinstance(error, SecurityRefusal)
        assert "outside the table's folder" in str(error)


def test_a_link_out_of_the_table_is_refused_for_security(tmp_path):
    (tmp_path / "secret.jsonl").write_text(rows("secret"))
    folder = table(tmp_path, "paths: [{pattern: '*.jsonl'}]")
    os.symlink(tmp_path / "secret.jsonl", f"{folder}/a.jsonl")
    assert isinstance(refused(tmp_path, train_mltable_path=folder), SecurityRefusal)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("paths: [{file: a.jsonl}]\ntransformations: [filter: 'x > 1']", "DATA-E2008", "read_json_lines"),  # 75
        ("paths: [{file: a.jsonl}]\ntransformations:\n  - read_delimited: {}\n  - take: 5", "DATA-E2008", "2 transf"),
        ("paths: [{file: a.jsonl}]\ntransformations: [[x]]", "DATA-E2008", "['x']"),
        ("paths: [{file: a.jsonl}]\ntransformations: [read_delimited: {quote: x}]", "DATA-E2009", "delimiter, header"),
        ("paths: [{file: a.jsonl}]\ntransformations: [read_delimited: {encoding: latin1}]", "DATA-E2009", "utf8"),
        ("paths: [{file: a.jsonl}]\ntransformations: [read_delimited: {delimiter: ab}]", "DATA-E2009", "one character"),
        ("paths: [{file: a.jsonl}]\ntransformations: [read_json_lines: {invalid_lines: drop}]", "DATA-E2009", "error"),
        ("paths: [{file: a.jsonl}]\nmetadata: {x: 1}", "DATA-E2007", "metadata"),
        ("paths: [!!python/object/apply:os.system ['echo hi']]", "DATA-E2005", "python"),  # 76
        (BOMB + "paths: [{file: a.jsonl}]", "DATA-E2004", "alias *a"),  # 76
        ("[" * 60_000, "DATA-E2011", "at most 16"),
        ("paths: [{file: a.jsonl}]" + "#" * 70_000, "DATA-E2003", "65536"),
        ("paths: [{pattern: './*.csv'}]", "DATA-E2010", "a.jsonl, b.jsonl"),  # 77
        ("paths: [{pattern: '" + "*a" * 30 + "b'}]", "DATA-E2010", "a.jsonl"),
        ("paths: [{pattern: 'a**b'}]", "DATA-E2010", "a.jsonl"),
        ("paths: []", "DATA-E2006", "list of paths"),
        ("paths: [{url: a}]", "DATA-E2006", "file, folder, pattern"),
        ("just text", "DATA-E2006", "list of paths"),
    ],
)
def test_a_table_that_is_not_understood_is_refused(tmp_path, text, code, words):
    folder = table(tmp_path, text, a__jsonl=rows("a"), b__jsonl=rows("b"))
    Path(folder, "z" + "a" * 200).touch()
    error = refused(tmp_path, train_mltable_path=folder)
    assert (type(error), error.problems[0].code) == (UserError, code)
    assert error.problems[0].where.startswith(f"{folder}/MLTable")
    assert words in str(error)


def test_no_broken_table_ends_in_a_traceback(tmp_path):
    import random

    whole = "type: mltable\npaths:\n  - file: ./a.jsonl\n  - pattern: ./*.jsonl\n" + JSON_LINES
    draw = random.Random(75)
    outcomes = set()
    for _ in range(400):
        text = whole
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(text))
            text = (
                text[:at]
                + draw.choice(["", "[", "{", ": ", "- ", "\t", "&a ", "*a", "!!int ", "\x07", "'", "\n"])
                + text[at + draw.randint(0, 6) :]
            )
        folder = table(tmp_path, text, a__jsonl=rows("a"))
        try:
            open_all(tmp_path, train_mltable_path=folder)
            outcomes.add("good")
        except (UserError, SecurityRefusal) as error:
            outcomes |= {problem.code for problem in error.problems}
            for problem in error.problems:
                assert_six_parts(str(problem))
    assert {"good", "DATA-E2005", "DATA-E2010"} < outcomes


def test_a_folder_without_a_table_is_refused(tmp_path):
    assert refused(tmp_path, train_mltable_path=str(tmp_path)).problems[0].code == "DATA-E2002"


# Data sets


@pytest.fixture
def saved(tmp_path):
    from datasets import Dataset, DatasetDict

    train, test = Dataset.from_dict({"text": ["a", "b"]}), Dataset.from_dict({"text": ["c"]})
    train.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "both"))
    return tmp_path


def test_a_data_set_saved_to_disk_is_read_as_it_is(saved):
    for given, split, texts in (
        ({"train_file_path": f"{saved}/one"}, "train", ["a", "b"]),
        ({"train_file_path": f"{saved}/both"}, "train", ["a", "b"]),
        ({"test_file_path": f"{saved}/both"}, "test", ["c"]),
        ({"dataset_name": f"{saved}/both", "dataset_validation_split": "test"}, "validation", ["c"]),
    ):
        files, _ = open_all(saved, split, **given)
        [(name, read)] = texts_of(files).items()
        assert read == texts
        assert name.startswith(str(saved))
        assert name.endswith(")")


def test_a_folder_of_files_is_read_by_load_dataset(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text(rows("a", "b"))
    (folder / "test.jsonl").write_text(rows("c"))
    given = {"dataset_name": str(folder), "dataset_test_split": "test"}
    assert texts_of(open_all(tmp_path, **given)[0]) == {f"{folder} (train)": ["a", "b"]}
    assert texts_of(open_all(tmp_path, "test", **given)[0]) == {f"{folder} (test)": ["c"]}
    assert open_all(tmp_path, "validation", **given) == ([], [])
    [problem] = refused(tmp_path, dataset_name=str(folder), dataset_split="dev").problems
    assert problem.code == "DATA-E2102"
    assert "train" in problem.found
    [problem] = refused(tmp_path, dataset_name=str(folder), dataset_config="fr").problems
    assert problem.code == "DATA-E2103"


def test_files_win_over_a_data_set(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    files, told = open_all(tmp_path, train_file_path=str(file), dataset_name="owner/set")
    assert texts_of(files) == {str(file): ["a"]}
    assert told.codes == ["DATA-W2002"]


def test_a_data_set_that_cannot_be_reached_is_an_outage_and_one_that_cannot_be_read_is_not(tmp_path):
    error = refused(tmp_path, dataset_name="owner/set")
    assert (error.exit_code, error.problems[0].code, error.problems[0].where) == (4, "DATA-E2104", "dataset_name")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "a"}\n{"text": \n')
    error = refused(tmp_path, dataset_name=str(folder))
    assert (error.exit_code, error.problems[0].code) == (2, "DATA-E2105")
    assert "train_file_path" in error.problems[0].fix


# Mixtures


def mixture_of(tmp_path, *weights):
    parts = []
    for number, weight in enumerate(weights):
        file = write_jsonl(tmp_path / f"{number}.jsonl", [{"text": f"{number}"}])
        parts.append({"path": str(file), "sampling_weight": weight, "name": f"source {number}"})
    return parts


def test_a_mixture_opens_every_source_with_its_weight(tmp_path):
    parts = mixture_of(tmp_path, 3.0, 0, 1)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("x", "y"):
        write_jsonl(folder / f"{name}.jsonl", [{"text": name}])
    parts.append({"path": str(folder)})
    for given in (parts, json.dumps(parts), {"type": "CONCATENATION", "datasets": parts}):
        files, _ = open_all(tmp_path, training_data=given)
        assert [(file.source, file.weight) for file in files] == [
            ("source 0", 3.0), ("source 2", 1.0), (str(folder), 1.0), (str(folder), 1.0),
        ]  # fmt: skip
        assert [file.name for file in files][-1] == f"{folder}/y.jsonl"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "JSON"),
        ("[]", "at least one source"),
        ('[{"path": "a", "sampling_weight": -1}]', "training_data[0].sampling_weight: found -1"),
        ('[{"path": "a", "sampling_weight": 0}]', "only weights of 0"),
        ('[{"path": "a", "weight": 1}]', "training_data[0].weight: found 1; expected one of path, "),
        ('[{"path": "a", "dataset_name": "b"}]', "one of path and dataset_name"),
        ('[{"name": "b"}]', "neither path nor dataset_name"),
        ('{"type": "AUTO", "datasets": [{"path": "a"}]}', "training_data.type"),
        ("5", "training_data"),
        ('[{"path": "a"}, {"path": "a"}]', "training_data[1]: found a second source"),
    ],
)
def test_a_mixture_that_means_nothing_is_refused(text, words):
    with pytest.raises(UserError) as error:
        read_parameters("chat_completion", {"pytorch_model_path": "m", "training_data": text})
    assert words in str(error.value)
    for problem in error.value.problems:
        assert_six_parts(str(problem))


def test_rows_come_from_one_kind_of_source():
    given = {"pytorch_model_path": "m", "training_data": '[{"path": "a"}]', "train_file_path": "b"}
    with pytest.raises(UserError, match="train_file_path as well"):
        read_parameters("chat_completion", given)
    for source in ({"dataset_name": "a/b"}, {"training_data": '[{"path": "a"}]'}, {"train_mltable_path": "t"}):
        read_parameters("chat_completion", {"pytorch_model_path": "m", **source})


# Digests


def digest(split="train", **given):
    return data_sources.digest(data_sources.look(split, DataSource(**given), Told()))


def test_the_digest_follows_the_content_of_every_file(tmp_path, saved):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_text(rows("a"))
    (folder / "b.jsonl").write_text(rows("b"))
    one = digest(train_file_path=f"{folder}/a.jsonl")
    both = digest(train_file_path=str(folder))
    assert len({one, both, digest(train_file_path=f"{folder}/b.jsonl")}) == 3
    (folder / "_SUCCESS").write_text("")
    assert digest(train_file_path=str(folder)) == both
    (folder / "b.jsonl").write_text(rows("c"))
    assert digest(train_file_path=str(folder)) != both
    assert digest(train_file_path=f"{folder}/a.jsonl") == one
    table(tmp_path, "paths: [{file: x.csv}]\ntransformations: [read_delimited: {delimiter: ';'}]", x__csv="text;a\n")
    semicolon = digest(train_mltable_path=f"{tmp_path}/table")
    table(tmp_path, "paths: [{file: x.csv}]\ntransformations: [read_delimited: {delimiter: ','}]")
    assert digest(train_mltable_path=f"{tmp_path}/table") != semicolon
    assert digest(dataset_name=f"{saved}/one") != digest(dataset_name=f"{saved}/both")


def test_data_sets_on_the_hub_are_pinned_to_their_commit(monkeypatch):
    from steps.sources import hub

    monkeypatch.setattr(hub, "resolve_dataset", lambda parameter, name, revision: f"{name}@{revision}")
    given = DataSource(dataset_name="owner/set", dataset_revision="v1", dataset_test_split="test")
    pinned = data_sources.pinned(given)
    assert pinned == given.model_copy(update={"dataset_revision": "owner/set@v1"})
    parts = [{"dataset_name": "owner/one", "sampling_weight": 2.0}, {"path": "a.jsonl"}]
    mixed = data_sources.pinned(DataSource(training_data=parts))
    [one, file] = json.loads(mixed.training_data)["datasets"]
    assert (one["dataset_revision"], one["sampling_weight"]) == ("owner/one@main", 2.0)
    assert file["path"] == "a.jsonl"
    assert data_sources.pinned(mixed).train_file_path == ""
