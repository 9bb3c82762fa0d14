"""Conversations: what is refused, with row and message; what is repaired and counted."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checking import check_data
from data_cases import Case, check_verdict
from trl.data_utils import is_conversational, maybe_convert_to_chatml

from steps.errors import UserError
from steps.params.chat_columns import ChatColumns
from steps.prepare_data.alone import check_alone
from steps.prepare_data.check.rows import read_back
from steps.tasks import load_task

CHAT = load_task("chat_completion")
ASK, SAY = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
RULE = {"role": "system", "content": "be kind"}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
SHAREGPT = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}


def text(*words):
    return [{"type": "text", "text": word} for word in words]


def call(arguments, **more):
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{**more, "function": {"name": "add", "arguments": arguments}}],
    }


def result(**more):
    return {"role": "tool", "content": "3", **more}


def rows(*conversations, key="messages", **more):
    """Good rows around the given ones, which start at record 2."""
    good = [[dict(ASK, content=f"{number}?"), SAY] for number in range(4)]
    talks = [good[0], *conversations, *good[1:]]
    return "\n".join(json.dumps({key: talk, **more}) for talk in talks)


def sharegpt(*conversations, **more):
    return "\n".join(json.dumps({"conversations": talk, **more}) for talk in conversations)


def more_shares(count):
    return [[{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": "no"}] for n in range(count)]


# Where the rows under test stand.
TEXT0, TEXT1, ROLE1 = (f":2 (record 2) messages{path}" for path in ("[0].content", "[1].content", "[1].role"))

CASES = [
    Case(78, "late system", rows([ASK, RULE, SAY]), "DATA-E0408", ROLE1, "allow_late_system=true"),
    Case(78, "late system allowed", rows([ASK, RULE, SAY]), "DATA-W0424", options={"allow_late_system": True}),
    Case(79, "two user turns", rows([ASK, ASK, SAY]), "DATA-E0409", ROLE1, "merge_turns=true"),
    Case(79, "two user turns joined", rows([ASK, ASK, SAY]), "DATA-F0416", options={"merge_turns": True}),
    Case(80, "empty content", rows([ASK, {**SAY, "content": ""}]), "DATA-E0406", TEXT1, '""'),
    Case(80, "blank content", rows([{**ASK, "content": " \n"}, SAY]), "DATA-E0406", TEXT0),
    Case(81, "no assistant turn", rows([RULE, ASK]), "DATA-E0410", ":2 (record 2) messages", "roles system, user"),
    Case(82, "unknown role", rows([ASK, {**SAY, "role": "bot"}]), "DATA-E0412", ROLE1,
         "role_map=bot=assistant"),
    Case(82, "unknown role mapped", rows([ASK, {**SAY, "role": "bot"}]), "DATA-F0415",
         options={"role_map": "bot=assistant"}),
    Case(82, "role mapped as an object", rows([ASK, {**SAY, "role": "Bot"}]), "DATA-F0415",
         options={"role_map": {"Bot": "assistant"}}),
    Case(83, "no messages", rows([]), "DATA-E0402", ":2 (record 2) messages"),
    Case(84, "null content", rows([{**ASK, "content": None}, SAY]), "DATA-E0404", TEXT0, "null"),
    Case(84, "null content beside calls", rows([ASK, call({"a": 1}), SAY]), ""),
    Case(85, "ShareGPT", sharegpt(SHAREGPT, *more_shares(5)), "DATA-F0414", count=6),
    Case(85, "ShareGPT under our name", rows(SHAREGPT), "DATA-F0414"),
    Case(85, "ShareGPT with an unknown name",
         sharegpt(*more_shares(5), [{"from": "narrator", "value": "x"}, SHAREGPT[1]]), "DATA-E0412",
         ":6 (record 6) conversations[0].role", '"narrator"'),
    Case(86, "arguments as JSON text", rows([ASK, call('{"a": 1}'), SAY]), "DATA-F0418"),
    Case(86, "arguments as an object", rows([ASK, call({"a": 1}), SAY]), ""),
    Case(86, "arguments as broken JSON", rows([ASK, call('{"a": '), SAY]), "DATA-E0419",
         ":2 (record 2) messages[1].tool_calls[0].function.arguments"),
    Case(86, "arguments as a list", rows([ASK, call("[1]"), SAY]), "DATA-E0419",
         ":2 (record 2) messages[1].tool_calls[0].function.arguments"),
    Case(86, "calls that are no list", rows([ASK, {**SAY, "tool_calls": "add(1)"}]), "DATA-E0420",
         ":2 (record 2) messages[1].tool_calls"),
    Case(87, "result with another id", rows([ASK, call({}, id="x"), result(tool_call_id="y"), SAY]), "DATA-E0421",
         ":2 (record 2) messages[2].tool_call_id", '"y"'),
    Case(87, "result without a call", rows([ASK, result(tool_call_id="y"), SAY]), "DATA-E0421",
         ":2 (record 2) messages[1].tool_call_id", "there is none"),
    Case(87, "result before anybody spoke", rows([ASK, result(), SAY]), "DATA-E0421", ROLE1),
    Case(87, "result of its call", rows([ASK, call({}, id="x"), result(tool_call_id="x"), SAY]), ""),
    Case(88, "image part", rows([{**ASK, "content": [*text("what?"), IMAGE]}, SAY]), "DATA-E0422",
         TEXT0, "image_url"),
    Case(24, "text parts", rows([{**ASK, "content": text("2", " + 2?")}, SAY]), "DATA-F0417"),
    Case(24, "content as a list of texts", rows([{**ASK, "content": ["2"]}, SAY]), "DATA-E0405",
         TEXT0, "not a list"),
    Case(6, "U+0000, strict", rows([{**ASK, "content": "a\0b"}, SAY]), "DATA-E0413", TEXT0,
         "strict=false", options={"strict": True}),
    Case(6, "U+0000", rows([{**ASK, "content": "a\0b"}, SAY]), "DATA-W0202"),
    Case(0, "tools that are no list", rows([ASK, SAY], tools="add"), "DATA-E0423", ":1 (record 1) tools", count=5),
    Case(0, "a tool without a name", rows([ASK, SAY], tools=[{"type": "function"}]), "DATA-E0423",
         ":1 (record 1) tools[0]", count=5),
    Case(0, "calls by the user", rows([{**ASK, "tool_calls": call({})["tool_calls"]}, SAY]), "DATA-E0420",
         ":2 (record 2) messages[0].tool_calls", 'role "user"'),
    Case(0, "another column name", rows([ASK, SAY], key="message"), "DATA-E0601", ":1 (record 1) messages",
         "did you mean message?", count=5),
    Case(0, "rows as seed 3 has them", rows([ASK, SAY], dataset="d", id="1", tags=["a"], labels={}), "DATA-F0601",
         says="dataset, id, tags, labels"),
    Case(85, "ShareGPT in csv", "conversations\n" + "\n".join(
        '"' + json.dumps(talk).replace('"', '""') + '"' for talk in more_shares(6)), "DATA-F0414",
         name="train.csv", count=6),
    Case(0, "no such column in csv", "message,tools\na,b\n", "DATA-E0601", ":1 messages", "did you mean message?",
         name="train.csv"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_conversation_is_judged_as_the_catalogue_says(case, tmp_path):
    check_verdict(case, tmp_path, "chat_completion")


def training(row, **columns):
    """What a raw row becomes on its way through rows/<split>.parquet."""
    rules = ChatColumns(**columns)
    assert list(CHAT.check_row(row, rules)) == []
    table = pa.Table.from_pylist([CHAT.canonical(row, rules)], CHAT.SCHEMA)
    [back] = read_back(table)
    return CHAT.training_row(back, ChatColumns())


def test_sharegpt_rows_become_what_trl_makes_of_them():
    row = {"conversations": [{"from": "system", "value": "be kind"}, *SHAREGPT]}
    renamed = {"system": "system", "human": "user", "gpt": "assistant"}
    theirs = maybe_convert_to_chatml(json.loads(json.dumps(row)))
    for message in theirs["messages"]:
        message["role"] = renamed[message["role"]]
    assert training(row) == theirs
    assert is_conversational(training(row))


def test_sharegpt_calls_and_observations_become_calls_and_results():
    talk = [SHAREGPT[0], {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
            {"from": "observation", "value": "4"}, SHAREGPT[1]]  # fmt: skip
    given = training({"conversations": talk, "tools": json.dumps(TOOLS)})
    assert [message["role"] for message in given["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert given["messages"][1]["tool_calls"] == [
        {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    ]
    assert given["tools"] == TOOLS


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_tools_are_handed_on_as_a_list_however_they_were_written(tools):
    assert training({"messages": [ASK, SAY], "tools": tools}) == {"messages": [ASK, SAY], "tools": TOOLS}
    assert training({"messages": [ASK, SAY], "functions": tools}, tools_key="functions")["tools"] == TOOLS


@pytest.mark.parametrize("none", [None, [], "", "[]"])
def test_a_row_without_tools_has_no_such_key(none):
    assert training({"messages": [ASK, SAY], "tools": none}) == {"messages": [ASK, SAY]}


def test_arguments_are_an_object_whichever_way_they_were_written():
    for written in ({"b": 1, "a": [2]}, '{"b": 1, "a": [2]}'):
        given = training({"messages": [ASK, call(written, id="x"), result(tool_call_id="x"), SAY]})
        made = given["messages"][1]["tool_calls"]
        assert json.dumps(made) == json.dumps(call({"b": 1, "a": [2]}, id="x")["tool_calls"])
    assert training({"messages": [ASK, call("{}"), SAY]})["messages"][1]["tool_calls"][0]["function"]["arguments"] == {}


def test_what_is_repaired_reads_like_a_conversation():
    talk = [{**ASK, "content": text("a", "b")}, {"role": "human", "content": "c"}, {"role": "Bot", "content": "d"}]
    given = training({"messages": talk}, merge_turns=True, role_map="human=user, Bot=assistant")
    assert given == {"messages": [{"role": "user", "content": "ab\n\nc"}, {"role": "assistant", "content": "d"}]}


def test_rows_with_tools_survive_parquet_in_and_out(tmp_path):
    file = tmp_path / "train.parquet"
    talk = [ASK, {**call(None), "content": "adding"}, SAY]
    talk[1]["tool_calls"][0]["function"]["arguments"] = '{"a": 1}'
    talks = [[*talk[:2], {**SAY, "content": f"answer {n}"}] for n in range(5)]
    pq.write_table(
        pa.Table.from_pylist([{"messages": t, "tools": json.dumps(TOOLS), "id": n} for n, t in enumerate(talks)]), file
    )
    checked = check_data("chat_completion", file, min_train_rows=1, scratch=tmp_path)
    [row, *_] = read_back(checked.rows["train"].table())
    given = CHAT.training_row(row, ChatColumns())
    assert given["tools"] == TOOLS
    assert given["messages"][0] == ASK
    assert given["messages"][1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}


@pytest.mark.parametrize("value", ["bot=robot", {"bot": "robot"}, "bot"])
def test_a_role_map_to_no_role_is_refused(value, tmp_path):
    (tmp_path / "t.jsonl").write_text(rows([ASK, SAY]))
    with pytest.raises(UserError) as error:
        check_alone("chat_completion", str(tmp_path / "t.jsonl"), options={"role_map": value})
    assert "expected roles among system, user, assistant, tool" in str(error.value)
