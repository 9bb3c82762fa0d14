"""The same rows in every file format: no format loses or changes a character."""

import contextlib
import csv
import gzip
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checking import check_data

from steps.tasks import load_task

ODD = [
    "plain words", 'a "quoted" word', '"', '""', "comma, semicolon; tab\t|", "two\nlines", "crlf\r\ninside",
    "cr\ralone",
    "  blanks around  ", "\u00fc caf\u00e9 cafe\u0301 \u6f22\u5b57 \U0001f600",
    "a\u2028b\u2029c\x85d\x0be\x0cf", "007", "1e5", "1,000", "NA",
    "null", "None", "nan", "true", "=1+1", "{x}", "[not a list", "back\\slash \\n \\u0041", "'single'",
    "\ufeffmark", "\u200f\u05d0 \x7f",
    "<b>&amp;</b>", "\U0010ffff", "#comment", "-", "\u00a0x\u00a0",
]  # fmt: skip
FORMATS = ["jsonl", "json", "csv", "tsv", "parquet"]
ROWS = 40


def text(draw):
    """A text of odd pieces that no other row has."""
    pieces = [draw.choice(ODD) for _ in range(draw.randint(1, 4))]
    return draw.choice(["", " ", "\n"]).join([*pieces, f"{draw.random()}", draw.choice(ODD)])


def message(draw, role):
    return {"role": role, "content": text(draw)}


def talk(draw):
    first = [message(draw, "system")] if draw.random() < 0.5 else []
    turns = [message(draw, role) for _ in range(draw.randint(1, 3)) for role in ("user", "assistant")]
    return [*first, *turns]


def answered(draw):
    context, number = text(draw), draw.randint(0, 3)
    start = min(number, len(context) - 2)
    return {"context": context, "question": text(draw),
            "answers": {"text": [context[start:]], "answer_start": [start]}}  # fmt: skip


def tagged(draw):
    words = [word for word in text(draw).split() if word.strip()]
    return {"tokens": words, "tags": [draw.choice(["O", "B-X", "B-Y"]) for _ in words]}


MAKERS = {
    "text_generation": lambda draw, number: {"text": text(draw)},
    "pretraining": lambda draw, number: {"text": text(draw)},
    "chat_completion": lambda draw, number: {"messages": talk(draw)},
    "preference": lambda draw, number: {"prompt": text(draw) + " ", "chosen": text(draw), "rejected": text(draw)},
    "kto": lambda draw, number: {"prompt": text(draw) + " ", "completion": text(draw), "label": bool(number % 2)},
    "grpo": lambda draw, number: {"problem": text(draw), "solution": text(draw)},
    "verl": lambda draw, number: {
        "data_source": "openai/gsm8k", "prompt": [message(draw, "user")], "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": text(draw)},
        "extra_info": {"index": number, "split": "train"},
    },
    "text_classification": lambda draw, number: {"sentence1": text(draw),
                                                 "label": ["007", "NA", "\u00e9, \""][number % 3]},
    "reranking": lambda draw, number: {"query": text(draw), "passage": text(draw), "relevant": bool(number % 2)},
    "token_classification": lambda draw, number: tagged(draw),
    "question_answering": lambda draw, number: answered(draw),
    "summarization": lambda draw, number: {"document": text(draw) * 3, "summary": text(draw)},
    "translation": lambda draw, number: {"en": text(draw), "de": text(draw)},
}  # fmt: skip


def written(rows, kind):
    """The bytes of a file; csv cells hold lists and objects as JSON."""
    if kind == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=7)
        return buffer.getvalue()
    if kind in ("csv", "tsv"):
        lines = io.StringIO(newline="")
        writer = csv.writer(lines, delimiter="," if kind == "csv" else "\t")
        writer.writerow(rows[0])
        writer.writerows([[v if type(v) is str else json.dumps(v) for v in row.values()] for row in rows])
        return lines.getvalue().encode()
    if kind == "json":
        return json.dumps(rows, indent=1).encode()
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def texts_in(value):
    """Every text of a value; of a text that is JSON, those inside too."""
    if isinstance(value, str):
        yield value
        if value[:1] in ("{", "["):
            with contextlib.suppress(ValueError):
                yield from texts_in(json.loads(value))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)


@pytest.mark.parametrize("task", MAKERS)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_rows_are_the_same_in_every_format(tmp_path, task, packed):
    draw = random.Random(f"{task} {packed}")
    rows = [MAKERS[task](draw, number) for number in range(ROWS)]
    found = {}
    for kind in FORMATS:
        content = written(rows, kind)
        file = tmp_path / (f"a.{kind}.gz" if packed else f"a.{kind}")
        file.write_bytes(gzip.compress(content) if packed else content)
        scratch = tmp_path / kind
        scratch.mkdir()
        checked = check_data(task, file, split="positional", scratch=scratch)
        found[kind] = [row for split in checked.rows.values() for row in split.table().to_pylist()]
        assert len(found[kind]) == ROWS
    columns = load_task(task).Columns()
    assert found["jsonl"] == [load_task(task).canonical(row, columns) for row in rows]
    for kind in FORMATS[1:]:
        assert found[kind] == found["jsonl"], kind
    for row, canonical in zip(rows, found["jsonl"], strict=True):
        kept = set(texts_in(canonical))
        assert [one for one in texts_in(row) if one not in kept and one != "train"] == []


def test_an_empty_cell_is_an_empty_text_as_in_json(tmp_path):
    rows = [{"problem": f"{n} \u00fc", "solution": "4", "hint": "" if n % 2 else "x"} for n in range(30)]
    file = tmp_path / "a.csv"
    file.write_bytes(written(rows, "csv"))
    with_hints = check_data("grpo", file, split="positional", scratch=tmp_path)
    (tmp_path / "b").mkdir()
    file = tmp_path / "a.jsonl"
    file.write_bytes(written(rows, "jsonl"))
    as_json = check_data("grpo", file, split="positional", scratch=tmp_path / "b")
    for name in ("train", "validation", "test"):
        assert with_hints.rows[name].table().to_pylist() == as_json.rows[name].table().to_pylist()
