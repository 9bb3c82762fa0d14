"""Bad files are refused with the exact row, line and column; valid ones are read unchanged."""

import csv
import json
import random
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checking import check_data
from conftest import chat_rows
from data_cases import assert_six_parts

from steps.errors import UserError
from steps.params.chat_columns import ChatColumns
from steps.params.data import TextColumns
from steps.prepare_data.findings import Findings
from steps.prepare_data.read.json_rows import read_json, read_jsonl
from steps.prepare_data.read.reading import detect, read_rows
from steps.tasks import load_task

GOOD = '{"text": "once upon a time"}\n'
WANTED = {"text_key": "text"}


TOO_FEW = "DATA-E0701"  # told as well, as most files here are too small to be split


def refused(file, task="text_generation", columns=None, **source):
    with pytest.raises(UserError) as error:
        check_data(task, file, columns=columns, min_train_rows=1, **source)
    for problem in error.value.problems:
        assert_six_parts(str(problem))
        assert str(file) in f"{problem.where} {problem.found}"
    return [problem for problem in error.value.problems if problem.code != TOO_FEW]


def read(file, wanted=None):
    findings = Findings(str(file))
    return list(read_rows(file, detect(file, findings), wanted or WANTED, findings)), findings


# Catalogue row, file name, bytes, code, place behind the file's name, what the message must hold.
BAD_TEXT = [
    (2, "a.jsonl", GOOD.encode() + b'{"text": "caf\xe9"}\n', "DATA-E0103", ":2 (record 2)",
     "byte 0xE9 at offset 42 (looks like latin-1"),
    (2, "a.csv", b"text\ngood\ncaf\xe9\n", "DATA-E0103", ":3 (record 2)", "byte 0xE9 at offset 13"),
    (3, "a.jsonl", GOOD.encode("utf-16"), "DATA-E0104", "", "UTF-16"),
    (3, "a.csv", "text\nx\n".encode("utf-16"), "DATA-E0104", "", "UTF-16"),
    (4, "a.jsonl", GOOD.encode() + b'{"text": "x\\ud83d"}\n', "DATA-E0210", ":2 (record 2) text", "surrogate"),
    (5, "a.jsonl", b'{"text": "x\xed\xa0\xbd"}\n', "DATA-E0103", ":1 (record 1)", "offset 11 (half of a surrogate"),
    (7, "a.jsonl", b'{"text": "x\x00"}\n', "DATA-E0105", ":1 (record 1)", "offset 11"),
    (7, "a.csv", b"text\nx\x00\n", "DATA-E0105", ":2 (record 1)", "offset 6"),
    (11, "a.jsonl", b"", "DATA-E0101", "", "0 bytes"),
    (11, "a.parquet", b"", "DATA-E0101", "", "0 bytes"),
    (12, "a.jsonl", b" \n\n\t\n", "DATA-E0102", "", "only whitespace"),
    (13, "a.jsonl", b"\x1f\x8b\x08\x00rest", "DATA-E0106", "", "rename it to a.jsonl.gz"),
    (13, "a.csv", b"PK\x03\x04rest", "DATA-E0106", "", "zip"),
    (16, "a.jsonl", b'{"text": NaN}\n', "DATA-E0602", ":1 (record 1) text", "found NaN"),
    (17, "a.jsonl", GOOD.encode() + b'{"text": "a", "text": "b"}\n', "DATA-E0209", ":2 (record 2) text", "twice"),
    (17, "a.jsonl", b'{"text" : "a", "text": "b:"}\n', "DATA-E0209", ":1 (record 1) text", "twice"),
    (18, "a.jsonl", b'{"text": 123456789012345678901234}\n', "DATA-E0602", ":1 (record 1) text", "a number"),
    (20, "a.jsonl", GOOD.encode() + b'{"text": "a",}\n', "DATA-E0204", ":2 (record 2)", "character 13"),
    (20, "a.json", b'[{"text": "a"},\n]', "DATA-E0204", ":2 (record 2)", "comma"),
    (21, "a.jsonl", GOOD.encode() + b'{"text": "a"}{"text": "b"}\n', "DATA-E0203", ":2 (record 2)", "2 objects"),
    (22, "a.jsonl", GOOD.encode() + b'{"text": "a', "DATA-E0202", ":2 (record 2)", "truncated"),
    (22, "a.jsonl", GOOD.encode() + b'{"text": "a", "b": tru', "DATA-E0202", ":2 (record 2)", "truncated"),
    (22, "a.jsonl", GOOD.encode() + b'{"text": "caf\xc3', "DATA-E0202", ":2 (record 2)", "truncated"),
    (22, "a.json", b'[\n{"text": "a"},\n{"text": "b"', "DATA-E0202", ":3 (record 2)", "truncated"),
    (22, "a.json", b'[\n{"text": "a"},\n{"text": "b', "DATA-E0202", ":3 (record 2)", "truncated"),
    (22, "a.json", b'[\n{"text": "a"}\n', "DATA-E0202", ":2 (record 1)", "truncated"),
    (23, "a.jsonl", GOOD.encode() + b'{"text": 7}\n', "DATA-E0602", ":2 (record 2) text", "found 7; expected text"),
    (24, "a.jsonl", b'{"text": ["a"]}\n', "DATA-E0602", ":1 (record 1) text", "not a list"),
    (26, "a.jsonl", b'{\n  "text": "a"\n}\n', "DATA-E0207", ":1 (record 1)", "several lines"),
    (27, "a.jsonl", GOOD.encode() + b"42\n", "DATA-E0208", ":2 (record 2)", "42 (a number)"),
    (28, "a.jsonl", GOOD.encode() + b"null\n", "DATA-E0208", ":2 (record 2)", "null"),
    (28, "a.json", b'[{"text": "a"}, null]', "DATA-E0208", ":1 (record 2)", "null"),
    (29, "a.jsonl", b'{"text": "a", "x": ' + b"[" * 2000 + b"]" * 2000 + b"}\n", "DATA-E0211", ":1 (record 1)",
     "nesting 2001 deep"),
    (29, "a.jsonl", b'{"text": "a", "x": ' + b"[" * 70 + b"]" * 70 + b"}\n", "DATA-E0211", ":1", "nesting 71 deep"),
    (30, "a.jsonl", GOOD.encode() + b'{"other": 1}\n{"other": 2}\n', "DATA-E0601", ":2 (record 2) text", "2 like this"),
    (32, "a.json", b'{"data": [{"text": "a"}], "version": 1}', "DATA-E0212", "", "data (1 items), version"),
    (33, "a.jsonl", GOOD.encode() + b"{'text': None, 'b': True}\n", "DATA-E0205", ":2 (record 2)", "Python"),
    (34, "a.jsonl", GOOD.encode() + b"// a comment\n", "DATA-E0206", ":2 (record 2)", "comment"),
    (34, "a.jsonl", b'{"text": "a"} // why\n', "DATA-E0206", ":1 (record 1)", "comment"),
    (39, "a.csv", b'id,text\n"1\n1","b\n3,"c"\n4,d\n', "DATA-E0303", ":3 (record 1)", "never closed"),
    (54, "a.json", b"[]", "DATA-E0108", "", "0 rows"),
    (92, "a.csv", b'id,text\n1,""\n', "DATA-E0603", ":2 (record 1) text", 'found ""'),
    (0, "a.txt", b"once upon a time", "DATA-E0107", "", "the suffix '.txt'"),
    (0, "a.csv", GOOD.encode(), "DATA-E0107", "", "name the file .jsonl"),
    (0, "a.json", b'[{"text": "a"}] {"text": "b"}', "DATA-E0203", ":1 (record 1)", "after the list"),
    (0, "a.jsonl", b'{"text" "a"}\n' + GOOD.encode(), "DATA-E0201", ":1 (record 1)", "character 9"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "name", "content", "code", "place", "words"), BAD_TEXT)
def test_a_bad_file_is_refused_where_it_is_bad(tmp_path, row, name, content, code, place, words):
    file = tmp_path / name
    file.write_bytes(content)
    problem = refused(file)[0]
    assert problem.code == code
    assert problem.where.startswith(f"{file}{place}")
    assert words in str(problem)


def test_the_message_has_all_its_parts(tmp_path):
    file = tmp_path / "train.jsonl"
    rows = chat_rows(3)
    rows[1]["messages"][1]["role"] = "bot"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert str(refused(file, "chat_completion")[0]) == (
        f'DATA-E0412 {file}:2 (record 2) messages[1].role: found "bot"; expected one of system, user, assistant, tool. '
        "Fix: did you mean assistant? Rename the role, "
        "or set role_map=bot=assistant."
    )


@pytest.mark.parametrize(("row", "place"), [(60_001, 60_001), (3, 3)])
def test_the_row_number_is_exact_far_behind_the_first_block(tmp_path, row, place):  # 35
    lines = [json.dumps({"text": f"row {number} " + "x" * 40}) for number in range(1, 60_101)]
    lines[row - 1] = '{"text": 1}'
    file = tmp_path / "big.jsonl"
    file.write_text("\n".join(lines))
    assert file.stat().st_size > 3 * 1024 * 1024
    [problem] = refused(file)
    assert problem.where == f"{file}:{place} (record {row}) text"


def test_record_and_line_differ_behind_blank_lines_and_multi_line_cells(tmp_path):
    file = tmp_path / "a.csv"
    long = "x" * 700_000
    file.write_text(f'id,text\n\n1,"two\nlines"\n2,{long}\n3,"{long}\n"\n4,""\n')
    [problem] = refused(file)
    # line 1 header, 2 blank, 3-4 record 1, 5 record 2, 6-7 record 3, 8 record 4
    assert problem.where == f"{file}:8 (record 4) text"

    file = tmp_path / "a.jsonl"
    file.write_text(GOOD + "\n\n" + GOOD + '{"text": ""}\n')
    [problem] = refused(file)
    assert problem.where == f"{file}:5 (record 3) text"


def test_rows_of_a_json_list_are_placed_by_the_line_where_they_start(tmp_path):
    rows = [{"text": f'row {number} with [brackets], "quotes" and \\ in it'} for number in range(500)]
    rows[321]["text"] = ""
    text = json.dumps(rows, indent=2)
    file = tmp_path / "a.json"
    file.write_text(text)
    [problem] = refused(file)
    before = text[: text.index('"text": ""')]
    assert problem.where == f"{file}:{before.count(chr(10))} (record 322) text"


def test_every_problem_is_told_once_with_its_exact_count_and_first_rows(tmp_path):
    rows = [{"text": "good"} for _ in range(1000)]
    for number in range(0, 1000, 3):
        rows[number] = {"text": None}
    rows[500] = {"text": " "}
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    null, empty = refused(file)
    assert (null.code, null.count, null.rows) == ("DATA-E0602", 334, (1, 4, 7, 10, 13))
    assert (empty.code, empty.count, empty.where) == ("DATA-E0603", 1, f"{file}:501 (record 501) text")


def test_problems_of_all_files_come_together(tmp_path):
    train, test = tmp_path / "train.jsonl", tmp_path / "test.csv"
    train.write_text('{"text": 1}\n')
    test.write_text("txt\na\n")
    with pytest.raises(UserError) as error:
        check_data("text_generation", train, tmp_path / "absent.jsonl", test)
    assert [problem.code for problem in error.value.problems] == ["URI-E0201", "DATA-E0602", "DATA-E0601"]
    assert "did you mean txt?" in str(error.value)


def test_control_characters_and_secrets_do_not_reach_a_message(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": ["hf_" + "a" * 30, "ann@example.com", "bell \x07\u202e"]}) + "\n")
    message = str(refused(file)[0])
    assert "hf_a" not in message
    assert "ann@" not in message
    assert message.isprintable()
    assert r"\u0007" in message


# Catalogue row, name, bytes, the rows as text, code of the repair or warning.
MENDED = [
    (1, "a.jsonl", b"\xef\xbb\xbf" + GOOD.encode(), ["once upon a time"], "DATA-F0101"),
    (1, "a.json", b'\xef\xbb\xbf[{"text": "a"}]', ["a"], "DATA-F0101"),
    (1, "a.csv", b"\xef\xbb\xbftext\na\n", ["a"], "DATA-F0101"),
    (8, "a.jsonl", '{"text": "a\u2028b\x85c"}\n'.encode(), ["a\u2028b\x85c"], ""),
    (8, "a.csv", "text\na\u2028b\x0bc\n".encode(), ["a\u2028b\x0bc"], ""),
    (9, "a.jsonl", b'{"text": "a"}\r\n\r\n{"text": "b"}', ["a", "b"], "DATA-F0102"),
    (9, "a.csv", b"text,id\r\na,1\r\n\r\nb,2", ["a", "b"], "DATA-F0102"),
    (16, "a.jsonl", b'{"text": "a", "score": NaN}\n', ["a"], "DATA-W0201"),
    (16, "a.jsonl", b'{"text": "a", "score": 1e999}\n', ["a"], "DATA-W0201"),
    (17, "a.jsonl", b'{"text": "{\\"a\\":1}", "x" :":", "y": {"text": 1}}\n', ['{"a":1}'], ""),
    (19, "a.jsonl", b'{"text": "a", "id": 9007199254740993}\n', ["a"], "DATA-F0601"),
    (25, "a.jsonl", b'[{"text": "a"},\n {"text": "b"}]\n', ["a", "b"], "DATA-F0201"),
    (31, "a.jsonl", b'{"text": "a", "id": 1, "url": "x"}\n', ["a"], "DATA-F0601"),
    (36, "a.csv", b'text,id\n"a\nb",1\n', ["a\nb"], ""),
    (44, "a.csv", b"text\n007\n1.50\n", ["007", "1.50"], ""),
    (45, "a.csv", b"text\nNA\nnull\nNone\nnan\n", ["NA", "null", "None", "nan"], ""),
    (48, "a.csv", b"text\n12345678901234567890\n", ["12345678901234567890"], ""),
    (52, "a.tsv", b'text\tid\nsay "hi" now\t1\n', ['say "hi" now'], ""),
    (53, "a.csv", b"text,id\ra,1\rb,2\r", ["a", "b"], "DATA-F0103"),
    (55, "a.csv", b"text\n=1+1\n", ["=1+1"], ""),
    (0, "a.csv", b'text\n"say ""hi"", now"\n', ['say "hi", now'], ""),
    (0, "a.json", b'{"text": "a"}\n{"text": "b"}\n', ["a", "b"], "DATA-F0202"),
    (0, "a.ndjson", GOOD.encode(), ["once upon a time"], ""),
    (0, "A.JSONL", GOOD.encode(), ["once upon a time"], ""),
    (0, "rows", GOOD.encode(), ["once upon a time"], ""),
]


@pytest.mark.parametrize(("row", "name", "content", "texts", "code"), MENDED)
def test_what_can_be_repaired_is_repaired_and_counted(tmp_path, row, name, content, texts, code):
    file = tmp_path / name
    file.write_bytes(content)
    columns = TextColumns()
    with pytest.raises(UserError) as error:  # too few rows to split: every other problem would come first
        check_data("text_generation", file, columns=columns, min_train_rows=100)
    assert [problem.code for problem in error.value.problems] == ["DATA-E0701"]
    rows, findings = read(file)
    assert [values["text"] for _, _, values in rows] == texts
    noted = [entry["code"] for entry in findings.repaired + findings.warnings]
    if code and code != "DATA-F0601":
        assert code in noted


def test_unused_columns_are_listed_once(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(f'{{"text": "{number}", "id": 1}}\n' for number in range(40)))
    repairs = [note for note in check_data("text_generation", file).repairs if note["code"] != "DATA-F2401"]
    assert repairs == [{"code": "DATA-F0601", "what": f"{file}: columns not used: id", "count": 1}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_beyond_a_bound_is_refused_by_the_bound_s_name(tmp_path, name):
    file = tmp_path / name
    long, deep = json.dumps({"text": "x" * 1_500_000}), json.dumps({"text": "a", "x": [[[[["deep"]]]]]})
    file.write_text(f"[{GOOD.strip()}\n,{long}]" if name == "a.json" else f"{GOOD}{long}\n")
    [problem] = refused(file, max_row_mib=1)
    assert (problem.code, problem.where) == ("DATA-E0109", f"{file}:2 (record 2)")
    assert "max_row_mib" in problem.expected
    file.write_text(f"[{GOOD.strip()}\n,{deep}]" if name == "a.json" else f"{GOOD}{deep}\n")
    [problem] = refused(file, max_nesting=5)
    assert (problem.code, problem.where) == ("DATA-E0211", f"{file}:2 (record 2)")
    assert "max_nesting" in problem.expected


@pytest.mark.parametrize("depth", [200, 300, 890])
def test_what_the_writer_of_json_does_not_nest_is_refused_or_kept(tmp_path, depth):
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "a", "x": ' + "[" * depth + "]" * depth + "}\n")
    task, columns = load_task("prompts"), load_task("prompts").Columns()
    with pytest.raises(UserError, match="DATA-E0211"):
        check_data("prompts", test=file, columns=columns)
    checked = check_data("prompts", test=file, columns=columns, max_nesting=900)
    assert task.canonical(json.loads(file.read_text()), columns)["more"] == '{"x":' + "[" * depth + "]" * depth + "}"
    assert len(checked.rows["test"]) == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    """Read 30 MB; Python may allocate a small part of that at a time."""
    import tracemalloc

    line = json.dumps({"text": "x" * 1000}) + "\n"
    lines, listed = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text(line * 30_000)
    listed.write_text("[" + (line.strip() + ",\n") * 29_999 + line + "]")
    for reader, file in ((read_jsonl, lines), (read_json, listed)):
        tracemalloc.start()
        assert sum(1 for _ in reader(file, Findings("a"))) == 30_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8_000_000


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_list_is_read_like_the_standard_library_does(tmp_path, indent):
    rows = [
        {"text": text} for text in ("[", '"', "\\", '\\"', "}{", "a,b", "\n", "ü\u2028", "]" * 70, "", "{[(" * 9)
    ] + [{"text": "a", "more": [[], {}, [1, {"x": [2]}]]}]
    file = tmp_path / "a.json"
    file.write_text(json.dumps(rows, indent=indent, ensure_ascii=False))
    assert [values for _, _, values in read(file)[0]] == rows


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_csv_is_read_like_the_standard_library_does(tmp_path, delimiter):
    texts = ["plain", 'a "quoted" word', "comma, tab\t", "two\nlines", "crlf\r\ninside", " spaces ", "ü 漢字", '"']
    file = tmp_path / ("a.csv" if delimiter == "," else "a.tsv")
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([["id", "text"], *enumerate(texts)])
    with open(file, newline="", encoding="utf-8") as stream:
        expected = [row["text"] for row in csv.DictReader(stream, delimiter=delimiter)]
    assert [values["text"] for _, _, values in read(file)[0]] == expected == texts


def test_messages_are_read_from_json_text_in_csv_cells(tmp_path):
    file = tmp_path / "a.csv"
    rows = chat_rows(30)
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(
            [["id", "messages"], *((n, json.dumps(r["messages"])) for n, r in enumerate(rows))]
        )
    checked = check_data("chat_completion", file, split="positional", scratch=tmp_path)
    messages = [row["messages"] for part in checked.rows.values() for row in part.table().to_pylist()]
    assert [[(m["role"], m["content"]) for m in row] for row in messages] == [
        [(m["role"], m["content"]) for m in row["messages"]] for row in rows
    ]
    file.write_text('messages\n"[{""role"": "\n')
    [problem] = refused(file, "chat_completion")
    assert (problem.code, problem.where) == ("DATA-E0411", f"{file}:2 (record 1) messages")


def test_bad_parquet_rows_and_columns_are_named(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"] * 3000 + [None], "x": ["b"] * 3001}), file, row_group_size=700)
    [problem] = refused(file)
    assert (problem.code, problem.where) == ("DATA-E0602", f"{file} (record 3001) text")

    pq.write_table(pa.table({"text": pa.array([b"a", b"\xff"])}), file)
    [problem] = refused(file)
    assert (problem.code, problem.where) == ("DATA-E0503", f"{file} (record 2) text")

    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), file)
    assert [problem.code for problem in refused(file)] == ["DATA-E0504"]

    pq.write_table(pa.table({"texts": ["a"]}), file)
    assert "did you mean texts?" in str(refused(file)[0])

    pq.write_table(pa.table({"text": pa.array([], pa.string())}), file)
    assert [problem.code for problem in refused(file)] == ["DATA-E0108"]

    pq.write_table(pa.table({"text": pa.array([0], pa.timestamp("s"))}), file)
    assert (refused(file)[0].code, refused(file)[0].where) == ("DATA-E0506", f"{file} (record 1) text")

    keys = pa.array([[({"a": 1}, "x")]], pa.map_(pa.struct([("a", pa.int64())]), pa.string()))
    pq.write_table(pa.table({"text": keys}), file)
    assert refused(file)[0].where == f"{file} (record 1) text"

    pq.write_table(pa.table({"text": pa.nulls(2)}), file)
    assert (refused(file)[0].code, refused(file)[0].count) == ("DATA-E0602", 2)

    messages = pa.array([[{"role": "user", "content": "a"}, None]])
    pq.write_table(pa.table({"messages": messages}), file)
    faults = refused(file, "chat_completion", ChatColumns())
    assert faults[0].where == f"{file} (record 1) messages[1]"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_name_with_half_a_character_is_told(tmp_path, name):
    row = '{"text": "a", "more": {"\\ud800": 1}}'
    (tmp_path / name).write_text(f"[{row}]" if name == "a.json" else row)
    [problem, *_] = refused(tmp_path / name)
    assert (problem.code, problem.where.partition(") ")[2]) == ("DATA-E0210", "more")


def test_a_table_of_very_many_columns_is_read_soon(tmp_path):
    names = [f"c{number}" for number in range(30_000)]
    (tmp_path / "a.csv").write_text(",".join(names) + "\n" + "," * (len(names) - 1) + "\n")
    started = time.process_time()
    assert refused(tmp_path / "a.csv")[0].code == "DATA-E0601"
    assert time.process_time() - started < 5


def test_a_folder_without_rows_is_refused(tmp_path):
    assert [problem.code for problem in refused(tmp_path)] == ["DATA-E0113"]


def mutated(content, draw):
    """Change, remove, double or cut bytes, as broken uploads and editors do."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content) + 1)
        kind = draw.randrange(5)
        if kind == 0:
            content[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            del content[at : at + draw.randint(1, 30)]
        elif kind == 2:
            content[at:at] = content[at : at + draw.randint(1, 60)]
        elif kind == 3:
            content[at:at] = draw.choice([b'"', b"\\", b"{", b"}", b"[", b"]", b",", b"\n", b"\r", b"\0", b"'", b"NaN"])
        else:
            content = content[: max(1, at)]
    return bytes(content)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet"])
def test_no_broken_file_ends_in_a_traceback(tmp_path, name):
    """Whatever the bytes, the answer is a list of problems with six parts, or rows."""
    rows = [{"text": f'row {number}, "so"\n', "id": number} for number in range(12)]
    file = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif name.endswith("sv"):
        with open(file, "w", newline="") as stream:
            writer = csv.DictWriter(stream, ["text", "id"], delimiter="," if name == "a.csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = [json.dumps(row) for row in rows]
        file.write_text("\n".join(lines) if name == "a.jsonl" else "[" + ",\n".join(lines) + "]")
    whole = file.read_bytes()
    draw = random.Random(name)
    outcomes = set()
    for _ in range(300):
        file.write_bytes(mutated(whole, draw))
        try:
            check_data("text_generation", file, min_train_rows=1)
            outcomes.add("good")
        except UserError as error:
            for problem in error.problems:
                assert_six_parts(str(problem))
                assert problem.where.startswith(str(file))
                outcomes.add(problem.code)
    assert len(outcomes) >= 3
