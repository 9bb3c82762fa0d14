"""Valid rows of each task, and their conversion."""

import json
from collections.abc import Iterator

import pyarrow as pa
import pytest
from command_line import with_our_code
from forking import ForkingPython

from steps.params.chat_columns import ChatColumns
from steps.params.data import TextColumns
from steps.tasks import TASKS, as_found, load_task, reads_pairs

CHAT, TEXT = load_task("chat_completion"), load_task("text_generation")
PROMPTS = TextColumns(text_key="ask", ground_truth_key="say", text_separator=" = ")


def user(content="hi", **more):
    return {"role": "user", "content": content, **more}


def assistant(content="hello", **more):
    return {"role": "assistant", "content": content, **more}


def system(content="be kind", **more):
    return {"role": "system", "content": content, **more}


CALL = [{"type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": 1}}}]

# Catalogue row, messages, what is wrong: (code, column, words of the message).
BAD_CHATS = [
    (78, [user(), system(), assistant()], [("DATA-E0408", "messages[1].role", "the system message first")]),
    (79, [user(), user(), assistant()], [("DATA-E0409", "messages[1].role", "two user turns")]),
    (80, [user(""), assistant(" \n")], [("DATA-E0406", "messages[0].content", '""'),
                                        ("DATA-E0406", "messages[1].content", r'" \n"')]),
    (81, [system(), user()], [("DATA-E0410", "messages", "roles system, user")]),
    (82, [user(), {"role": "gpt", "content": "x"}], [("DATA-E0412", "messages[1].role", "did you mean assistant?")]),
    (82, [user(), {"role": "assistent", "content": "x"}],
     [("DATA-E0412", "messages[1].role", "role_map=assistent=assistant")]),
    (82, [user(), {"role": "chatbots", "content": "x"}], [("DATA-E0412", "messages[1].role", "role_map=chatbots=")]),
    (82, [{"role": None, "content": "x"}, assistant()], [("DATA-E0412", "messages[0].role", "null")]),
    (83, [], [("DATA-E0402", "messages", "at least one message")]),
    (84, [user(None), assistant()], [("DATA-E0404", "messages[0].content", "null")]),
    (84, [user(), {"role": "assistant"}], [("DATA-E0404", "messages[1].content", "nothing")]),
    (24, [user(["a"]), assistant()], [("DATA-E0405", "messages[0].content", "not a list")]),
    (88, [user([{"type": "image"}]), assistant()], [("DATA-E0422", "messages[0].content", "images")]),
    (23, [user(7), assistant()], [("DATA-E0405", "messages[0].content", "not a number")]),
    (65, [user(), None, assistant()], [("DATA-E0403", "messages[1]", "null")]),
    (65, ["hi", assistant()], [("DATA-E0403", "messages[0]", '"hi"')]),
    (0, [{"content": "x"}, assistant()], [("DATA-E0407", "messages[0].role", "add it")]),
    (0, {"role": "user"}, [("DATA-E0401", "messages", "not an object")]),
    (0, None, [("DATA-E0401", "messages", "not null")]),
    (0, "hello", [("DATA-E0411", "messages", '"hello"')]),
    (0, '"hello"', [("DATA-E0401", "messages", "not text")]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "messages", "expected"), BAD_CHATS)
def test_every_fault_of_a_conversation_is_named_with_its_message(row, messages, expected):
    faults = list(CHAT.check_row({"messages": messages}, ChatColumns()))
    assert [(fault.code, fault.column) for fault in faults] == [(code, column) for code, column, _ in expected]
    for fault, (_, _, words) in zip(faults, expected, strict=True):
        assert words in f"{fault.found} {fault.expected} {fault.fix}"


GOOD_CHATS = [
    [user(), assistant()],
    [system(), user(), assistant(), user(), assistant()],
    [assistant()],
    [user(), assistant(None, tool_calls=CALL), {"role": "tool", "content": "3", "tool_call_id": "x"}, assistant()],
    [user(), {"role": "assistant", "tool_calls": CALL}],
    [user(name="Ann", weight=None), assistant(), assistant("and more")],
]


@pytest.mark.parametrize("messages", GOOD_CHATS)
def test_a_good_conversation_survives_its_canonical_form(messages):
    columns = ChatColumns(messages_key="talk")
    for written in (messages, json.dumps(messages)):
        assert list(CHAT.check_row({"talk": written}, columns)) == []
        table = pa.Table.from_pylist([CHAT.canonical({"talk": written}, columns)], CHAT.SCHEMA)
        [row] = table.to_pylist()
        expected = [
            {"role": m["role"], "content": m.get("content"), **{k: v for k, v in m.items() if v is not None}}
            for m in messages
        ]
        given = CHAT.training_row(row, ChatColumns())["messages"]
        assert given == expected
        assert json.dumps(given[-1]) == json.dumps(expected[-1])  # the order of keys is what a template writes


def test_the_question_of_a_conversation_is_all_but_the_last_answer():
    row = CHAT.canonical({"messages": [system(), user(), assistant("a"), user("b"), assistant("c")]}, ChatColumns())
    assert CHAT.question(row, ChatColumns()) == ([system(), user(), assistant("a"), user("b")], "c")
    for messages in ([user(), assistant(), user()], [assistant()], [user(), assistant(None, tool_calls=CALL)]):
        row = CHAT.canonical({"messages": messages}, ChatColumns())
        assert CHAT.question(row, ChatColumns()) is None


def test_a_text_and_a_prompt_with_its_answer_take_the_names_that_trl_knows():
    whole = TEXT.canonical({"text": "once", "id": 3}, TextColumns())
    assert TEXT.training_row(whole, TextColumns()) == {"text": "once"}
    assert TEXT.question(whole, TextColumns()) is None
    asked = TEXT.canonical({"ask": "1 + 1", "say": "2"}, PROMPTS)
    assert TEXT.training_row(asked, PROMPTS) == {"prompt": "1 + 1 = ", "completion": "2"}
    # Whoever reads rows/test.parquet does not know the user's columns.
    assert TEXT.question(asked, TextColumns()) == ("1 + 1 = ", "2")


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"text": ""}, TextColumns(), [("DATA-E0603", "text")]),
        ({"text": " \u2003"}, TextColumns(), [("DATA-E0603", "text")]),
        ({"text": None}, TextColumns(), [("DATA-E0602", "text")]),
        ({"text": 7}, TextColumns(), [("DATA-E0602", "text")]),
        ({"Text": "a"}, TextColumns(), [("DATA-E0601", "text")]),
        ({"ask": "a", "say": ""}, PROMPTS, [("DATA-E0603", "say")]),
        ({"ask": None, "say": 2}, PROMPTS, [("DATA-E0602", "ask"), ("DATA-E0602", "say")]),
    ],
)
def test_every_fault_of_a_text_is_named_with_its_column(row, columns, expected):
    assert [(fault.code, fault.column) for fault in TEXT.check_row(row, columns)] == expected


def test_a_missing_column_names_the_parameter_and_what_was_probably_meant():
    [fault] = TEXT.check_row({"ask": "a", "Say": "b"}, PROMPTS)
    assert "did you mean 'Say'?" in fault.fix
    assert "ground_truth_key" in fault.fix
    [fault] = CHAT.check_row({"message": []}, ChatColumns())
    assert "did you mean message?" in fault.fix
    assert "messages_key" in fault.fix


def test_a_prompt_that_runs_into_its_answer_is_worth_a_warning():
    row = {"ask": "1 + 1", "say": "2"}
    assert [code for code, _ in TEXT.remarks(row, PROMPTS.model_copy(update={"text_separator": ""}))] == ["DATA-W0601"]
    assert list(TEXT.remarks(row, PROMPTS)) == []
    assert list(TEXT.remarks({"text": "a"}, TextColumns())) == []


def test_values_are_shown_as_they_stand_in_a_file_and_cut():
    assert as_found("bot") == '"bot"'
    assert as_found(None) == "null"
    assert as_found("x" * 500) == '"' + "x" * 78 + "…"
    assert as_found({"a": [1, True]}) == '{"a": [1, true]}'


def test_a_task_says_itself_whether_its_rows_are_pairs():
    assert reads_pairs("text_classification", {"sentence2_key": "other"}) is True
    assert reads_pairs("text_classification", {}) is False
    assert [name for name in ("chat_completion", "translation") if reads_pairs(name, {})] == []


@pytest.fixture(scope="module")
def python() -> Iterator[ForkingPython]:
    """A Python that has loaded what every task needs."""
    made = ForkingPython(["pyarrow", "steps.tasks"], with_our_code())
    yield made
    made.close()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_needs_no_torch(python, name, tmp_path):
    code = "import sys; from steps.tasks import load_task; load_task(sys.argv[1]); print('torch' in sys.modules)"
    assert python.run(code, name, cwd=tmp_path) == "False\n"
