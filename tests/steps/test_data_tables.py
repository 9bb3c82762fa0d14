"""csv, tsv and parquet files, one line per kind of bad data; numbers are rows of the catalogue."""

import datetime
import decimal
import io
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_cases import Case, check_verdict
from opening import open_all, read_source, refused

from steps.prepare_data.findings import Findings

# Held-out rows, so that every row of the training file under test stays in train.
HELD_OUT = {
    ".csv": "id,text\n98,held out\n",
    ".tsv": "id\ttext\n98\theld out\n",
}


def csv(number, what, train, verdict, place="", says="", name="a.csv", **more):
    """A case of a csv or tsv file, with held-out files beside it."""
    held_out = HELD_OUT[name[-4:]]
    return Case(number, what, train, verdict, place, says, name=name, validation=held_out,
                test=held_out.replace("held", "test"), **more)  # fmt: skip


CSV = [
    csv(36, "quoted newline", 'id,text\n1,"two\nlines"\n2,b\n', "DATA-F0601"),
    csv(36, "row behind a quoted newline", 'id,text\n1,"two\nlines"\n2,\n', "DATA-E0603", ":4 (record 2) text"),
    csv(37, "short row", "id,text\n1,a\n2\n", "DATA-E0301", ":3 (record 2)", "1 field; expected 2"),
    csv(37, "short rows counted", "id,text\n1\n2,a\n3\n", "DATA-E0301", ":2 (record 1)", "first: 1, 3", count=2),
    csv(38, "long row", "id,text\n1,a\n2,b,c\n", "DATA-E0302", ":3 (record 2)", "in double quotes"),
    csv(39, "unclosed quote", 'id,text\n1,a\n2,"b\n3,c\n', "DATA-E0303", ":3 (record 2)", "never closed"),
    csv(40, "semicolons read as commas", "id;text\n1;a\n", "DATA-E0304", ":1", "set delimiter=;"),
    csv(40, "tabs in a csv", "text\tlabel\na\t1\n", "DATA-E0304", ":1", "set delimiter=tab"),
    csv(40, "bars in a tsv", "id|text\n1|a\n", "DATA-E0304", ":1", "set delimiter=|", name="a.tsv"),
    csv(41, "trailing delimiter", "id,text\n1,a,\n2,b,\n", "DATA-E0305", ":2 (record 1)", "at the end", count=2),
    csv(42, "duplicate header", "text,text\na,b\n", "DATA-E0306", ":1 text", "every column name once"),
    csv(43, "no header", "1,a\n2,b\n", "DATA-E0601", ":1 text", "'1', 'a'"),
    csv(44, "leading zeros", "text,id\n007,1\n", "DATA-F0601"),
    csv(45, "texts that other readers take for null", "id,text\n1,NA\n2,null\n3,None\n4,nan\n", "DATA-F0601"),
    csv(48, "twenty digits", "text,id\n12345678901234567890,1\n", "DATA-F0601"),
    csv(49, "backslash escapes", 'id,text\n1,"he said \\"hi\\""\n', "DATA-E0307", ":2 (record 1)", "set escapechar=\\"),
    csv(52, "bare quote in a tsv", 'id\ttext\n1\tsay "hi"\n', "DATA-F0601", name="a.tsv"),
    csv(53, "CR alone", "id,text\r1,a\r2,b\r", "DATA-F0103"),
    csv(54, "header only", "id,text\n", "DATA-E0108", "", "0 rows"),
    csv(55, "formula", "text,id\n=1+1,1\n", "DATA-F0601"),
    csv(56, "blank in the header", "id, Text\n1,a\n", "DATA-E0601", ":1 text", "did you mean ' Text'?"),
]


@pytest.mark.parametrize("case", CSV, ids=str)
def test_a_csv_file(case, tmp_path):
    check_verdict(case, tmp_path, "text_generation")


# number, what, bytes, parameters, texts that must be read
READ = [
    (40, "semicolons", "id;text\n1;a, b\n", {"delimiter": ";"}, ["a, b"]),
    (40, "tab by name", "id\ttext\n1\ta, b\n", {"delimiter": "tab"}, ["a, b"]),
    (40, "tab as two characters", "id\ttext\n1\ta, b\n", {"delimiter": "\\t"}, ["a, b"]),
    (45, "null-like texts", "id,text\n1,NA\n2,null\n3,None\n4,nan\n", {}, ["NA", "null", "None", "nan"]),
    (44, "zeros and long digits", "text\n007\n12345678901234567890\n1e5\n", {}, ["007", "12345678901234567890", "1e5"]),
    (49, "escapechar", 'id,text\n1,"he said \\"hi\\""\n2,"b\\\\c"\n', {"escapechar": "\\"}, ['he said "hi"', "b\\c"]),
    (49, "doubled quotes beside escapechar", 'id,text\n1,"a ""b"""\n', {"escapechar": "\\"}, ['a "b"']),
    (50, "spellings of true", "text\ntrue\nFALSE\nyes\n", {}, ["true", "FALSE", "yes"]),
    (51, "thousands", 'text\n"1,000"\n', {}, ["1,000"]),
]  # fmt: skip


@pytest.mark.parametrize(("content", "given", "texts"), [row[2:] for row in READ], ids=[f"{r[0]} {r[1]}" for r in READ])
def test_cells_are_texts_as_they_stand_there(tmp_path, content, given, texts):
    file = tmp_path / "a.csv"
    file.write_text(content)
    assert [row["text"] for row in read(file, **given)] == texts


def read(file, wanted="text", **given):
    [opened], _ = open_all(file.parent, train_file_path=str(file), **given)
    findings = Findings(opened.name)
    rows = [row for _, _, row in read_source(opened, {f"{wanted}_key": wanted}, findings)]
    assert findings.problems == []
    return rows


def test_a_large_dictionary_is_no_bomb_and_a_small_one_may_be(tmp_path):
    file = tmp_path / "a.parquet"
    many = pa.array([f"{number} " + "x" * 1000 for number in range(20_000)]).dictionary_encode()
    pq.write_table(pa.table({"text": many}), file, compression="zstd")
    assert len(read(file)) == 20_000
    one = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"text": one}), file)
    [opened], _ = open_all(tmp_path, train_file_path=str(file))
    findings = Findings(opened.name)
    assert sum(1 for _ in read_source(opened, {"text_key": "text"}, findings)) <= 67
    assert [problem.code for problem in findings.problems] == ["DATA-E0507"]


@pytest.mark.parametrize("value", [";;", '"', "\n", "tabs"])
def test_a_delimiter_is_one_character(value):
    from steps.errors import UserError
    from steps.params.reading import read_parameters

    with pytest.raises(UserError, match="delimiter"):
        read_parameters("chat_completion", {"pytorch_model_path": "m", "train_file_path": "a", "delimiter": value})


def test_every_column_is_given_when_none_is_named(tmp_path):
    file, table = tmp_path / "a.csv", tmp_path / "a.parquet"
    file.write_text("id,text\n1,a\n")
    pq.write_table(pa.table({"id": ["1"], "text": ["a"]}), table)
    for one in (file, table):
        [opened], _ = open_all(tmp_path, train_file_path=str(one))
        assert [row for _, _, row in read_source(opened, None, Findings(opened.name))] == [{"id": "1", "text": "a"}]


def test_columns_that_json_could_not_hold_do_not_hinder_when_every_column_is_read(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [b"a"], "made": [MORNING], "image": [b"\xff"]}), file)
    [opened], _ = open_all(tmp_path, train_file_path=str(file))
    findings = Findings(opened.name)
    [(_, _, row)] = read_source(opened, None, findings)
    assert row == {"text": "a", "made": MORNING, "image": b"\xff"}
    assert findings.problems == []


# Parquet


def parquet(columns, **options):
    """The bytes of a parquet file."""
    file = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), file, **options)
    return file.getvalue()


WHOLE = parquet({"text": [f"row {number}" for number in range(100)]}, write_page_checksum=True)
FLIPPED = WHOLE[:60] + bytes([WHOLE[60] ^ 0xFF]) + WHOLE[61:]
MAPS = pa.array(
    [[[("role", "user"), ("content", text)], [("role", "assistant"), ("content", "b")]] for text in "abc"],
    pa.list_(pa.map_(pa.string(), pa.string())),
)
TWICE = pa.array([[[("role", "user"), ("role", "assistant"), ("content", "b")]]], MAPS.type)
OTHER_MAPS = pa.array([[("speaker", "user"), ("words", "a")]], pa.map_(pa.string(), pa.string()))
NULL_MESSAGE = pa.array([[{"role": "user", "content": "a"}, None]])
BYTES = [[{"role": b"user", "content": text}, {"role": b"assistant", "content": b"b"}] for text in (b"a", b"b", b"c")]
MORNING = datetime.datetime(2026, 1, 2, 3, 4)

PARQUET = [
    Case(60, "timestamp as text", parquet({"text": [MORNING] * 3}), "DATA-E0506", " (record 1) text",
         "cast the column", count=3),
    Case(60, "date as text", parquet({"text": [MORNING.date()] * 3}), "DATA-E0506", " (record 1) text",
         "date32", count=3),
    Case(60, "a date of no calendar", parquet({"text": pa.array([2**30], pa.date32())}), "DATA-E0506",
         " (record 1) text", "date32"),
    Case(60, "a long time", parquet({"text": pa.array([2**62], pa.duration("ms"))}), "DATA-E0506", " (record 1) text",
         "duration"),
    Case(60, "a time of an unknown place", parquet({"text": pa.array([0], pa.timestamp("us", tz="Mars/Olympus"))}),
         "DATA-E0506", " (record 1) text", "Mars"),
    Case(61, "bytes as text", parquet({"text": [b"a", b"b", b"c"]}), "DATA-F0502", count=3),
    Case(61, "bytes that are no text", parquet({"text": [b"a", b"\xff"]}), "DATA-E0503", " (record 2) text", "0xFF"),
    Case(62, "zero rows", parquet({"text": pa.array([], pa.string())}), "DATA-E0108", "", "0 rows"),
    Case(63, "null column", parquet({"text": pa.nulls(3)}), "DATA-E0602", " (record 1) text", "null", count=3),
    Case(64, "maps of messages", parquet({"messages": MAPS}), "DATA-F0507",
         task="chat_completion", count=6),
    Case(61, "bytes inside messages", parquet({"messages": BYTES}), "DATA-F0502",
         task="chat_completion", count=12),
    Case(61, "bytes that are no text inside messages", parquet({"messages": [[{"role": "user", "content": b"\xff"}]]}),
         "DATA-E0503", " (record 1) messages[0].content", "0xFF", task="chat_completion"),
    Case(64, "a map with a key twice", parquet({"messages": TWICE}), "DATA-E0508", " (record 1) messages[0]", "role",
         task="chat_completion"),
    Case(64, "a map of something else", parquet({"messages": OTHER_MAPS}), "DATA-E0401", " (record 1) messages", "",
         task="chat_completion"),
    Case(66, "column names twice", parquet(pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"])),
         "DATA-E0504", " text", "2 columns"),
    Case(67, "cut at half", WHOLE[: len(WHOLE) // 2], "DATA-E0501", "", "it is truncated"),
    Case(67, "json renamed", b'{"text": "a"}\n', "DATA-E0501", "", "use the suffix of the file's real format"),
    Case(67, "empty", b"", "DATA-E0101", "", "0 bytes"),
    Case(68, "flipped bit in a page", FLIPPED, "DATA-E0502", " (record 1)", "damaged"),
    Case(69, "encrypted footer", b"PARE" + WHOLE[4:-4] + b"PARE", "DATA-E0505", "", "encrypted"),
]  # fmt: skip


@pytest.mark.parametrize("case", PARQUET, ids=str)
def test_a_parquet_file(case, tmp_path):
    check_verdict(replace(case, name="a.parquet"), tmp_path, "text_generation")


@pytest.mark.parametrize(
    ("number", "column", "values"),
    [
        (57, pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (57, pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (57, pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (58, pa.array([-1, 127], pa.int8()), [-1, 127]),
        (59, pa.array([decimal.Decimal("1.00"), None]), [decimal.Decimal("1.00"), None]),  # the tasks judge these
        (0, pa.array([True, None]), [True, None]),
        (64, pa.array([[("role", "user"), ("content", "a")]], pa.map_(pa.string(), pa.string())),
         [[{"role": "user", "content": "a"}]]),
        (64, pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())), [{"k": 1}, None, {}]),
        (64, pa.array([{"m": [("k", "v")], "n": 1}], pa.struct({"m": MAPS.type.value_type, "n": pa.int8()})),
         [{"m": {"k": "v"}, "n": 1}]),
    ],
)  # fmt: skip
def test_values_of_parquet_are_those_of_json(tmp_path, number, column, values):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column}), file)
    found = [row["text"] for row in read(file)]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


def test_a_truly_encrypted_file_is_refused(tmp_path):  # 69
    import base64

    import pyarrow.parquet.encryption as encryption

    class Keys(encryption.KmsClient):
        def __init__(self, config):
            super().__init__()

        def wrap_key(self, key_bytes, master_key_identifier):
            return base64.b64encode(key_bytes)

        def unwrap_key(self, wrapped_key, master_key_identifier):
            return base64.b64decode(wrapped_key)

    factory = encryption.CryptoFactory(Keys)
    for plain in (False, True):
        settings = encryption.EncryptionConfiguration(
            footer_key="k", column_keys={"k": ["text"]}, plaintext_footer=plain
        )
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), settings)
        file = tmp_path / f"{plain}.parquet"
        pq.write_table(pa.table({"text": ["a"], "id": [1]}), file, encryption_properties=properties)
        [opened], _ = open_all(tmp_path, train_file_path=str(file))
        findings = Findings(opened.name)
        assert list(read_source(opened, {"text_key": "text"}, findings)) == []
        assert [problem.code for problem in findings.problems] == ["DATA-E0505"]


def test_a_whole_row_group_is_not_held_at_once(tmp_path):
    import tracemalloc

    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"{number} " + "x" * 100_000 for number in range(2000)]}), file)
    [opened], _ = open_all(tmp_path, train_file_path=str(file), max_expand=100_000)
    tracemalloc.start()
    assert sum(1 for _ in read_source(opened, {"text_key": "text"}, Findings("a"))) == 2000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80_000_000  # of 200 MB


def test_a_gzip_file_by_another_name_is_refused(tmp_path):  # 13
    import gzip

    file = tmp_path / "a.jsonl"
    file.write_bytes(gzip.compress(b'{"text": "a"}\n'))
    check_verdict(
        Case(13, "gzip", file.read_bytes(), "DATA-E0106", "", "rename it to train.jsonl.gz"),
        tmp_path,
        "text_generation",
    )
    file = tmp_path / "b.jsonl.gz"
    file.write_bytes(b"")
    assert refused(tmp_path, train_file_path=str(file)).problems[0].code == "DATA-E0118"
