"""The user's function between reading and checking: what it may do, and how its errors are reported."""

import pytest
from conftest import write_jsonl
from data_cases import assert_six_parts
from opening import open_all, read_source

from steps.errors import UserError
from steps.prepare_data.findings import Findings
from steps.prepare_data.read.processing import process
from steps.sources.user_code import check_function, load_function

CLEAN = """
import re

def clean(row):
    if not row["text"]:
        return None
    if "|" in row["text"]:
        return [{"text": part} for part in row["text"].split("|")]
    return {"text": row["text"].upper(), "was": row["text"]}

def number(row):
    return helper(row["text"])

def helper(text):
    return {"text": str(int(text))}

def exits(row):
    if row["text"] == "x":
        raise SystemExit(0)
    return row

def two(row, other): ...
def none(): ...
def named(row, *, strict): ...
async def later(row): ...
def default(row, strict=True): ...
def wrong(row): return "text"
def binary(row): return {"text": b"a"}
def deletes(row):
    del row["text"]
    return row
"""


@pytest.fixture
def code(tmp_path):
    file = tmp_path / "clean.py"
    file.write_text(CLEAN)
    return file


def processed(tmp_path, code, name, *texts):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    [opened], _ = open_all(tmp_path, train_file_path=str(file))
    findings = Findings(opened.name)
    function = load_function("processing_function", f"{code}:{name}")
    return list(process(read_source(opened, None, findings), function, findings)), findings


def test_rows_are_changed_dropped_and_multiplied_and_keep_their_place(tmp_path, code):
    made, findings = processed(tmp_path, code, "clean", "a", "", "b|c", "d")
    assert made == [
        (1, 1, {"text": "A", "was": "a"}),
        (3, 3, {"text": "b"}),
        (3, 3, {"text": "c"}),
        (4, 4, {"text": "D", "was": "d"}),
    ]
    assert findings.problems == []
    assert [(entry["code"], entry["count"]) for entry in findings.repaired] == [("DATA-F2201", 1)]
    assert ["1" in entry["what"] for entry in findings.warnings if entry["code"] == "DATA-W2201"] == [True]


def test_an_exception_names_the_row_and_the_line_of_the_function(tmp_path, code):
    made, findings = processed(tmp_path, code, "number", "1", "x", "3", "y")
    assert [row["text"] for _, _, row in made] == ["1", "3"]
    [problem] = findings.problems
    line = 1 + CLEAN[: CLEAN.index('return {"text": str(int')].count("\n")
    assert (problem.code, problem.where, problem.rows) == (
        "DATA-E2205", f"{tmp_path}/a.jsonl:2 (record 2)", (2, 4),
    )  # fmt: skip
    assert f"{code}:{line}" in str(problem)
    assert "ValueError" in problem.found
    assert_six_parts(str(problem))


def test_a_function_that_ends_the_process_is_reported_like_an_exception(tmp_path, code):
    made, findings = processed(tmp_path, code, "exits", "a", "x", "b")
    assert [row["text"] for _, _, row in made] == ["a", "b"]
    [problem] = findings.problems
    assert (problem.code, problem.found) == ("DATA-E2205", '"SystemExit: 0"')


@pytest.mark.parametrize(("name", "reason"), [("wrong", "DATA-E2206"), ("binary", "DATA-E2207")])
def test_what_is_no_row_is_refused(tmp_path, code, name, reason):
    made, findings = processed(tmp_path, code, name, "a", "b")
    assert made == []
    [problem] = findings.problems
    assert (problem.code, problem.count) == (reason, 2)
    assert_six_parts(str(problem))


def test_the_check_runs_nothing_and_the_digest_follows_the_text(tmp_path, code):
    code.write_text("raise SystemExit(7)\n" + CLEAN)
    before = check_function("processing_function", f"{code}:clean")
    assert check_function("processing_function", f"{code}:default").digest == before.digest
    code.write_text(CLEAN + "# changed\n")
    assert check_function("processing_function", f"{code}:clean").digest != before.digest


@pytest.mark.parametrize(
    ("given", "code_", "words"),
    [
        ("clean.py", "DATA-E2202", "file.py:function"),
        ("clean.txt:clean", "DATA-E2202", "file.py:function"),
        ("clean.py:claen", "DATA-E2202", "did you mean clean?"),
        ("clean.py:two", "DATA-E2203", "two(row, other)"),
        ("clean.py:none", "DATA-E2203", "def none(row):"),
        ("clean.py:named", "DATA-E2203", "strict"),
        ("clean.py:later", "DATA-E2203", "async later(row)"),
        ("absent.py:clean", "URI-E0201", "nothing at"),
        ("https://host/clean.py:clean", "URI-E0102", "scheme"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(tmp_path, code, monkeypatch, given, code_, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        check_function("processing_function", given)
    assert error.value.problems[0].code == code_
    assert words in str(error.value)
    assert_six_parts(str(error.value.problems[0]))


@pytest.mark.parametrize(
    ("text", "code_", "place"),
    [
        ("def clean(row:\n", "DATA-E2201", ":1"),
        ("x = " + "-" * 99_999 + "1", "DATA-E2201", ":0"),
        ("import no_such\ndef clean(row): ...\n", "DATA-E2204", ":1"),
    ],
)
def test_a_file_that_cannot_be_loaded_names_its_line(tmp_path, text, code_, place):
    file = tmp_path / "a.py"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load_function("processing_function", f"{file}:clean")
    assert [(problem.code, problem.where) for problem in error.value.problems] == [(code_, f"{file}{place}")]
