"""Rows accepted by the fast check are accepted by the task's own check, with the same result."""

import json
import random

import pytest

from steps.params.chat_columns import ChatColumns
from steps.params.data import TextColumns
from steps.prepare_data.check import parts
from steps.prepare_data.check.parts import check_jsonl
from steps.prepare_data.read.sources import SourceFile

TEXT = '{"text": "a b"}'
CHAT = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'

# Lines that must not be waved through; each stands among good ones.
ODD = [
    '{"text": "a", "text": "b"}',
    '{"text": "a\\u0000b"}',
    '{"text": "a", "x": 1}',
    '{"text": ""}',
    '{"text": " \\n"}',
    '{"text": "a"}{"text": "b"}',
    '{"text": "a"',
    "",
    "null",
    '{"text": 1}',
    '{"text" : "a"}',
    '{"text": "a"} ',
    '{"text": "\\ud83d"}',
    '{"text": "a\\\\"}',
    '{"text": "\\"", "text": "b"}',
    '{"messages": [{"role": "user", "content": "a", "content": "b"}, {"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "c"}]}',
    '{"messages": [{"role": "user", "content": "a", "name": "Ann"}, {"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": "bot", "content": "a"}, {"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": "user", "content": null}, {"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "x"}, '
    '{"role": "assistant", "content": "b"}]}',
    '{"messages": [], "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "x"}, '
    '{"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]\n}{"messages": []}',
]


def outcome(file, task, columns, folder):
    """Everything that a check says about a file, and the rows it keeps."""
    folder.mkdir()
    part = check_jsonl(SourceFile(file, "a.jsonl"), task, columns, folder / "rows")
    rows = [row for table in part.tables for row in parts_of(table)]
    findings = part.findings
    told = ([str(p) for p in findings.problems], findings.warnings, findings.repaired, dict(part.unused))
    return told, rows, list(part.fingerprints), list(part.outlines), part.records, part.lines


def parts_of(table):
    import pyarrow as pa

    return pa.ipc.open_file(str(table)).read_all().to_pylist()


def both_ways(file, task, columns, tmp_path, monkeypatch):
    fast = outcome(file, task, columns, tmp_path / "fast")
    monkeypatch.setattr(parts, "plain_reader", lambda *_: None)
    slow = outcome(file, task, columns, tmp_path / "slow")
    monkeypatch.undo()
    return fast, slow


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_line_is_judged_the_same_with_and_without_the_short_cut(tmp_path, monkeypatch, odd):
    chat = "messages" in odd
    good, task = (CHAT, "chat_completion") if chat else (TEXT, "text_generation")
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join([good, good, odd, good]) + "\n")
    fast, slow = both_ways(file, task, ChatColumns() if chat else TextColumns(), tmp_path, monkeypatch)
    assert fast == slow


@pytest.mark.parametrize("ground_truth_key", ["", "answer"])
def test_good_rows_take_the_short_cut_and_give_the_same(tmp_path, monkeypatch, ground_truth_key):
    draw = random.Random(1)
    pieces = ['a"b', "tab\t", "line\n", "back\\slash", "ünïcödé", "x\u2028y", "{x}", '"key": 1', "A  B", "😀"]
    rows = [{"question": " ".join(draw.choices(pieces, k=3)) + " ", "answer": draw.choice(pieces)} for _ in range(500)]
    if not ground_truth_key:
        rows = [{"question": row["question"]} for row in rows]
    columns = TextColumns(text_key="question", ground_truth_key=ground_truth_key)
    for ascii_only in (True, False):
        file = tmp_path / f"{ascii_only}.jsonl"
        file.write_text("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows), "utf-8")
        block = file.read_bytes()
        assert parts._plain_rows(block, parts.plain_reader("text_generation", columns)) is not None
        (tmp_path / str(ascii_only)).mkdir()
        fast, slow = both_ways(file, "text_generation", columns, tmp_path / str(ascii_only), monkeypatch)
        assert fast == slow
        assert len(fast[1]) == 500


def test_good_chats_take_the_short_cut_and_give_the_same(tmp_path, monkeypatch):
    draw = random.Random(2)

    def say(role):
        return {"role": role, "content": draw.choice(['say "hi"', "a\\b", "x\ny", "ä"]) + str(draw.random())}

    rows = [
        {"chat": [say("system")] * draw.randint(0, 1) + [say("user"), say("assistant")] * draw.randint(1, 3)}
        for _ in range(500)
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ChatColumns(messages_key="chat")
    assert parts._plain_rows(file.read_bytes(), parts.plain_reader("chat_completion", columns)) is not None
    fast, slow = both_ways(file, "chat_completion", columns, tmp_path, monkeypatch)
    assert fast == slow
    assert len(fast[1]) == 500
