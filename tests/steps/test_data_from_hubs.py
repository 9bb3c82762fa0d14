"""What data sets of hubs and joined files bring: names of classes, rows without a label, marks, other encodings."""

import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checking import check_data
from conftest import write_jsonl
from data_cases import assert_six_parts

from steps.errors import UserError
from steps.params.chat_columns import ChatColumns, GrpoColumns
from steps.params.task_columns import ClassificationColumns, TokenColumns
from steps.tasks import load_task

NAMES = ["negative", "positive"]


def told(checked):
    return {note["code"]: note for note in checked.repairs + checked.warnings}


def refused(task, *files, **given):
    with pytest.raises(UserError) as error:
        check_data(task, *files, **given)
    for problem in error.value.problems:
        assert_six_parts(str(problem))
    return {problem.code: problem for problem in error.value.problems}


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
    note = told(checked)["DATA-F0520"]
    assert note["count"] == 30
    assert "numbers in the column label read as the classes that the file lists: negative, positive" in note["what"]
    assert "DATA-F1003" not in told(checked)


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
    assert told(checked)["DATA-F0520"]["count"] == 30
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
    problem = refused("text_classification", given)["DATA-E1008"]
    assert (problem.count, problem.rows) == (10, (3, 6, 9, 12, 15))


def test_a_number_for_which_the_file_has_no_name_is_refused(tmp_path):
    file = tmp_path / "a.parquet"
    reviews([0, 1] * 15).to_parquet(str(file))
    table = pq.read_table(file)
    wrong = table.set_column(1, table.schema.field("label"), pa.array([0, 1, 7] * 10))
    pq.write_table(wrong, file)
    problem = refused("text_classification", file)["DATA-E0520"]
    assert (problem.where, problem.found, problem.count) == (f"{file} (record 3) label", "7", 10)
    assert "negative, positive" in problem.expected


def test_yes_and_no_are_read_from_numbers_whatever_the_file_calls_them(tmp_path):
    made = reviews([0, 1] * 15).rename_columns({"sentence1": "passage", "label": "relevant"})
    made = made.add_column("query", [f"query {n}" for n in range(30)])
    made.to_parquet(str(tmp_path / "a.parquet"))
    assert "DATA-F0520" not in told(check_data("reranking", tmp_path / "a.parquet"))


def test_the_user_s_function_gets_numbers_and_the_names_are_told(tmp_path):
    (tmp_path / "f.py").write_text("def keep(row):\n    return row\n")
    reviews([0, 1] * 15).to_parquet(str(tmp_path / "a.parquet"))
    given = {"processing_function": f"{tmp_path / 'f.py'}:keep"}
    assert "DATA-W0521" in told(check_data("text_classification", tmp_path / "a.parquet", **given))


NO_NAMES = b'{"info": {"features": {"label": {"names": null, "_type": "ClassLabel"}}}}'


@pytest.mark.parametrize("content", [b"{}", b"nonsense", b'{"info": {"features": [1]}}', b'{"info": 3}', NO_NAMES])
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
        problem = refused("text_classification", tmp_path / f"a.{kind}", columns=columns)["DATA-E1008"]
        assert "-1" in problem.found
        assert "labels=" in problem.fix
    else:
        assert check_data("text_classification", tmp_path / f"a.{kind}", columns=columns).counts["train"] == 24


def test_a_test_file_without_labels_is_refused_for_that_reason(tmp_path):
    train = write_jsonl(tmp_path / "a.jsonl", [{"sentence1": f"text {n}", "label": n % 2} for n in range(30)])
    test = write_jsonl(tmp_path / "b.jsonl", [{"sentence1": f"other {n}", "label": -1} for n in range(5)])
    problems = refused("text_classification", train, "", test)
    assert list(problems) == ["DATA-E1008"]
    assert problems["DATA-E1008"].where == f"{test}:1 (record 1) label"


# Joined and wrongly encoded files


def test_marks_between_joined_json_lines_are_removed_and_counted(tmp_path):
    part = "".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(20)).encode("utf-8-sig")
    other = part.replace(b"text ", b"more ")
    (tmp_path / "a.jsonl").write_bytes(part + other + b"\xef\xbb\xbf\n" + other.replace(b"more ", b"last "))
    checked = check_data("text_generation", tmp_path / "a.jsonl")
    assert sum(checked.counts.values()) == 60
    assert told(checked)["DATA-F0101"]["count"] == 4
    assert "DATA-W0204" not in told(checked)


@pytest.mark.parametrize("quote", ["", '"'])
def test_the_header_between_joined_csv_files_is_no_row(tmp_path, quote):
    header = f"{quote}text{quote},{quote}id{quote}\r\n"
    part = (header + "".join(f"text {n},{n}\r\n" for n in range(20))).encode("utf-8-sig")
    (tmp_path / "a.csv").write_bytes(part + part.replace(b"text ", b"more ") + part[3:].replace(b"text ", b"last "))
    checked = check_data("text_generation", tmp_path / "a.csv")
    assert sum(checked.counts.values()) == 60
    assert told(checked)["DATA-F0308"]["count"] == 2


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize(("name", "text"), [("a.jsonl", '{"text": "a"}\n'), ("a.json", '[{"text": "a"}]'),
                                            ("a.csv", "text,id\na,1\n"), ("a.tsv", "text\tid\na\t1\n")])  # fmt: skip
def test_wide_text_without_a_mark_is_named(tmp_path, encoding, name, text):
    (tmp_path / name).write_bytes((text * 12).encode(encoding))
    [problem] = refused("text_generation", tmp_path / name).values()
    kind = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    assert (problem.code, problem.found) == ("DATA-E0104", f"{kind} without a byte order mark")
    assert f"iconv -f {kind}" in problem.fix


@pytest.mark.parametrize("character", ["\ufeff", "\ufffd"])
@pytest.mark.parametrize("written", ["raw", "escaped", "ESCAPED"])
def test_damaged_characters_are_counted_however_they_are_written(tmp_path, character, written):
    code = {"\ufeff": "DATA-W0204", "\ufffd": "DATA-W0205"}[character]
    shown = {"raw": character, "escaped": f"\\u{ord(character):04x}", "ESCAPED": f"\\u{ord(character):04X}"}[written]
    lines = [f'{{"text": "text {n}{shown if n % 10 == 3 else ""}."}}' for n in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    note = told(check_data("text_generation", tmp_path / "a.jsonl"))[code]
    assert (note["count"], note["rows"]) == (4, [4, 14, 24, 34])


# Types


def chats(count, last=None, **more):
    turns = lambda n: [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes"}]  # noqa: E731
    return [{"messages": turns(n) + ([last] if last else []), **more} for n in range(count)]


def test_files_whose_column_has_other_kinds_of_values_are_told(tmp_path):
    (tmp_path / "set").mkdir()
    texts = [{"sentence1": f"text {n}", "label": f"{n % 2}"} for n in range(20)]
    write_jsonl(tmp_path / "set/a.jsonl", texts)
    table = pa.table({"sentence1": [f"other {n}" for n in range(20)], "label": [0, 1] * 10})
    pq.write_table(table, tmp_path / "set/b.parquet")
    note = told(check_data("text_classification", tmp_path / "set"))["DATA-W2404"]
    assert note["what"] == (
        f"{tmp_path}/set/b.parquet: the column label holds a number, in {tmp_path}/set/a.jsonl text"
    )
    write_jsonl(tmp_path / "c.jsonl", [*texts, {"sentence1": "one more", "label": 1}])
    note = told(check_data("text_classification", tmp_path / "c.jsonl"))["DATA-W2404"]
    assert note["what"].endswith("the column label holds a number and text")
    (tmp_path / "set/b.parquet").unlink()
    (tmp_path / "set/b.csv").write_text("sentence1,label\n" + "".join(f"other {n},{n % 2}\n" for n in range(20)))
    assert "DATA-W2404" not in told(check_data("text_classification", tmp_path / "set"))


def test_lists_as_json_text_are_counted_where_a_list_could_stand(tmp_path):
    rows = [{"messages": json.dumps(row["messages"])} for row in chats(30)]
    note = told(check_data("chat_completion", write_jsonl(tmp_path / "a.jsonl", rows)))["DATA-F0621"]
    assert note["count"] == 30
    assert note["what"].endswith("JSON text in the column messages read as a list or an object")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert told(check_data("chat_completion", tmp_path / "a.parquet"))["DATA-F0621"]["count"] == 30
    words = [{"tokens": '["Ada", "x"]', "tags": ["B-PER", "O"], "n": n} for n in range(30)]
    for n, row in enumerate(words):
        row["tokens"] = json.dumps(["Ada", f"x{n}"])
    assert told(check_data("token_classification", write_jsonl(tmp_path / "b.jsonl", words)))["DATA-F0621"]


def test_decimals_inside_schemas_and_calls_are_numbers(tmp_path):
    number = decimal.Decimal("1.50")
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "minimum": number}}}
    pq.write_table(pa.Table.from_pylist(chats(30, tools=[tool])), tmp_path / "a.parquet")
    checked = check_data("chat_completion", tmp_path / "a.parquet", scratch=tmp_path)
    tools = json.loads(checked.rows["train"].table()["tools"][0].as_py())
    assert tools[0]["function"]["parameters"]["minimum"] == 1.5
    assert told(checked)["DATA-F0510"]["count"] == 30


def test_a_decimal_as_ground_truth_is_read_as_a_number(tmp_path):
    rows = [{"problem": f"what is {n} and a half", "solution": decimal.Decimal(f"{n}.50")} for n in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    checked = check_data("grpo", tmp_path / "a.parquet", split="positional", scratch=tmp_path)
    assert checked.rows["train"].table()["ground_truth"][1].as_py() == "1.5"
    assert told(checked)["DATA-F0522"]["count"] == 30
    exact = [{**row, "solution": decimal.Decimal("0.1234567890123456789")} for row in rows]
    pq.write_table(pa.Table.from_pylist(exact), tmp_path / "a.parquet")
    problem = refused("grpo", tmp_path / "a.parquet")["DATA-E0522"]
    assert problem.where == f"{tmp_path}/a.parquet (record 1) solution"


def test_texts_that_are_no_utf_8_in_a_column_of_texts_are_refused_with_their_row(tmp_path):
    texts = pa.array([b"a%d" % n if n != 7 else b"caf\xe9" for n in range(30)], pa.binary())
    damaged = pa.StringArray.from_buffers(30, *texts.buffers()[1:])
    pq.write_table(pa.table({"text": damaged}), tmp_path / "a.parquet")
    problem = refused("text_generation", tmp_path / "a.parquet")["DATA-E0503"]
    assert (problem.where, problem.count) == (f"{tmp_path}/a.parquet (record 8) text", 1)
    assert "0xE9" in problem.found


def test_infinity_inside_a_column_that_is_kept_is_told_and_as_a_label_named(tmp_path):
    rows = [{"problem": f"what is {n}", "solution": f"{n}", "level": [float("inf")]} for n in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert told(check_data("grpo", tmp_path / "a.parquet"))["DATA-W0201"]["count"] == 30
    file = write_jsonl(tmp_path / "a.jsonl", [{"sentence1": "a", "label": 1}])
    for text, shown in (("Infinity", "Infinity"), ("-Infinity", "-Infinity"), ("1e999", "Infinity"), ("NaN", "NaN")):
        file.write_text(f'{{"sentence1": "a", "label": {text}}}\n')
        assert refused("text_classification", file)["DATA-E1002"].found == shown


# What teaches nothing


@pytest.mark.parametrize("last", [{"role": "user", "content": "and?"}, {"role": "tool", "content": "4"},
                                  {"role": "user", "content": "and?", "name": "Ann"}])  # fmt: skip
def test_a_last_turn_that_nobody_answers_is_counted(tmp_path, last):
    rows = chats(30)
    rows[4:6] = [{**row, "messages": [*row["messages"], last]} for row in rows[4:6]]
    note = told(check_data("chat_completion", write_jsonl(tmp_path / "a.jsonl", rows)))["DATA-W0441"]
    assert (note["count"], note["rows"]) == (2, [5, 6])


@pytest.mark.parametrize("messages", [False, True])
def test_pairs_that_differ_in_white_space_only_are_counted(tmp_path, messages):
    say = (lambda text: [{"role": "assistant", "content": text}]) if messages else (lambda text: text)
    rows = [{"prompt": f"{n} ", "chosen": say(f"yes {n}"), "rejected": say(f"no {n}")} for n in range(30)]
    for n, other in ((3, " yes  3\n"), (4, "yes\u00a04"), (5, "yes 5\u200b")):
        rows[n]["rejected"] = say(other)
    note = told(check_data("preference", write_jsonl(tmp_path / "a.jsonl", rows)))["DATA-W1507"]
    assert (note["count"], note["rows"]) == (3, [4, 5, 6])


@pytest.mark.parametrize("text", ['[{"role": "user", "content": "a"', "[{'role': 'user', 'content': 'a'}]",
                                  '[{"from": "human", "value": "\\ud800"}]'])  # fmt: skip
@pytest.mark.parametrize(("task", "key"), [("grpo", "problem"), ("preference", "chosen"), ("kto", "completion")])
def test_messages_as_broken_json_are_no_text(tmp_path, text, task, key):
    row = {"grpo": lambda n: {"problem": f"what is {n}", "solution": f"{n}"},
           "preference": lambda n: {"prompt": f"{n} ", "chosen": f"yes {n}", "rejected": "no"},
           "kto": lambda n: {"prompt": f"{n} ", "completion": f"yes {n}", "label": n % 2 == 0}}[task]  # fmt: skip
    rows = [row(n) for n in range(30)]
    rows[3][key] = text
    assert refused(task, write_jsonl(tmp_path / "a.jsonl", rows))["DATA-E0442"].where.endswith(f"(record 4) {key}")


@pytest.mark.parametrize("task", ["grpo", "verl"])
def test_rows_with_one_prompt_stand_in_one_split_whatever_their_other_columns(tmp_path, task):
    def row(n):
        if task == "grpo":
            return {"problem": f"what is {n % 40}", "solution": f"{n % 40}", "id": n}
        return {"data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": f"what is {n % 40}"}],
                "ability": "math", "reward_model": {"style": "rule", "ground_truth": "1"},
                "extra_info": {"index": n}}  # fmt: skip

    file = write_jsonl(tmp_path / "a.jsonl", [row(n) for n in range(100)])
    checked = check_data(task, file, scratch=tmp_path)
    prompts = [
        {json.dumps(row["prompt"]) for row in checked.rows[name].table().to_pylist()}
        for name in ("train", "validation", "test")
    ]
    assert sum(map(len, prompts)) == 40
    assert sum(checked.counts.values()) == 100


def test_null_in_a_column_for_the_reward_functions_is_counted(tmp_path):
    rows = [{"problem": f"what is {n}", "solution": f"{n}", "level": None if n < 3 else n} for n in range(30)]
    note = told(check_data("grpo", write_jsonl(tmp_path / "a.jsonl", rows)))["DATA-W1524"]
    assert (note["count"], note["rows"]) == (3, [1, 2, 3])
    assert "null in level" in note["what"]
    empty = [{**row, "solution": " "} for row in rows[3:]]
    assert told(check_data("grpo", write_jsonl(tmp_path / "b.jsonl", empty), columns=GrpoColumns()))["DATA-W1526"]


def test_a_function_that_drops_every_row_is_named_in_the_refusal(tmp_path):
    (tmp_path / "f.py").write_text("def drop(row):\n    return None\n")
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": f"text {n}"} for n in range(30)])
    problem = refused("text_generation", file, processing_function=f"{tmp_path / 'f.py'}:drop")["DATA-E0108"]
    assert problem.found == "0 rows, as drop dropped every row"
    (tmp_path / "f.py").write_text("def drop(row):\n    return row if row['text'] == 'text 3' else None\n")
    with pytest.raises(UserError) as error:
        check_data("text_generation", file, processing_function=f"{tmp_path / 'f.py'}:drop")
    assert "0 training rows of 1 after holding out validation and test" in str(error.value)
    assert "rows dropped by drop: 29" in " ".join(error.value.__notes__)


def test_strict_still_refuses_a_nul_in_json_text(tmp_path):
    rows = [{"messages": json.dumps(row["messages"])} for row in chats(30)]
    rows[2] = {"messages": json.dumps(chats(1, {"role": "user", "content": "a\0b"})[0]["messages"])}
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    assert told(check_data("chat_completion", file))["DATA-W0202"]["rows"] == [3]
    assert "DATA-E0413" in refused("chat_completion", file, columns=ChatColumns(strict=True))
