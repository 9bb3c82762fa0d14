"""Random rows of tasks with messages: each is refused with an error, or converted to the trainer's form."""

import copy
import random

import pyarrow as pa
import pytest

from steps.prepare_data.check.rows import read_back
from steps.tasks import load_task

pytestmark = pytest.mark.slow

USER, BOT = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
CALL = {"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TALK = [{"role": "system", "content": "be kind"}, USER, {**BOT, "tool_calls": [CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "x"}, BOT]  # fmt: skip
GOOD = {
    "chat_completion": [
        {"messages": TALK, "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ],
    "preference": [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"chosen": TALK, "rejected": [*TALK[:-1], {**BOT, "content": "5"}]},
        {"prompt_messages": [USER], "chosen_messages": [BOT], "rejected_messages": [{**BOT, "content": "5"}]},
    ],
    "kto": [
        {"prompt": "a", "completion": "b", "label": True},
        {"prompt": TALK[:2], "completion": TALK[2:], "label": 0},
    ],
    "grpo": [{"problem": "a", "solution": "b", "level": 1}, {"prompt": [USER], "solution": 4}],
    "verl": [
        {"data_source": "openai/gsm8k", "prompt": [USER], "ability": "math", "extra_info": {"index": 1},
         "reward_model": {"style": "rule", "ground_truth": "4"}, "images": None},
    ],
}  # fmt: skip
ODD = [None, "", " ", "x", "[]", "[{", '{"a": 1}', 0, 1, 2.5, True, [], [None], ["x"], [[]], {}, {"role": "user"},
       USER, BOT, [USER], [BOT], [USER, BOT], [{"type": "text", "text": "hi"}], [{"type": "image"}], 1 << 40, "\0",
       "é\u2028"]  # fmt: skip


def places(value):
    """Every container and key inside a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from places(inner)


def changed(row, draw):
    row = copy.deepcopy(row)
    for _ in range(draw.randint(1, 3)):
        found = list(places(row))
        if not found:
            break
        inside, key = draw.choice(found)
        if draw.random() < 0.25:
            del inside[key]
        elif draw.random() < 0.2 and isinstance(inside, list):
            inside.insert(key, copy.deepcopy(draw.choice(ODD)))
        else:
            inside[key] = copy.deepcopy(draw.choice(ODD))
    return row


@pytest.mark.parametrize("rules", [{}, {"merge_turns": True, "allow_late_system": True, "role_map": "x=assistant"}])
@pytest.mark.parametrize("task", GOOD)
def test_a_row_is_refused_in_words_or_survives(task, rules):
    module, draw = load_task(task), random.Random(7)
    columns = module.Columns(**rules)
    refused = 0
    for _ in range(4000):
        row = changed(draw.choice(GOOD[task]), draw)
        row, unread = module.with_images(row, columns, None) if hasattr(module, "with_images") else (row, [])
        faults = unread or list(module.check_row(row, columns))
        if faults:
            refused += 1
            assert all(part for fault in faults for part in (fault.code, fault.column, fault.found, fault.fix)), row
            continue
        list(module.remarks(row, columns))
        made = module.canonical(row, columns)
        [back] = read_back(pa.Table.from_pylist([made], module.SCHEMA))
        assert back == made
        assert module.training_row(back, module.Columns())
        module.question(back, module.Columns())
        if hasattr(module, "counted"):
            assert all(isinstance(key, str | bool) for key in module.counted(back, columns))
    assert 400 < refused < 3900


@pytest.mark.parametrize("task", GOOD)
def test_the_rows_before_the_change_are_good(task):
    module = load_task(task)
    for row in GOOD[task]:
        assert list(module.check_row(row, module.Columns())) == []
