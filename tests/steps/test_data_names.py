"""Roles, calls and parts in the words of other systems are read and counted, or refused with the right fix."""

import json

import pytest
from checking import check_data

from steps.errors import UserError
from steps.params.chat_columns import ChatColumns
from steps.tasks import load_task

CHAT = load_task("chat_completion")
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
NO_CALL = {"type": "function", "function": {"name": "add", "arguments": {}}}
SCHEMA = {"type": "function", "function": {"name": "add", "parameters": {}}}
ROWS = 20


def checked(tmp_path, row, task="chat_completion", **options):
    """Check ROWS rows that differ in their question; returns {code: count} of warnings and repairs."""
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row(n)) + "\n" for n in range(ROWS)))
    found = check_data(task, file, **options)
    return {told["code"]: told["count"] for told in [*found.warnings, *found.repairs]}


@pytest.mark.parametrize(
    ("role", "expected"),
    [("User", "user"), (" user", "user"), ("ASSISTANT", "assistant"), ("System", "system"), ("Tool", "tool"),
     ("developer", "system"), ("Developer", "system"), ("model", "assistant"), ("Model ", "assistant")],
)  # fmt: skip
def test_a_role_in_other_words_is_read_and_counted(role, expected):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": role, "content": "x"}]
    row = {"messages": messages}
    assert CHAT.canonical(row, ChatColumns())["messages"][2]["role"] == expected
    assert "DATA-F0443" in {code for code, _ in CHAT.remarks(row, ChatColumns())}


def test_role_map_is_stronger_than_the_known_names():
    row = {"messages": [{"role": "developer", "content": "q"}, {"role": "model", "content": "a"}]}
    columns = ChatColumns(role_map={"developer": "user"})
    assert [m["role"] for m in CHAT.canonical(row, columns)["messages"]] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("calls", "expected", "code"),
    [
        ([{"type": "function", "function": {"name": "add", "arguments": None}}], NO_CALL, "DATA-F0444"),
        ([{"type": "function", "function": {"name": "add"}}], NO_CALL, "DATA-F0444"),
        ([{"type": "function", "function": {"name": "add", "arguments": ""}}], NO_CALL, "DATA-F0444"),
        ([{"name": "add"}], {"name": "add", "arguments": {}}, "DATA-F0444"),
        ([{"type": "function", "function": json.dumps({"name": "add", "arguments": {"a": 1}})}], CALL, "DATA-F0418"),
        (json.dumps([CALL]), CALL, "DATA-F0418"),
        ([{"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}], CALL, "DATA-F0418"),
    ],
)
def test_calls_are_read_with_objects_as_arguments_and_counted(tmp_path, calls, expected, code):
    def row(n):
        return {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "tool_calls": calls}]}

    [_, answer] = CHAT.canonical(row(0), ChatColumns())["messages"]
    assert json.loads(answer["more"])["tool_calls"] == [expected]
    assert checked(tmp_path, row)[code] == ROWS


@pytest.mark.parametrize("tools", [[json.dumps(SCHEMA)], [SCHEMA, json.dumps(SCHEMA)]])
def test_schemas_as_json_text_are_read_and_counted(tmp_path, tools):
    def row(n):
        return {
            "tools": tools,
            "messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": "a"}],
        }

    assert json.loads(CHAT.canonical(row(0), ChatColumns())["tools"]) == [SCHEMA] * len(tools)
    assert checked(tmp_path, row)["DATA-F0445"] == ROWS


def test_parts_of_calls_are_refused_with_the_place_of_calls(tmp_path):
    parts = [{"type": "tool_use", "id": "t", "name": "add", "input": {}}]
    with pytest.raises(UserError, match="write tool_use as tool_calls"):
        checked(tmp_path, lambda n: {"messages": [{"role": "user", "content": f"q {n}"},
                                                  {"role": "assistant", "content": parts}]})  # fmt: skip


@pytest.mark.parametrize("labels", [[0, 1, 0], [0.0, 1.0, 0.0], [False, True, False], "[0, 1, 0]", ["0", "1", "0"]])
def test_one_number_for_each_class_is_not_read_as_a_list_of_labels(tmp_path, labels):
    with pytest.raises(UserError, match="DATA-E1009"):
        checked(tmp_path, lambda n: {"text": f"t {n}", "labels": labels}, "text_classification",
                columns=load_task("text_classification").Columns(sentence1_key="text", label_key="labels",
                                                                 multilabel=True))  # fmt: skip


@pytest.mark.parametrize("sample_by", ["paragraph", "document"])
def test_sample_by_has_no_effect_for_files_with_rows_and_says_so(tmp_path, sample_by):
    columns = load_task("pretraining").Columns(sample_by=sample_by)
    assert "DATA-W0132" in checked(tmp_path, lambda n: {"text": f"t {n}"}, "pretraining", columns=columns)


@pytest.mark.parametrize("output", [["a"], ["a", "b", "c"], '["a"]'])
def test_a_list_of_answers_is_a_pair_only_with_two(tmp_path, output):
    with pytest.raises(UserError, match="DATA-E1505"):
        checked(tmp_path, lambda n: {"instruction": f"q {n}", "output": output}, "preference")


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("text_classification", lambda n: {"sentence1": f"t {n // 2}", "label": "ab"[n % 2]}),
        ("reranking", lambda n: {"query": f"q {n // 2}", "passage": "p", "relevant": n % 2}),
        ("token_classification", lambda n: {"tokens": ["t", str(n // 2)], "tags": ["O", "OB"[n % 2]]}),
    ],
)
def test_equal_texts_with_different_labels_are_told(tmp_path, task, row):
    assert checked(tmp_path, row, task)["DATA-W0707"] == ROWS
    assert "DATA-W0707" not in checked(tmp_path, lambda n: row(n // 2 * 2 if n < 10 else n // 2 * 2 + 1), task)
