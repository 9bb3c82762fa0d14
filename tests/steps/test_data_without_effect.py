"""Rows that are valid and teach a model nothing, or are dropped: counted or refused."""

import json

import pytest
from checking import check_data
from conftest import chat_rows, write_jsonl
from data_cases import notes, refusals

from steps.errors import UserError
from steps.params.chat_columns import GrpoColumns


@pytest.mark.parametrize("last", [{"role": "user", "content": "and?"}, {"role": "tool", "content": "4"},
                                  {"role": "user", "content": "and?", "name": "Ann"}])  # fmt: skip
def test_a_last_turn_that_nobody_answers_is_counted(tmp_path, last):
    rows = chat_rows(30)
    rows[4:6] = [{**row, "messages": [*row["messages"], last]} for row in rows[4:6]]
    note = notes(check_data("chat_completion", write_jsonl(tmp_path / "a.jsonl", rows)))["DATA-W0441"]
    assert (note["count"], note["rows"]) == (2, [5, 6])


@pytest.mark.parametrize("messages", [False, True])
def test_pairs_that_differ_in_white_space_only_are_counted(tmp_path, messages):
    say = (lambda text: [{"role": "assistant", "content": text}]) if messages else (lambda text: text)
    rows = [{"prompt": f"{n} ", "chosen": say(f"yes {n}"), "rejected": say(f"no {n}")} for n in range(30)]
    for n, other in ((3, " yes  3\n"), (4, "yes\u00a04"), (5, "yes 5\u200b")):
        rows[n]["rejected"] = say(other)
    note = notes(check_data("preference", write_jsonl(tmp_path / "a.jsonl", rows)))["DATA-W1507"]
    assert (note["count"], note["rows"]) == (3, [4, 5, 6])


@pytest.mark.parametrize("text", ['[{"role": "user", "content": "a"', "[{'role': 'user', 'content': 'a'}]",
                                  '[{"from": "human", "value": "\\ud800"}]'])  # fmt: skip
@pytest.mark.parametrize(("task", "key"), [("grpo", "problem"), ("preference", "chosen"), ("kto", "completion")])
def test_messages_as_broken_json_are_no_text(tmp_path, text, task, key):
    row = {"grpo": lambda n: {"problem": f"what is {n}", "solution": f"{n}"},
           "preference": lambda n: {"prompt": f"{n} ", "chosen": f"yes {n}", "rejected": "no"},
           "kto": lambda n: {"prompt": f"{n} ", "completion": f"yes {n}", "label": n % 2 == 0}}[task]  # fmt: skip
    rows = [row(n) for n in range(30)]
    rows[3][key] = text
    assert refusals(task, write_jsonl(tmp_path / "a.jsonl", rows))["DATA-E0442"].where.endswith(f"(record 4) {key}")


@pytest.mark.parametrize("task", ["grpo", "verl"])
def test_rows_with_one_prompt_stand_in_one_split_whatever_their_other_columns(tmp_path, task):
    def row(n):
        if task == "grpo":
            return {"problem": f"what is {n % 40}", "solution": f"{n % 40}", "id": n}
        return {"data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": f"what is {n % 40}"}],
                "ability": "math", "reward_model": {"style": "rule", "ground_truth": "1"},
                "extra_info": {"index": n}}  # fmt: skip

    file = write_jsonl(tmp_path / "a.jsonl", [row(n) for n in range(100)])
    checked = check_data(task, file, scratch=tmp_path)
    prompts = [
        {json.dumps(row["prompt"]) for row in checked.rows[name].table().to_pylist()}
        for name in ("train", "validation", "test")
    ]
    assert sum(map(len, prompts)) == 40
    assert sum(checked.counts.values()) == 100


def test_null_in_a_column_for_the_reward_functions_is_counted(tmp_path):
    rows = [{"problem": f"what is {n}", "solution": f"{n}", "level": None if n < 3 else n} for n in range(30)]
    note = notes(check_data("grpo", write_jsonl(tmp_path / "a.jsonl", rows)))["DATA-W1524"]
    assert (note["count"], note["rows"]) == (3, [1, 2, 3])
    assert "null in level" in note["what"]
    empty = [{**row, "solution": " "} for row in rows[3:]]
    assert notes(check_data("grpo", write_jsonl(tmp_path / "b.jsonl", empty), columns=GrpoColumns()))["DATA-W1526"]


def test_a_function_that_drops_every_row_is_named_in_the_refusal(tmp_path):
    (tmp_path / "f.py").write_text("def drop(row):\n    return None\n")
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": f"text {n}"} for n in range(30)])
    problem = refusals("text_generation", file, processing_function=f"{tmp_path / 'f.py'}:drop")["DATA-E0108"]
    assert problem.found == "0 rows, as drop dropped every row"
    (tmp_path / "f.py").write_text("def drop(row):\n    return row if row['text'] == 'text 3' else None\n")
    with pytest.raises(UserError) as error:
        check_data("text_generation", file, processing_function=f"{tmp_path / 'f.py'}:drop")
    assert "0 training rows of 1 after holding out validation and test" in str(error.value)
    assert "rows dropped by drop: 29" in " ".join(error.value.__notes__)
