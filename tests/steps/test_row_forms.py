"""Rows in the forms that people have are read as the same rows in the standard form, and told with their count."""

import copy
import json
import random
from functools import cache
from typing import get_args

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from data_cases import Case, check_verdict
from grids import long_but
from preferences import prepared as prepared_answers
from row_forms import ALL, CHAT, PAIRS, RATED, RULE, TABLES, ask, bot, human, reply, short, user
from test_data_fuzzed import changed
from test_preference_data import by_trl, cut, tokens_of
from test_prepare_data_tokens import theirs
from training_inputs import settings_with, train

from steps.params.chat_columns import RowForm
from steps.params.data import DataSource
from steps.params.reading import read_parameters
from steps.prepare_data.check.checking import check_data as check_sources
from steps.prepare_data.check.rows import read_back
from steps.tasks import load_task
from steps.tasks.forms import row_reader
from steps.tasks.forms.table import DECLARED, FORMS, forms_of

ENOUGH = {"huggingface_id": "a/b", "train_file_path": "a.jsonl"}


def rows_in(folder, task, rows, name="train.jsonl", held_out=None, **columns):
    """What the check makes of training rows: their form for TRL, in their order, and what it tells, by code."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif name.endswith(".csv"):
        pa.csv.write_csv(pa.Table.from_pylist(rows), file)
    else:
        write_jsonl(file, rows)
    module = load_task(task)
    given = module.Columns(**columns)
    usual = TABLES[task][next(iter(TABLES[task]))][0]
    for number, split in enumerate(("validation", "test")):
        write_jsonl(
            folder / f"{split}.jsonl", held_out or [usual(n) for n in range(900 + 3 * number, 903 + 3 * number)]
        )
    source = DataSource(
        train_file_path=str(file),
        validation_file_path=str(folder / "validation.jsonl"),
        test_file_path=str(folder / "test.jsonl"),
        min_train_rows=1,
    )
    checked = check_sources(task, source, given, scratch=folder)
    made = [module.training_row(row, given) for row in read_back(checked.rows["train"].table())]
    told = [entry for entry in checked.repairs + checked.warnings if entry["what"].startswith(str(file))]
    return made, {entry["code"]: entry for entry in told}


@pytest.mark.parametrize(("task", "name"), ALL, ids=lambda value: value)
def test_a_form_is_read_as_the_same_rows_in_the_standard_form(tmp_path, task, name):
    row, standard, title = TABLES[task][name]
    made, told = rows_in(tmp_path / "d", task, [row(n) for n in range(12)])
    expected = [standard(n) for n in range(12)]
    assert made == ([{"messages": messages} for messages in expected] if task == "chat_completion" else expected)
    if title:
        assert told["DATA-F0611"]["what"].endswith(f"read as {title} rows")
        assert told["DATA-F0611"]["count"] == 12
    else:
        assert "DATA-F0611" not in told


@pytest.mark.parametrize(("task", "name"), ALL, ids=lambda value: value)
def test_a_form_is_read_from_parquet_as_from_json(tmp_path, task, name):
    row, standard, _ = TABLES[task][name]
    rows = [row(n) for n in range(12)]
    made, _ = rows_in(tmp_path / "d", task, rows, "train.parquet")
    expected = [standard(n) for n in range(12)]
    assert made == ([{"messages": messages} for messages in expected] if task == "chat_completion" else expected)


def as_cells(row):
    return {
        key: value if isinstance(value, str) else "" if value is None else json.dumps(value)
        for key, value in row.items()
    }


@pytest.mark.parametrize(("task", "name"), ALL, ids=lambda value: value)
def test_a_form_is_read_from_csv_as_from_json(tmp_path, task, name):
    row, standard, _ = TABLES[task][name]
    made, _ = rows_in(tmp_path / "d", task, [as_cells(row(n)) for n in range(12)], "train.csv")
    expected = [standard(n) for n in range(12)]
    assert made == ([{"messages": messages} for messages in expected] if task == "chat_completion" else expected)


ROWS = 40
STANDARD_LOSSES = []


@cache
def trl_tokens(folder, model, standard, completions_only):
    rows = [{"messages": standard(n)} for n in range(ROWS)]
    return theirs(folder, model, rows, assistant_only_loss=completions_only)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAT)
def test_conversations_in_every_form_become_the_tokens_that_trl_makes_of_their_messages(
    tmp_path, tmp_path_factory, tiny_model, name
):
    row, standard, _ = CHAT[name]
    rows = [{**row(n)} for n in range(ROWS)]
    for completions_only in (False, True):
        expected = trl_tokens(tmp_path_factory.getbasetemp(), tiny_model, standard, completions_only)
        folder = tmp_path / str(completions_only)
        folder.mkdir()
        made = chat_tokens(folder, tiny_model, rows, completions_only)
        assert made["input_ids"] == expected["input_ids"]
        assert made["labels"] == expected["labels"]


def chat_tokens(folder, model, rows, completions_only):
    from steps.params.settings import DataSettings, Resolved
    from steps.prepare_data.step import prepare_data
    from steps.sources import storage

    files = {"train": rows, "validation": [{"messages": short(n)} for n in range(900, 905)],
             "test": [{"messages": short(n)} for n in range(910, 915)]}  # fmt: skip
    sources = {name: write_jsonl(folder / f"{name}.jsonl", part) for name, part in files.items()}
    settings = DataSettings(
        task="chat_completion",
        **{name: Resolved(uri=str(file), digest=storage.digest_of(name, str(file))) for name, file in sources.items()},
        preprocessing={"train_on_completions_only": completions_only},
        max_length=160,
    )
    prepare_data(settings, model, folder / "data", folder / "report.html")
    assert "chip" in (folder / "report.html").read_text()
    return pq.read_table(folder / "data/tokens/train.parquet").to_pydict()


SHORT = [name for name in CHAT if CHAT[name][1] is short]


@pytest.mark.slow
@pytest.mark.parametrize("name", long_but(SHORT[:3], SHORT))
def test_three_steps_on_a_form_are_those_on_its_messages(tmp_path, model, local_root, name):
    def losses(kind, make):
        folder = tmp_path / kind
        folder.mkdir()
        chat_tokens(folder, model, [make(n) for n in range(24)], completions_only=True)
        settings = settings_with({"max_steps": 3, "evaluation_strategy": "no"})
        return [point["loss"] for point in train(settings, model, folder / "data", folder)["points"]]

    if not STANDARD_LOSSES:
        STANDARD_LOSSES.extend(losses("messages", lambda n: {"messages": short(n)}))
    assert losses("form", CHAT[name][0]) == STANDARD_LOSSES
    assert len(STANDARD_LOSSES) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_in_every_form_become_the_tokens_that_trl_makes_of_their_messages(tmp_path, tiny_model, name):
    row, standard, _ = PAIRS[name]
    data = prepared_answers(tiny_model, tmp_path / "a", [row(n) for n in range(84)], 200, task="preference")
    expected = by_trl("DPOTrainer", tiny_model, [standard(n) for n in range(60)], 200)
    assert tokens_of(data) == [cut(row, 200) for row in expected]


@pytest.mark.slow
@pytest.mark.parametrize("name", RATED)
def test_rated_answers_in_every_form_become_the_tokens_that_trl_makes_of_their_messages(tmp_path, tiny_model, name):
    row, standard, _ = RATED[name]
    data = prepared_answers(tiny_model, tmp_path / "a", [row(n) for n in range(84)], 200, task="kto")
    expected = by_trl("KTOTrainer", tiny_model, [standard(n) for n in range(72, 84)], 200)
    assert tokens_of(data, "test") == [{**cut(row, 200), "label": row["label"]} for row in expected]


def lines(*rows):
    return "\n".join(map(json.dumps, rows))


QA = {"question": "2 + 2?", "answer": "4"}
ALPACA = {"instruction": "Add.", "input": "2 + 2", "output": "4"}
JUDGED = [
    Case(0, "an empty output", lines(*[ALPACA] * 3, {**ALPACA, "output": ""}), "DATA-E0406", ":4 (record 4) output"),
    Case(0, "a null output", lines(*[ALPACA] * 3, {**ALPACA, "output": None}), "DATA-E0404", ":4 (record 4) output"),
    Case(0, "a number for an input", lines({**ALPACA, "input": 4}), "DATA-E0405", ":1 (record 1) input",
         "not a number"),
    Case(0, "nothing asked", lines({**ALPACA, "instruction": "", "input": ""}), "DATA-E0406",
         ":1 (record 1) instruction"),
    Case(0, "half a turn in a history", lines({**ALPACA, "history": [["a"]]}), "DATA-E0403",
         ":1 (record 1) history[0]"),
    Case(0, "a null answer in a history", lines({**ALPACA, "history": [["a", None]]}), "DATA-E0404",
         ":1 (record 1) history[0][1]"),
    Case(0, "a history of text", lines({**ALPACA, "history": "abc"}), "DATA-E0403", ":1 (record 1) history"),
    Case(0, "an empty answer in a turn", lines({"conversation": [{"human": "a", "assistant": ""}]}), "DATA-E0406",
         ":1 (record 1) conversation[0].assistant"),
    Case(0, "two forms", lines({**QA, "prompt": "a", "completion": "b"}), "DATA-E0612", ":1 (record 1) prompt",
         "set row_form=prompt_completion or question_answer"),
    Case(0, "two forms, one named",
         lines(*[{**QA, "answer": str(n), "prompt": "a", "completion": "b"} for n in range(3)]), "DATA-F0611",
         options={"row_form": "question_answer"}, count=3, says="read as question/answer rows"),
    Case(0, "two answers", lines({**QA, "response": "b"}), "DATA-E0612", ":1 (record 1) question",
         "remove one of the answer columns"),
    Case(0, "a column missing", lines({"instruction": "Add.", "input": "a"}), "DATA-E0601", ":1 (record 1) output",
         "for Alpaca rows, add the column 'output'"),
    Case(0, "the known forms are named", lines({"foo": "a"}), "DATA-E0601", ":1 (record 1) messages",
         "alpaca (instruction, output)"),
    Case(0, "a column missing in csv", "question,id\na,b\n", "DATA-E0601", ":1 answer",
         "for question/answer rows, add the column 'answer'", name="t.csv"),
    Case(0, "forms forbidden", lines(QA), "DATA-E0601", ":1 (record 1) messages", options={"row_form": "off"}),
    Case(0, "another column named explicitly", lines(QA), "DATA-E0601", ":1 (record 1) talk",
         options={"messages_key": "talk"}),
    Case(0, "another form named", lines(QA), "DATA-E0618", ":1 (record 1) instruction", "as row_form=alpaca says",
         options={"row_form": "alpaca"}),
    Case(0, "rows of several forms", lines(*[{"messages": short(n)} for n in range(4)], ALPACA, ALPACA, QA),
         "DATA-W0619", says="4 rows with the declared columns and 2 Alpaca rows and 1 question/answer rows"),
    Case(0, "declared columns win", lines(*[{"messages": short(n), **ALPACA} for n in range(4)]), "DATA-F0601",
         says="instruction, input, output"),
    Case(0, "two system texts", lines(*[{"messages": [{"role": "system", "content": "a"}, *short(n)],
                                         "system": "b"} for n in range(3)]), "DATA-W0616", count=3),
    Case(0, "unused keys of turns",
         lines(*[{"conversation": [{"human": f"{n}", "assistant": "b", "turn": 1}]} for n in range(3)]),
         "DATA-F0601", says="turn of turns"),
    Case(0, "a text called data", lines({"data": "a"}), "DATA-E0601", ":1 (record 1) messages"),
    Case(0, "a form of other rows", lines(QA), "DATA-E0617", "row_form", options={"row_form": "hh"}),
    Case(0, "a conversation without answer", lines({"messages": [user("a")], "label": True}), "DATA-E1504",
         ":1 (record 1) messages[0]", task="kto"),
    Case(0, "a rating missing", lines({"messages": short(1)}), "DATA-E0601", ":1 (record 1) label",
         "for ShareGPT rows, add the column 'label'", task="kto"),
    Case(0, "an answer missing", lines({"instruction": "a", "chosen": "b"}), "DATA-E0601", ":1 (record 1) rejected",
         "for Alpaca rows", task="preference"),
    Case(0, "equal answers", lines({"conversations": [human("a")], "chosen": bot("b"), "rejected": bot("b")}),
         "DATA-E1501", ":1 (record 1) rejected", task="preference"),
    Case(0, "another name of the rating",
         lines(*[{"messages": short(n), "good": n % 2} for n in range(4)], {"messages": short(5), "good": 3}),
         "DATA-E1511", ":5 (record 5) good", task="kto", options={"label_key": "good"}),
]  # fmt: skip


@pytest.mark.parametrize("case", JUDGED, ids=str)
def test_a_row_of_a_form_is_judged_under_the_names_of_its_own_columns(case, tmp_path):
    check_verdict(case, tmp_path, "chat_completion")


def test_rows_joined_in_one_parquet_file_are_read_by_what_they_have(tmp_path):
    rows = [{"messages": short(n), "instruction": None, "output": None} for n in range(4)]
    rows += [{"messages": None, "instruction": ask(n), "output": reply(n)} for n in range(4, 8)]
    made, told = rows_in(tmp_path / "d", "chat_completion", rows, "train.parquet")
    assert made == [{"messages": short(n)} for n in range(8)]
    assert told["DATA-F0611"]["count"] == 4
    assert "4 Alpaca rows" in told["DATA-W0619"]["what"]


def test_a_column_with_tools_stands_beside_every_form(tmp_path):
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    for extra in ({"tools": tools}, {"tools": json.dumps(tools)}):
        made, _ = rows_in(tmp_path / "d", "chat_completion", [{**ALPACA, **extra}])
        assert made[0]["tools"] == tools
        shares = {"conversations": [human("a"), {"from": "gpt", "value": "b"}], "system": RULE, **extra}
        made, _ = rows_in(tmp_path / "d", "chat_completion", [shares])
        assert made[0]["tools"] == tools
        assert made[0]["messages"][0] == {"role": "system", "content": RULE}


def test_transcripts_stay_texts_if_forms_are_forbidden(tmp_path):
    row = PAIRS["transcripts"][0]
    made, _ = rows_in(tmp_path / "d", "preference", [row(1)], held_out=[row(2)], row_form="off")
    assert isinstance(made[0]["prompt"], str)


def test_what_the_check_prints_says_the_form_and_the_count(tmp_path, caplog):
    from steps.prepare_data.alone import check_alone

    file = write_jsonl(tmp_path / "a.jsonl", [{**ALPACA, "input": str(n)} for n in range(30)])
    with caplog.at_level("INFO", "finetune"):
        check_alone("chat_completion", str(file))
    assert f"{file}: read as Alpaca rows: 30" in caplog.text


def test_every_form_has_a_name_in_the_parameter_and_every_name_a_form():
    named = {form.name for task in FORMS for form in forms_of(task, load_task(task).Columns())}
    assert named - {DECLARED} == set(get_args(RowForm)) - {"auto", "off"}


def test_a_form_beside_an_explicit_column_is_refused():
    for task, name in (("preference", "prompt_key"), ("kto", "completion_key"), ("chat_completion", "messages_key")):
        columns = load_task(task).Columns(row_form="alpaca", **{name: "q"})
        assert [problem.code for problem in columns.all_conflicts()] == ["PARAM-E0222"]
    assert load_task("kto").Columns(row_form="alpaca", label_key="good").all_conflicts() == []


def test_yaml_makes_false_of_off():
    reading = read_parameters("chat_completion", {**ENOUGH, "row_form": False})
    assert reading.parameters.row_form == "off"


@pytest.mark.slow
@pytest.mark.parametrize("task", TABLES)
def test_a_row_of_any_form_is_refused_in_words_or_survives(task):
    module, draw = load_task(task), random.Random(11)
    columns = module.Columns()
    reader = row_reader(task, columns)
    good = [row(n) for row, _, _ in TABLES[task].values() for n in range(2)]
    refused = 0
    for _ in range(4000):
        given = changed(draw.choice(good), draw)
        read = reader.read(copy.deepcopy(given))
        row = read.row if read else given
        faults = [read.fault] if read and read.fault else list(module.check_row(row, columns))
        faults = [read.told(f) for f in faults] if read else reader.hints(faults, given)
        if faults:
            refused += 1
            assert all(part for fault in faults for part in (fault.code, fault.column, fault.found, fault.fix)), given
            missing = ("DATA-E0601", "DATA-E1503")  # a column, a prompt
            assert all(column_of(fault) in given or fault.code in missing for fault in faults), (
                given,
                faults,
            )
            continue
        list(module.remarks(row, columns))
        made = module.canonical(row, columns)
        [back] = read_back(pa.Table.from_pylist([made], module.SCHEMA))
        assert back == made
        assert module.training_row(back, columns)
        module.question(back, columns)
    assert 400 < refused < 3900


def column_of(fault):
    return fault.column.partition("[")[0].partition(".")[0]
