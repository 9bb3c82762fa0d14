"""Joined files, wrong encodings, and columns whose values have unexpected types."""

import decimal
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checking import check_data
from conftest import chat_rows, write_jsonl
from data_cases import notes, refusals

from steps.params.chat_columns import ChatColumns


def test_marks_between_joined_json_lines_are_removed_and_counted(tmp_path):
    part = "".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(20)).encode("utf-8-sig")
    other = part.replace(b"text ", b"more ")
    (tmp_path / "a.jsonl").write_bytes(part + other + b"\xef\xbb\xbf\n" + other.replace(b"more ", b"last "))
    checked = check_data("text_generation", tmp_path / "a.jsonl")
    assert sum(checked.counts.values()) == 60
    assert notes(checked)["DATA-F0101"]["count"] == 4
    assert "DATA-W0204" not in notes(checked)


@pytest.mark.parametrize("quote", ["", '"'])
def test_the_header_between_joined_csv_files_is_no_row(tmp_path, quote):
    header = f"{quote}text{quote},{quote}id{quote}\r\n"
    part = (header + "".join(f"text {n},{n}\r\n" for n in range(20))).encode("utf-8-sig")
    (tmp_path / "a.csv").write_bytes(part + part.replace(b"text ", b"more ") + part[3:].replace(b"text ", b"last "))
    checked = check_data("text_generation", tmp_path / "a.csv")
    assert sum(checked.counts.values()) == 60
    assert notes(checked)["DATA-F0308"]["count"] == 2


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize(("name", "text"), [("a.jsonl", '{"text": "a"}\n'), ("a.json", '[{"text": "a"}]'),
                                            ("a.csv", "text,id\na,1\n"), ("a.tsv", "text\tid\na\t1\n")])  # fmt: skip
def test_wide_text_without_a_mark_is_named(tmp_path, encoding, name, text):
    (tmp_path / name).write_bytes((text * 12).encode(encoding))
    [problem] = refusals("text_generation", tmp_path / name).values()
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
    note = notes(check_data("text_generation", tmp_path / "a.jsonl"))[code]
    assert (note["count"], note["rows"]) == (4, [4, 14, 24, 34])


def test_files_whose_column_has_other_kinds_of_values_are_notes(tmp_path):
    (tmp_path / "set").mkdir()
    texts = [{"sentence1": f"text {n}", "label": f"{n % 2}"} for n in range(20)]
    write_jsonl(tmp_path / "set/a.jsonl", texts)
    table = pa.table({"sentence1": [f"other {n}" for n in range(20)], "label": [0, 1] * 10})
    pq.write_table(table, tmp_path / "set/b.parquet")
    note = notes(check_data("text_classification", tmp_path / "set"))["DATA-W2404"]
    assert note["what"] == (
        f"{tmp_path}/set/b.parquet: the column label holds a number, in {tmp_path}/set/a.jsonl text"
    )
    write_jsonl(tmp_path / "c.jsonl", [*texts, {"sentence1": "one more", "label": 1}])
    note = notes(check_data("text_classification", tmp_path / "c.jsonl"))["DATA-W2404"]
    assert note["what"].endswith("the column label holds a number and text")
    (tmp_path / "set/b.parquet").unlink()
    (tmp_path / "set/b.csv").write_text("sentence1,label\n" + "".join(f"other {n},{n % 2}\n" for n in range(20)))
    assert "DATA-W2404" not in notes(check_data("text_classification", tmp_path / "set"))


def test_lists_as_json_text_are_counted_where_a_list_could_stand(tmp_path):
    rows = [{"messages": json.dumps(row["messages"])} for row in chat_rows(30)]
    note = notes(check_data("chat_completion", write_jsonl(tmp_path / "a.jsonl", rows)))["DATA-F0621"]
    assert note["count"] == 30
    assert note["what"].endswith("JSON text in the column messages read as a list or an object")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert notes(check_data("chat_completion", tmp_path / "a.parquet"))["DATA-F0621"]["count"] == 30
    words = [{"tokens": '["Ada", "x"]', "tags": ["B-PER", "O"], "n": n} for n in range(30)]
    for n, row in enumerate(words):
        row["tokens"] = json.dumps(["Ada", f"x{n}"])
    assert notes(check_data("token_classification", write_jsonl(tmp_path / "b.jsonl", words)))["DATA-F0621"]


def test_decimals_inside_schemas_and_calls_are_numbers(tmp_path):
    number = decimal.Decimal("1.50")
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "minimum": number}}}
    pq.write_table(pa.Table.from_pylist([{**row, "tools": [tool]} for row in chat_rows(30)]), tmp_path / "a.parquet")
    checked = check_data("chat_completion", tmp_path / "a.parquet", scratch=tmp_path)
    tools = json.loads(checked.rows["train"].table()["tools"][0].as_py())
    assert tools[0]["function"]["parameters"]["minimum"] == 1.5
    assert notes(checked)["DATA-F0522"]["count"] == 30


def test_decimals_inside_schemas_keep_every_digit_or_are_refused(tmp_path):
    def tools_with(number: decimal.Decimal) -> Path:
        tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "minimum": number}}}
        table = pa.Table.from_pylist([{**row, "tools": [tool]} for row in chat_rows(30)])
        pq.write_table(table, tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    wide = decimal.Decimal(12345678901234567890123)
    checked = check_data("chat_completion", tools_with(wide), scratch=tmp_path)
    assert str(wide) in checked.rows["train"].table()["tools"][0].as_py()
    problem = refusals("chat_completion", tools_with(decimal.Decimal("0.1234567890123456789")))["DATA-E0522"]
    assert problem.where.endswith("tools[0].function.parameters.minimum")
    assert problem.count == 30


def test_a_decimal_as_ground_truth_is_read_as_a_number(tmp_path):
    rows = [{"problem": f"what is {n} and a half", "solution": decimal.Decimal(f"{n}.50")} for n in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    checked = check_data("grpo", tmp_path / "a.parquet", split="positional", scratch=tmp_path)
    assert checked.rows["train"].table()["ground_truth"][1].as_py() == "1.5"
    assert notes(checked)["DATA-F0522"]["count"] == 30
    exact = [{**row, "solution": decimal.Decimal("0.1234567890123456789")} for row in rows]
    pq.write_table(pa.Table.from_pylist(exact), tmp_path / "a.parquet")
    problem = refusals("grpo", tmp_path / "a.parquet")["DATA-E0522"]
    assert problem.where == f"{tmp_path}/a.parquet (record 1) solution"


def test_texts_that_are_no_utf_8_in_a_column_of_texts_are_refused_with_their_row(tmp_path):
    texts = pa.array([b"a%d" % n if n != 7 else b"caf\xe9" for n in range(30)], pa.binary())
    damaged = pa.StringArray.from_buffers(30, *texts.buffers()[1:])
    pq.write_table(pa.table({"text": damaged}), tmp_path / "a.parquet")
    problem = refusals("text_generation", tmp_path / "a.parquet")["DATA-E0503"]
    assert (problem.where, problem.count) == (f"{tmp_path}/a.parquet (record 8) text", 1)
    assert "0xE9" in problem.found


def test_infinity_inside_a_column_that_is_kept_is_told_and_as_a_label_named(tmp_path):
    rows = [{"problem": f"what is {n}", "solution": f"{n}", "level": [float("inf")]} for n in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert notes(check_data("grpo", tmp_path / "a.parquet"))["DATA-W0201"]["count"] == 30
    file = write_jsonl(tmp_path / "a.jsonl", [{"sentence1": "a", "label": 1}])
    for text, shown in (("Infinity", "Infinity"), ("-Infinity", "-Infinity"), ("1e999", "Infinity"), ("NaN", "NaN")):
        file.write_text(f'{{"sentence1": "a", "label": {text}}}\n')
        assert refusals("text_classification", file)["DATA-E1002"].found == shown


def test_strict_still_refuses_a_nul_in_json_text(tmp_path):
    rows = [{"messages": json.dumps(row["messages"])} for row in chat_rows(30)]
    rows[2] = {"messages": json.dumps([*chat_rows(1)[0]["messages"], {"role": "user", "content": "a\0b"}])}
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    assert notes(check_data("chat_completion", file))["DATA-W0202"]["rows"] == [3]
    assert "DATA-E0413" in refusals("chat_completion", file, columns=ChatColumns(strict=True))
