"""Sources of rows: files, folders, patterns and gzip files; and what is refused."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_cases import assert_six_parts
from opening import Told, open_all, read_source, refused, rows, texts_of

from steps.errors import UserError
from steps.params.data import DataSource
from steps.prepare_data.findings import Findings
from steps.sources import data_sources

# One file, several, folders and patterns


def test_nothing_given_is_nothing_opened(tmp_path):
    assert open_all(tmp_path, "validation", train_file_path="x.jsonl") == ([], [])


def test_several_files_of_several_formats_are_read_in_the_order_given(tmp_path):
    a, b, c = tmp_path / "a.jsonl", tmp_path / "b.csv", tmp_path / "c.parquet"
    a.write_text(rows("a"))
    b.write_text("id,text\n1,b\n")
    pq.write_table(pa.table({"text": ["c"]}), c)
    for text in (f"{c}, {a},{b}", f"{c}\n{a}\n\n{b}\n"):
        files, _ = open_all(tmp_path, train_file_path=text)
        assert texts_of(files) == {str(c): ["c"], str(a): ["a"], str(b): ["b"]}
        assert [file.source for file in files] == [str(c), str(a), str(b)]


def test_a_file_with_a_comma_in_its_name_is_one_file(tmp_path):
    file = tmp_path / "a,b.jsonl"
    file.write_text(rows("one"))
    other = tmp_path / "c.jsonl"
    other.write_text(rows("two"))
    files, _ = open_all(tmp_path, train_file_path=f"{file}\n{other}")
    assert [file.name for file in files] == [str(tmp_path / "a,b.jsonl"), str(other)]


def test_litter_is_skipped_and_listed(tmp_path):  # 15
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "part-0.jsonl").write_text(rows("a"))
    for name in ("._part-0.jsonl", ".part-0.jsonl.crc", "_SUCCESS", ".DS_Store", ".hidden.jsonl"):
        (folder / name).write_bytes(b"\0")
    (folder / "README.md").write_text("about")
    files, told = open_all(tmp_path, train_file_path=str(folder))
    assert texts_of(files) == {f"{folder}/part-0.jsonl": ["a"]}
    assert set(told.codes) == {"DATA-F0113", "DATA-W0113"}
    skipped = " ".join(what for code, what in told if code == "DATA-F0113")
    for name in ("._part-0.jsonl", ".part-0.jsonl.crc", "_SUCCESS", ".DS_Store", ".hidden.jsonl"):
        assert name in skipped
    assert ["README.md" in what for code, what in told if code == "DATA-W0113"] == [True]


@pytest.mark.parametrize("pattern", ["*.jsonl", "**/*.jsonl", "part-?.jsonl", "part-[0-9].jsonl"])
def test_a_pattern_names_what_it_matches(tmp_path, pattern, monkeypatch):
    for name in ("part-0.jsonl", "part-1.jsonl", "sub/part-2.jsonl", "other.txt"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_text(rows(name))
    names = ["part-0.jsonl", "part-1.jsonl"] + (["sub/part-2.jsonl"] if "**" in pattern else [])
    files, _ = open_all(tmp_path, train_file_path=f"{tmp_path}/d/{pattern}")
    assert texts_of(files) == {f"{tmp_path}/d/{name}": [name] for name in names}
    monkeypatch.chdir(tmp_path)
    files, _ = open_all(tmp_path, train_file_path=f"d/{pattern}")
    assert list(texts_of(files)) == [f"d/{name}" for name in names]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    file = tmp_path / "a[1].jsonl"
    file.write_text(rows("a"))
    assert texts_of(open_all(tmp_path, train_file_path=str(file))[0]) == {str(file): ["a"]}


def test_object_stores_are_listed_like_folders(tmp_path, monkeypatch):
    import fsspec

    from steps.sources import storage

    monkeypatch.setattr(storage, "SCHEMES", storage.SCHEMES | {"memory"})
    memory = fsspec.filesystem("memory")
    for name in ("a.jsonl", "b.jsonl.gz", "_SUCCESS"):
        content = rows(name).encode()
        memory.pipe(f"/bucket/{name}", gzip.compress(content) if name.endswith("gz") else content)
    memory.pipe("/table/MLTable", b"paths: [{pattern: '*.txt'}]\ntransformations: [read_json_lines: {}]")
    memory.pipe("/table/x.txt", rows("x").encode())
    files, _ = open_all(tmp_path, train_mltable_path="memory://table")
    assert texts_of(files) == {"memory://table/x.txt": ["x"]}
    expected = {f"memory://bucket/{name}": [name] for name in ("a.jsonl", "b.jsonl.gz")}
    for uri in ("memory://bucket", "memory://bucket/*.jsonl*"):
        files, _ = open_all(tmp_path, train_file_path=uri)
        assert texts_of(files) == expected


def test_hive_folders_are_read_for_their_own_split(tmp_path):  # 73
    for part in ("train", "validation", "test"):
        folder = tmp_path / "table" / f"split={part}" / "lang=en"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"text": [f"of {part}"]}), folder / "part-0.parquet")
    given = {f"{split}_file_path": str(tmp_path / "table") for split in ("train", "validation", "test")}
    for split in ("train", "validation", "test"):
        files, told = open_all(tmp_path, split, **given)
        assert texts_of(files) == {f"{tmp_path}/table/split={split}/lang=en/part-0.parquet": [f"of {split}"]}
        assert told.codes == ["DATA-W0114"]
    only = tmp_path / "only/split=train"
    only.mkdir(parents=True)
    (only / "a.jsonl").write_text(rows("a"))
    [problem] = refused(tmp_path, "test", test_file_path=f"{tmp_path}/only").problems
    assert (problem.code, problem.where) == ("DATA-E0117", "test_file_path")


def test_parquet_files_may_differ_in_column_order_and_integer_width(tmp_path):  # 70, 71
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"id": pa.array([1], pa.int8()), "text": ["a"], "more": ["x"]}), folder / "1.parquet")
    pq.write_table(pa.table({"text": ["b"], "id": pa.array([2], pa.int64())}), folder / "2.parquet")
    files, _ = open_all(tmp_path, train_file_path=str(folder))
    wanted = {"text_key": "text", "id_key": "id"}
    read = [row for file in files for _, _, row in read_source(file, wanted, Findings(file.name))]
    assert read == [{"text": "a", "id": 1}, {"text": "b", "id": 2}]


def test_the_same_file_under_two_names_is_told(tmp_path):  # 133
    a, b, c = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    a.write_text(rows("one"))
    b.write_text(rows("one"))
    c.write_text(rows("two"))
    files, told = open_all(tmp_path, train_file_path=f"{a},{b},{c},file://{a}")
    assert len(files) == 4
    assert told == [
        ("DATA-W0115", f"{b} has the same content as {a}: its rows count twice"),
        ("DATA-W0115", f"file://{a} has the same content as {a}: its rows count twice"),
    ]


def test_names_with_control_characters_are_refused(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a\nb.jsonl").write_text(rows("a"))
    [problem] = refused(tmp_path, train_file_path=f"{tmp_path}/d").problems
    assert problem.code == "DATA-E0121"


def test_a_file_of_a_folder_that_changes_after_the_plan_is_refused(tmp_path):
    from steps.params.settings import DataSettings, Resolved
    from steps.prepare_data.step import refuse_changed

    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(rows(name))
    given = DataSource(train_file_path=f"{tmp_path}/*.jsonl")
    digest = data_sources.digest(data_sources.look("train", given, Told()))
    resolved = Resolved(uri=data_sources.description("train", given), digest=digest)
    settings = DataSettings(task="text_generation", source=given, train=resolved)
    refuse_changed(settings)
    (tmp_path / "b.jsonl").write_text(rows("c"))
    with pytest.raises(UserError, match="DATA-E0111 train_file_path"):
        refuse_changed(settings)


def test_more_files_than_allowed_are_refused(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.jsonl").write_text(rows("a"))
    [problem] = refused(tmp_path, train_file_path=f"{tmp_path}/*.jsonl", max_files=3).problems
    assert (problem.code, problem.where) == ("DATA-E0119", "train_file_path")
    assert "max_files" in problem.expected
    assert len(open_all(tmp_path, train_file_path=f"{tmp_path}/*.jsonl", max_files=4)[0]) == 4


def test_a_member_of_a_gzip_file_may_begin_with_the_last_byte_that_was_read(tmp_path, monkeypatch):
    first, second = (gzip.compress(rows(text).encode()) for text in ("a", "b"))
    (tmp_path / "two.jsonl.gz").write_bytes(first + second)
    monkeypatch.setattr("steps.prepare_data.read.unpacking.PIECE", len(first) + 1)
    files, _ = open_all(tmp_path, train_file_path=f"{tmp_path}/two.jsonl.gz")
    assert list(texts_of(files).values()) == [["a", "b"]]


def test_the_problems_of_all_files_come_together(tmp_path):
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    (tmp_path / "plain.csv.gz").write_bytes(b"text\na\n")
    missing = refused(tmp_path, train_file_path=f"{tmp_path}/no.jsonl\n{tmp_path}/no/*.csv")
    assert [problem.code for problem in missing.problems] == ["URI-E0201", "DATA-E0113"]
    broken = refused(tmp_path, train_file_path=f"{tmp_path}/cut.jsonl.gz,{tmp_path}/plain.csv.gz")
    assert [(problem.code, problem.where) for problem in broken.problems] == [
        ("DATA-E0114", f"{tmp_path}/cut.jsonl.gz"),
        ("DATA-E0118", f"{tmp_path}/plain.csv.gz"),
    ]


# gzip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", rows("a", "b").encode()),
        ("a.JSONL.GZ", rows("a", "b").encode()),
        ("a.json.gz", b'[{"text": "a"}, {"text": "b"}]'),
        ("a.csv.gz", b"id,text\n1,a\n2,b\n"),
        ("a.tsv.gz", b"text\tid\na\t1\nb\t2\n"),
        ("a.gz", rows("a", "b").encode()),
    ],
)
def test_every_text_format_may_be_packed(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(gzip.compress(content))
    assert texts_of(open_all(tmp_path, train_file_path=str(file))[0]) == {str(file): ["a", "b"]}


def test_packed_parquet_is_read_too(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    file = tmp_path / "b.parquet.gz"
    file.write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert texts_of(open_all(tmp_path, train_file_path=str(file))[0]) == {str(file): ["a", "b"]}


def test_several_members_and_padding_are_one_file(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    large = "x" * 3_000_000
    parts = [gzip.compress(rows(text).encode()) for text in ("a", large, "c")]
    file.write_bytes(parts[0] + parts[1] + b"\0" * 700 + parts[2] + b"\0" * 9)
    assert texts_of(open_all(tmp_path, train_file_path=str(file))[0]) == {str(file): ["a", large, "c"]}


@pytest.mark.parametrize("kept", [30, 2_000, -9, -8, -1])
def test_a_cut_gzip_file_says_how_much_is_good(tmp_path, kept):  # 14
    import random
    import zlib

    content = rows(*(str(random.Random(number).random()) for number in range(400))).encode()
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(content)[:kept])
    good = len(zlib.decompressobj(31).decompress(file.read_bytes()))
    assert good <= len(content)
    [problem] = refused(tmp_path, train_file_path=str(file)).problems
    assert (problem.code, problem.where) == ("DATA-E0114", str(file))
    assert f"{good:,} bytes could be unpacked" in problem.found


def test_damaged_gzip_files_are_refused(tmp_path):
    whole = bytearray(gzip.compress(rows(*map(str, range(3000))).encode()))
    file = tmp_path / "a.jsonl.gz"
    flipped = bytes(whole[:2000]) + bytes([whole[2000] ^ 0xFF]) + bytes(whole[2001:])
    wrong_sum = bytes(whole[:-8]) + b"\1\2\3\4" + bytes(whole[-4:])
    for content in (flipped, wrong_sum, bytes(whole) + b"tail"):
        file.write_bytes(content)
        [problem] = refused(tmp_path, train_file_path=str(file)).problems
        assert (problem.code, problem.where) == ("DATA-E0115", str(file))


def test_a_file_that_explodes_is_refused_before_it_fills_the_disk(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b" " * (200 << 20), 6))
    assert file.stat().st_size < 300_000
    [problem] = refused(tmp_path, train_file_path=str(file)).problems
    assert problem.code == "DATA-E0116"
    assert "max_expand" in problem.expected
    written = [path.stat().st_size for path in (tmp_path / "scratch").rglob("*") if path.is_file()]
    assert max(written) <= 64 << 20
    file.write_bytes(gzip.compress(b" " * (10 << 20), 6))  # as much smaller, but below what is ever judged
    open_all(tmp_path, train_file_path=str(file))


def test_a_parquet_file_that_explodes_is_refused_while_it_is_read(tmp_path):  # 72
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(["x" * 1_000_000]).take(pa.array([0] * 200))}), file)
    assert file.stat().st_size < 100_000
    for given, code, count in (({}, "DATA-E0507", 67), ({"max_expand": 10_000}, "", 200)):
        [opened], _ = open_all(tmp_path, train_file_path=str(file), **given)
        findings = Findings(opened.name)
        seen = sum(1 for _ in read_source(opened, {"text_key": "text"}, findings))
        assert [problem.code for problem in findings.problems] == ([code] if code else [])
        assert seen == count if not code else seen <= count


def test_rows_above_the_bound_are_refused(tmp_path):
    table, file = tmp_path / "a.parquet", tmp_path / "a.csv"
    pq.write_table(pa.table({"text": ["short", os.urandom(1_000_000).hex()]}), table)
    file.write_text("text\nshort\n" + "x" * 2_000_000 + "\n")
    for one, where in ((table, " (record 2)"), (file, ":3 (record 2)")):
        [opened], _ = open_all(tmp_path, train_file_path=str(one), max_row_mib=1)
        findings = Findings(opened.name)
        list(read_source(opened, {"text_key": "text"}, findings))
        [problem] = findings.problems
        assert (problem.code, problem.where) == ("DATA-E0109", f"{one}{where}")
        assert "max_row_mib" in problem.expected


# A list inside a JSON object


def test_json_field_takes_the_list_under_a_key_and_keeps_the_lines(tmp_path):  # 32
    file = tmp_path / "a.json"
    value = {"note": {"data": [1], "x": '"data": ['}, "data": [{"text": "a"}, {"text": 1}], "more": [{}]}
    file.write_text(json.dumps(value, indent=1))
    line = 1 + file.read_text().split('"text": 1')[0].count("\n") - 1
    packed = tmp_path / "b.json.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    for one in (file, packed):
        [opened], _ = open_all(tmp_path, train_file_path=str(one), json_field="data")
        read = list(read_source(opened, {"text_key": "text"}, Findings(opened.name)))
        assert [row for _, _, row in read] == value["data"]
        assert read[1][:2] == (2, line)


def test_json_field_that_is_not_there_lists_the_keys(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"train": [{"text": "a"}], "version": 1}')
    for field in ("trian", "version"):
        [problem] = refused(tmp_path, train_file_path=str(file), json_field=field).problems
        assert (problem.code, problem.where) == ("DATA-E0213", str(file))
        assert "train, version" in problem.found
    file.write_text('{"train": [{"text": "a"}, {"te')
    [opened], _ = open_all(tmp_path, train_file_path=str(file), json_field="train")
    findings = Findings(opened.name)
    list(read_source(opened, {"text_key": "text"}, findings))
    assert [problem.code for problem in findings.problems] == ["DATA-E0202"]
    file.write_text('[{"text": "a"}]')
    assert texts_of(open_all(tmp_path, train_file_path=str(file), json_field="x")[0]) == {str(file): ["a"]}


def test_no_broken_object_ends_in_a_traceback(tmp_path):
    """Whatever the bytes around a list, the answer is rows or problems."""
    import random

    whole = json.dumps(
        {"note": 'a "quoted" [word', "data": [{"text": f"row {n}"} for n in range(5)], "more": 1}
    ).encode()
    file = tmp_path / "a.json"
    draw = random.Random(32)
    outcomes = set()
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(content))
            content[at : at + draw.randint(0, 4)] = draw.choice([b"", b'"', b"{", b"]", b"\\", b"\xff", b":", b"\n"])
        file.write_bytes(content)
        try:
            [opened], _ = open_all(tmp_path, train_file_path=str(file), json_field="data")
        except UserError as error:
            outcomes.add(error.problems[0].code)
            assert_six_parts(str(error))
            continue
        findings = Findings(opened.name)
        list(read_source(opened, {"text_key": "text"}, findings))
        outcomes |= {problem.code for problem in findings.problems} or {"good"}
    assert {"good", "DATA-E0213"} < outcomes
