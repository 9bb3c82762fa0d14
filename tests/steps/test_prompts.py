"""Prompts to answer: which rows are read as which, what is refused, and what prepare_data writes of them."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checking import check_data
from data_cases import Case, check_verdict, notes, refused

from steps.artifacts import read_manifest
from steps.errors import UserError
from steps.params.chat_columns import PromptColumns
from steps.params.data import Preprocessing
from steps.params.settings import DataSettings, Resolved
from steps.prepare_data.alone import check_alone
from steps.prepare_data.step import prepare_data
from steps.sources import data_sources
from steps.tasks import load_task

TASK = load_task("prompts")
ASK, SAY = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
RULE = {"role": "system", "content": "be kind"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def read(row: dict, **columns) -> dict:
    """Read one row as the check does, and leave out what is null."""
    given = PromptColumns(**columns)
    assert [fault.code for fault in TASK.check_row(row, given)] == []
    made = TASK.canonical(row, given)
    assert list(made) == TASK.SCHEMA.names
    made["prompt"] = made["prompt"] and [(m["role"], m["content"]) for m in made["prompt"]]
    return {name: value for name, value in made.items() if value is not None}


# Row, columns, and what it is read as.
READ = [
    ({"prompt": "2 + 2 =", "id": 7, "level": 1}, {}, {"text": "2 + 2 =", "id": "7", "more": '{"level":1}'}),
    ({"text": "a"}, {}, {"text": "a"}),
    ({"prompt": None, "text": "a"}, {}, {"text": "a", "more": '{"prompt":null}'}),
    ({"question": "2 + 2?", "answer": 4}, {"reference_key": "answer"}, {"text": "2 + 2?", "reference": "4"}),
    ({"question": "Who?", "context": "Ada."}, {}, {"text": "Who?\nAda."}),
    ({"instruction": "Add.", "input": "2 + 2", "output": "4"}, {"reference_key": "output"},
     {"text": "Add.\n2 + 2", "reference": "4"}),
    ({"instruction": "Add.", "input": ""}, {}, {"text": "Add.", "more": '{"input":""}'}),
    ({"body": "a", "prompt": "b"}, {"prompt_key": "body"}, {"text": "a", "more": '{"prompt":"b"}'}),
    ({"messages": [ASK]}, {}, {"prompt": [("user", "2 + 2?")]}),
    ({"messages": [RULE, ASK, SAY]}, {}, {"prompt": [("system", "be kind"), ("user", "2 + 2?")], "reference": "4"}),
    ({"messages": [ASK, SAY], "right": "four"}, {"reference_key": "right"},
     {"prompt": [("user", "2 + 2?")], "reference": "four"}),
    ({"messages": [ASK, {**SAY, "weight": 0}]}, {}, {"prompt": [("user", "2 + 2?")]}),
    ({"messages": [ASK], "prompt": "2 + 2?"}, {}, {"prompt": [("user", "2 + 2?")], "more": '{"prompt":"2 + 2?"}'}),
    ({"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}, {},
     {"prompt": [("user", "2 + 2?")], "reference": "4"}),
    ({"prompt": [ASK]}, {}, {"prompt": [("user", "2 + 2?")]}),
    ({"prompt": json.dumps([ASK])}, {}, {"prompt": [("user", "2 + 2?")]}),
    ({"prompt_messages": [ASK]}, {}, {"prompt": [("user", "2 + 2?")]}),
    ({"prompt": "2 + 2?", "system": "be kind"}, {}, {"prompt": [("system", "be kind"), ("user", "2 + 2?")]}),
    ({"messages": [RULE, ASK], "system": "be short"}, {}, {"prompt": [("system", "be kind"), ("user", "2 + 2?")]}),
    ({"messages": [ASK], "tools": [TOOL]}, {},
     {"prompt": [("user", "2 + 2?")], "tools": json.dumps([TOOL], separators=(",", ":"))}),
]  # fmt: skip


@pytest.mark.parametrize(("row", "columns", "expected"), READ, ids=range(len(READ)))
def test_a_row_is_read_as(row, columns, expected):
    assert read(row, **columns) == expected


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


RIGHT = {"reference_key": "right"}
CASES = [
    Case(0, "no column", lines({"foo": 1}), "DATA-E0601", ":1 (record 1) prompt", "or one of messages, conversations"),
    Case(0, "no column of a table", "foo,bar\n1,2\n", "DATA-E0601", ":1 prompt", "or one of messages", "train.csv"),
    Case(0, "an empty prompt", lines({"prompt": "a"}, {"prompt": " "}), "DATA-E0603", ":2 (record 2) prompt"),
    Case(0, "a number", lines({"prompt": 5}), "DATA-E0602", ":1 (record 1) prompt"),
    Case(0, "no message", lines({"messages": []}), "DATA-E0402", ":1 (record 1) messages"),
    Case(0, "only an answer", lines({"messages": [SAY]}), "DATA-E1541", ":1 (record 1) messages", "a question of"),
    Case(0, "only a rule", lines({"messages": [RULE, SAY]}), "DATA-E1541", ":1 (record 1) messages"),
    Case(0, "two questions", lines({"messages": [ASK, ASK]}), "DATA-E0409", ":1 (record 1) messages[1].role"),
    Case(0, "two questions joined", lines({"messages": [ASK, ASK]}), "DATA-F0416", options={"merge_turns": True}),
    Case(0, "a role", lines({"messages": [{"role": "bot", "content": "a"}, ASK]}), "DATA-E0412",
         ":1 (record 1) messages[0].role"),
    Case(0, "a cut list", lines({"prompt": '[{"role": "user", "con'}), "DATA-E0442", ":1 (record 1) prompt"),
    Case(0, "a tool", lines({"messages": [ASK], "tools": [{"a": 1}]}), "DATA-E0423", ":1 (record 1) tools[0]"),
    Case(0, "a rule that is no text", lines({"prompt": "a", "system": 5}), "DATA-E0602", ":1 (record 1) system"),
    Case(0, "no column of right answers", lines({"prompt": "a"}), "DATA-E0601", ":1 (record 1) right", options=RIGHT),
    Case(0, "not a number", '{"prompt": "a", "right": NaN}\n', "DATA-E1525", ":1 (record 1) right", options=RIGHT),
    Case(0, "no right answer", lines({"prompt": "a", "right": "4"}, {"prompt": "b", "right": ""}), "DATA-W1542",
         says="the row is answered and not scored", options=RIGHT),
    Case(0, "a right answer in another type", lines({"prompt": "a", "right": 4}), "DATA-F1541", options=RIGHT),
    Case(0, "two right answers", lines({"messages": [ASK, SAY], "right": "four"}), "DATA-W1543", options=RIGHT),
    Case(0, "a text beside", lines({"question": "a", "context": "b"}), "DATA-F1544"),
    Case(0, "an answer that is a call", lines({"messages": [ASK, {
        "role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}]}), "DATA-W1545"),
    Case(0, "repeated rows", lines(*[{"prompt": "a"}] * 9), ""),
    Case(0, "plain text", "one\n\ntwo\n", "DATA-F0131", name="train.txt", count=2),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_verdict(case, tmp_path):
    check_verdict(case, tmp_path, "prompts")


def test_one_row_of_one_split_is_enough_and_nothing_is_divided(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(lines({"prompt": "a"}))
    checked = check_data("prompts", test=file)
    assert (checked.counts, notes(checked)) == ({"test": 1}, {})
    file.write_text(lines(*[{"prompt": "a"}, {"prompt": "b"}] * 50))
    assert check_data("prompts", test=file).counts == {"test": 100}
    check_alone("prompts", test=str(file))
    with pytest.raises(UserError, match="PARAM-E0203"):
        check_alone("prompts")


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json", "a.parquet"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    file, texts = tmp_path / name, ["one", "two"]
    if name == "a.parquet":
        pq.write_table(pa.table({"prompt": texts}), file)
    else:
        rows = [{"prompt": text} for text in texts]
        written = {
            ".txt": "one\ntwo\n",
            ".csv": "prompt\none\ntwo\n",
            ".jsonl": lines(*rows),
            ".json": json.dumps(rows),
        }
        file.write_text(written[file.suffix])
    made = check_data("prompts", test=file, scratch=tmp_path).rows["test"].table().to_pylist()
    assert [row["text"] for row in made] == texts


def test_a_column_that_is_named_is_read_from_plain_text_too(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one\n")
    columns = PromptColumns(prompt_key="question", sample_by="document")
    rows = check_data("prompts", test=file, columns=columns, scratch=tmp_path).rows["test"].table().to_pylist()
    assert rows[0]["text"] == "one"


def test_strict_refuses_characters_that_nobody_means(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(lines({"prompt": "a\0b"}))
    assert [p.code for p in refused("prompts", "", "", file, columns=PromptColumns(strict=True))] == ["DATA-E0413"]


# prepare_data


def settings(file: Path | None = None, **given) -> DataSettings:
    columns = {**PromptColumns().model_dump(), **given.pop("columns", {})}
    made = DataSettings(task="prompts", columns=columns, **given)
    if file is None:
        return made
    made = made.model_copy(update={"test": Resolved(uri=str(file), digest="")})
    found = data_sources.look("test", made.data_source, lambda code, what: None)
    return made.model_copy(update={"test": Resolved(uri=str(file), digest=data_sources.digest(found))})


def prepared(folder: Path, tokenizer: Path, rows: str | None = None, **given) -> Path:
    file = None
    if rows is not None:
        file = folder / "rows.jsonl"
        file.write_text(rows)
    prepare_data(settings(file, **given), tokenizer, folder / "data", folder / "data.html")
    return folder / "data"


def test_prepared_prompts_have_rows_and_no_tokens(tiny_model, tmp_path):
    data = prepared(tmp_path, tiny_model, lines({"messages": [ASK, SAY]}, {"prompt": "a"}, {"prompt": "a"}))
    assert sorted(read_manifest(data, "data").files) == ["rows/test.parquet"]
    assert pq.read_schema(data / "rows/test.parquet").equals(TASK.SCHEMA)
    facts = read_manifest(data).facts
    assert facts["splits"] == {"test": {
        "source": str(tmp_path / "rows.jsonl"), "rows": 3, "references": 1, "conversations": 1, "texts": 2,
    }}  # fmt: skip
    assert facts["template"] == "the model's own"
    page = (tmp_path / "data.html").read_text()
    assert "with a right answer" in page
    assert "training rows" not in page


def test_the_template_is_kept_if_it_is_not_the_models_own(tiny_model, tmp_path):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    (tmp_path / "own.jinja").write_text(template)
    given = {"preprocessing": Preprocessing(chat_template=str(tmp_path / "own.jinja"))}
    data = prepared(tmp_path, tiny_model, lines({"messages": [ASK]}), **given)
    assert (data / "chat_template.jinja").read_text() == template
    # Texts need none, whatever was asked for.
    (tmp_path / "texts").mkdir()
    data = prepared(tmp_path / "texts", tiny_model, lines({"prompt": "a"}), **given)
    assert list(read_manifest(data).files) == ["rows/test.parquet"]


def test_prompts_that_are_a_parameter_are_rows(tiny_model, tmp_path):
    data = prepared(tmp_path, tiny_model, asked=("2 + 2 =",) * 3)
    assert pq.read_table(data / "rows/test.parquet")["text"].to_pylist() == ["2 + 2 ="] * 3


def test_a_conversation_that_the_template_refuses_is_named(tiny_model, tmp_path):
    (tmp_path / "own.jinja").write_text("{% if messages|length > 1 %}{{ raise_exception('too long') }}{% endif %}x")
    given = {"preprocessing": Preprocessing(chat_template=str(tmp_path / "own.jinja"))}
    with pytest.raises(UserError, match=r"DATA-E0805 .*rows.jsonl:2 \(record 2\).*too long"):
        prepared(tmp_path, tiny_model, lines({"messages": [ASK]}, {"messages": [RULE, ASK]}), **given)


@pytest.mark.parametrize(
    "template",
    ["{{ 1 / 0 }}", "{{ '%d' % 'x' }}", 
     "{{ 'x'.encode('nothing') }}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
     "{% if false %}x{% endif %}", "{{ '\\ud800' }}"],
)  # fmt: skip
def test_whatever_a_template_raises_or_writes_is_told_with_the_row(tiny_model, tmp_path, template):
    (tmp_path / "own.jinja").write_text(template)
    given = {"preprocessing": Preprocessing(chat_template=str(tmp_path / "own.jinja"))}
    with pytest.raises(UserError, match=r"DATA-E0805 .*rows.jsonl:1 \(record 1\)"):
        prepared(tmp_path, tiny_model, lines({"messages": [ASK]}), **given)


def test_a_template_may_write_no_text_of_a_message(tiny_model, tmp_path):
    (tmp_path / "own.jinja").write_text("{% for one in messages %}{{ one.role }} {% endfor %}")
    given = {"preprocessing": Preprocessing(chat_template=str(tmp_path / "own.jinja"))}
    assert read_manifest(prepared(tmp_path, tiny_model, lines({"messages": [ASK]}), **given)).facts["end_of_turn"] == ""


def test_a_model_without_a_template_answers_texts_only(tiny_model, tmp_path):
    plain = Path(shutil.copytree(tiny_model, tmp_path / "plain"))
    (plain / "chat_template.jinja").unlink()
    assert prepared(tmp_path, plain, lines({"prompt": "a"})).is_dir()
    with pytest.raises(UserError, match="DATA-E0801"):
        prepared(tmp_path, plain, lines({"messages": [ASK]}))


def test_a_servers_prompts_need_no_tokenizer(tmp_path):
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    data = prepared(tmp_path, nothing, lines({"messages": [ASK]}, {"prompt": "a"}))
    assert read_manifest(data).facts["splits"]["test"]["rows"] == 2
    with pytest.raises(UserError, match="DATA-E0825"):
        prepared(tmp_path, nothing, lines({"prompt": "a"}), preprocessing=Preprocessing(chat_template="chat-ml"))


def test_a_file_that_changed_after_the_plan_is_refused(tiny_model, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(lines({"prompt": "a"}))
    planned = settings(file)
    file.write_text(lines({"prompt": "b"}))
    with pytest.raises(UserError, match="DATA-E0111"):
        prepare_data(planned, tiny_model, tmp_path / "data", tmp_path / "data.html")
