"""Prompts for verl, each with the data source that selects its reward function.

{"data_source": "openai/gsm8k", "prompt": [{"role": "user", …}], "ability": "math",
 "reward_model": {"style": "rule", "ground_truth": "4"}, "extra_info": {"index": 0}, "images": [{"bytes": …}]}
{"question": "2 + 2?", "answer": "4"}     with question_key=question, answer_key=answer, data_source=openai/gsm8k
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from steps.params.chat_columns import VerlColumns
from steps.tasks import Fault, OtherColumns, as_found, kind_of, missing_columns, named_by
from steps.tasks.rules import images
from steps.tasks.rules.answers import as_question, read_value, text_faults, truth_faults, value_faults
from steps.tasks.rules.cells import Reader
from steps.tasks.rules.characters import is_blank
from steps.tasks.rules.counting import Judgement, Tally
from steps.tasks.rules.json_text import as_bytes, as_json, from_json
from steps.tasks.rules.messages import MESSAGES, order_faults, packed, remarks_on, unpacked
from steps.tasks.rules.rewarded import RESERVED
from steps.tasks.rules.standard import from_text
from steps.tasks.rules.verl_sources import KNOWN, family_of, like, truth_for

Columns = VerlColumns
KINDS = ("causal_lm", "image_text_lm")
DOES = "answers the way that is rewarded"
EXAMPLE = '{"messages": [{"role": "user", "content": "Hello"}]}'
CONVERSATIONS = False
UNFIT: dict[str, str] = {}
# What is learned from; other columns, such as an id, do not make a row another one.
TOGETHER = ("prompt", "images")

SCHEMA = pa.schema(
    [
        pa.field("data_source", pa.string(), nullable=False),
        pa.field("prompt", MESSAGES, nullable=False),
        pa.field("ability", pa.string()),
        pa.field("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())]), nullable=False),
        # One JSON object; it always has an index.
        pa.field("extra_info", pa.string(), nullable=False),
        # What rewards of this project take, as in the rows of the task grpo.
        pa.field("ground_truth", pa.string(), nullable=False),
        pa.field("more", pa.string(), nullable=False),
        # The images of the prompt, in the order of <image> in it; null if there are none.
        pa.field("images", pa.list_(pa.large_binary())),
    ]
)

MEDIA = ("images", "videos", "audios")
NAME_TRUTH = "set reward_model_key, or question_key and answer_key, to the columns with it"
MADE_STYLE = "rule"  # style of rows made from question and answer columns: rewarded by comparison
AS_MESSAGE = ("DATA-F1532", "prompts as text read as one user message")
TO_TEXT = ("DATA-F1533", "ground truths converted to text")
INDEXED = ("DATA-F1534", "extra_info.index made from the row's content")


def prompt_column(columns: VerlColumns) -> str:
    """Return the column with the question."""
    return columns.question_key or columns.prompt_key


def truth_column(columns: VerlColumns) -> str:
    """Return the column with the right answer."""
    return columns.answer_key or columns.reward_model_key


def other_truths(columns: VerlColumns) -> tuple[str, ...]:
    """Return the columns that are read for the right answer if its own is missing."""
    return ()


def nested_column(columns: VerlColumns) -> str:
    """Return the column with an object whose keys rewards take as columns."""
    return columns.extra_info_key


def columns_of(columns: VerlColumns) -> tuple[str, ...]:
    """Return the required columns."""
    names = (prompt_column(columns), truth_column(columns))
    return names if columns.data_source else (columns.data_source_key, *names)


def other_columns(columns: VerlColumns) -> OtherColumns:
    """Return the optional columns; those of videos and audio are listed so that check_row can refuse them."""
    raw = (columns.data_image_key,) if columns.data_image_key else ()
    names = (columns.ability_key, columns.extra_info_key, columns.data_source_key, *MEDIA, *raw)
    return OtherColumns(names, raw=raw)


def cells(columns: VerlColumns) -> dict[str, Reader]:
    """Return the columns that may hold JSON text."""
    objects = dict.fromkeys((columns.reward_model_key, columns.extra_info_key), _as_object)
    return {prompt_column(columns): from_text, **objects}


def with_images(row: dict[str, Any], columns: VerlColumns, folder: Path | None) -> tuple[dict[str, Any], list[Fault]]:
    """Return the row with its images as bytes and `<image>` in its prompt, and the errors in them.

    Rows stay as they are if no image is read, because the model reads texts only.
    """
    if not columns.data_image_key:
        return row, []
    return images.with_images(row, prompt_column(columns), columns.data_image_key, folder)


def check_row(row: dict[str, Any], columns: VerlColumns) -> Iterator[Fault]:
    """Yield the errors in one row: its parts, and a data source for which verl has no reward function."""
    if absent := [name for name in columns_of(columns) if name not in row]:
        yield from missing_columns(row, named_by(columns, absent))
        return
    yield from _source_faults(row, columns)
    key = prompt_column(columns)
    prompt, _ = read_value(row, key, columns)
    faults = list(value_faults(prompt, key, columns))
    yield from faults
    if not faults and type(prompt) is list:
        yield from order_faults(prompt, key, columns)
        if prompt[-1]["role"] == "assistant":
            yield Fault("DATA-E1535", f"{key}[{len(prompt) - 1}].role", '"assistant"', "a question as the last message",
                        "move the answer to reward_model.ground_truth")  # fmt: skip
    yield from _reward_faults(row, columns)
    info = _as_object(row.get(columns.extra_info_key))
    if info is not None and type(info) is not dict:
        yield Fault("DATA-E1534", columns.extra_info_key, as_found(info), f"an object, not {kind_of(info)}",
                    'write it as {"index": …}, or remove the column')  # fmt: skip
    elif info is not None and type(index := info.get("index")) not in (int, str, type(None)):
        yield Fault("DATA-E1534", f"{columns.extra_info_key}.index", as_found(index), "a whole number or text, not "
                    f"{kind_of(index)}", "correct it, or leave it out")  # fmt: skip
    ability = row.get(columns.ability_key)
    if ability is not None and type(ability) is not str:
        yield from text_faults(ability, columns.ability_key)
    yield from _media_faults(row, columns)


def remarks(row: dict[str, Any], columns: VerlColumns) -> Iterator[tuple[str, str]]:
    """Yield the repairs."""
    prompt, repairs = read_value(row, prompt_column(columns), columns)
    if type(prompt) is str and not columns.question_key:
        repairs = [*repairs, AS_MESSAGE]
    yield from remarks_on(as_question(prompt), repairs, columns)
    if type(_reward_of(row, columns)["ground_truth"]) is not str:
        yield TO_TEXT
    if (_as_object(row.get(columns.extra_info_key)) or {}).get("index") is None:
        yield INDEXED


def canonical(row: dict[str, Any], columns: VerlColumns) -> dict[str, Any]:
    """Return the five columns of verl; question and answer columns give the style "rule" and an index hashed from them.

    The last two columns are for rewards of this project, which take the source and the keys of extra_info by name.

    {"question": "2 + 2?", "answer": 4}
    → {"data_source": "openai/gsm8k", "prompt": [{"role": "user", …}], "ability": None,
       "reward_model": {"style": "rule", "ground_truth": "4"}, "extra_info": '{"index":…}',
       "ground_truth": "4", "more": '{"index":…,"data_source":"openai/gsm8k"}'}
    """
    prompt = packed(as_question(read_value(row, prompt_column(columns), columns)[0]), columns)
    reward = _reward_of(row, columns)
    truth = reward["ground_truth"]
    made = {
        "data_source": _source_of(row, columns),
        "prompt": prompt,
        "ability": row.get(columns.ability_key),
        "reward_model": {
            "style": reward["style"],
            "ground_truth": truth if type(truth) is str else _as_text(truth),
        },
    }
    info = {**(_as_object(row.get(columns.extra_info_key)) or {})}
    pictures = (row.get(columns.data_image_key) or []) if columns.data_image_key else []
    if info.get("index") is None:  # equal rows have equal indexes
        content = blake2b(as_bytes(made), digest_size=6)
        for picture in pictures:
            content.update(picture)
        info["index"] = int.from_bytes(content.digest())
    more = {name: value for name, value in info.items() if name not in RESERVED} | {"data_source": made["data_source"]}
    return {
        **made,
        "extra_info": as_json(info, str),
        "ground_truth": made["reward_model"]["ground_truth"],
        "more": as_json(more, str),
        "images": pictures or None,
    }


def training_row(row: dict[str, Any], columns: VerlColumns) -> dict[str, Any]:
    """Return the row in the form that verl reads from its parquet files, without its images."""
    style, source = row["reward_model"]["style"], row["data_source"]
    truth = truth_for(source, row["reward_model"]["ground_truth"])
    return {
        "data_source": source,
        "prompt": unpacked(row["prompt"]),
        "ability": row["ability"],
        "reward_model": {"style": style, "ground_truth": truth},
        "extra_info": from_json(row["extra_info"]),
    }


def question(row: dict[str, Any], columns: VerlColumns) -> tuple[list[dict[str, Any]], str]:
    """Return the prompt and the ground truth."""
    return unpacked(row["prompt"]), row["reward_model"]["ground_truth"]


def counted(row: dict[str, Any], columns: VerlColumns) -> tuple[str]:
    """Count the indexes."""
    return (str(from_json(row["extra_info"])["index"]),)


def judge(tallies: dict[str, Tally], columns: VerlColumns) -> Iterator[Judgement]:
    """Warn of rows with the same index: verl's logs cannot distinguish them."""
    for split, tally in tallies.items():
        shared = [key for key, count in tally.counts.items() if count > 1]
        if shared:
            count = sum(tally.counts[key] for key in shared)
            told = f"rows that share their extra_info.index with others ({len(shared)} values)"
            fault = Fault("DATA-W1535", columns.extra_info_key, told, "", "")
            yield Judgement(split, fault, count, tuple(tally.records[shared[0]]))


def _media_faults(row: dict[str, Any], columns: VerlColumns) -> Iterator[Fault]:
    """Refuse videos and audio, and images in a column that is not read."""
    read = columns.data_image_key
    for name in MEDIA:
        if row.get(name) and name != read:
            expected = f"images in the column {read} only" if read else "text only: the model reads no images"
            fix = f"set data_image_key={name}" if read and name == "images" else "remove the column, or these rows"
            count = f"{len(row[name])} of them" if type(row[name]) is list else as_found(row[name])
            yield Fault("DATA-E1536", name, count, expected if name == "images" else f"no {name}", fix)


def _source_of(row: dict[str, Any], columns: VerlColumns) -> Any:
    return row.get(columns.data_source_key) or columns.data_source


def _source_faults(row: dict[str, Any], columns: VerlColumns) -> Iterator[Fault]:
    source = _source_of(row, columns)
    wrong = list(text_faults(source, columns.data_source_key, "the name of a data source"))
    yield from wrong
    if wrong or columns.custom_reward_function_path or family_of(source):
        return
    yield Fault("DATA-E1531", columns.data_source_key, as_found(source),
                f"a data source with a reward function: {KNOWN}",
                f"{like(source)} Rename it, or set reward_funcs or custom_reward_function_path".strip())  # fmt: skip


def _reward_faults(row: dict[str, Any], columns: VerlColumns) -> Iterator[Fault]:
    if columns.question_key:
        truth = row[columns.answer_key]
        yield from truth_faults(truth, columns.answer_key)
        if _is_empty(truth):
            yield Fault("DATA-E1533", columns.answer_key, as_found(truth), "the right answer",
                        "fill it in, or remove the row")  # fmt: skip
        return
    key = columns.reward_model_key
    reward = _as_object(row[key])
    if type(reward) is not dict:
        yield Fault("DATA-E1532", key, as_found(reward), "an object with style and ground_truth",
                    'write it as {"style": "rule", "ground_truth": …}')  # fmt: skip
        return
    if absent := [name for name in ("style", "ground_truth") if _is_empty(reward.get(name))]:
        yield Fault("DATA-E1533", f"{key}.{absent[0]}", f"no value for {' and '.join(absent)}",
                    "an object with style and ground_truth", "fill it in, or remove the row")  # fmt: skip
    elif type(reward["style"]) is not str:
        yield from text_faults(reward["style"], f"{key}.style")


def _as_text(truth: Any) -> str:
    return str(truth) if type(truth) is Decimal else as_json(truth, str)


def _is_empty(value: Any) -> bool:
    return value is None or (type(value) is str and is_blank(value))


def _reward_of(row: dict[str, Any], columns: VerlColumns) -> dict[str, Any]:
    if columns.question_key:
        return {"style": MADE_STYLE, "ground_truth": row[columns.answer_key]}
    reward: dict[str, Any] = _as_object(row[columns.reward_model_key])
    return reward


def _as_object(value: Any) -> Any:
    """Parse an object that a cell holds as JSON text; None for an empty cell."""
    if type(value) is not str:
        return value
    if is_blank(value):
        return None
    try:
        return from_json(value)
    except orjson.JSONDecodeError:
        return value
