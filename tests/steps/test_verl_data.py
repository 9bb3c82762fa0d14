"""The parquet files for verl, read back as verl reads them: with datasets.load_dataset."""

from pathlib import Path

import pytest
from verl_runs import row, write_rows

from steps.errors import UserError
from steps.tasks.rules.json_text import from_json
from steps.verl.data import PROMPT, write_data


def read(file: Path, tmp_path: Path) -> list[dict]:
    from datasets import load_dataset

    return list(load_dataset("parquet", data_files=str(file), cache_dir=str(tmp_path / "cache"))["train"])


def written(tmp_path: Path, rows: list[dict], own_rewards: bool = False) -> list[dict]:
    files = write_data(write_rows(tmp_path / "data", rows, [row(9)]), tmp_path / "verl", own_rewards)
    return read(files.train, tmp_path)


def test_rows_arrive_as_verls_own_data_has_them(tmp_path):
    files = write_data(write_rows(tmp_path / "data", [row(1), row(2)], [row(3)]), tmp_path / "verl")
    assert read(files.train, tmp_path) == [row(1), row(2)]
    assert read(files.validation, tmp_path) == [row(3)]
    assert files.rows == {"train": 2, "validation": 1}
    assert not files.object_truths


def test_equal_rows_give_equal_files(tmp_path):
    data = write_rows(tmp_path / "data", [row(1), row(2)], [row(3)])
    first, second = (write_data(data, tmp_path / name) for name in ("a", "b"))
    assert first.train.read_bytes() == second.train.read_bytes()


def test_an_index_that_is_no_number_becomes_one_and_is_kept_as_text(tmp_path):
    rows = [row(0, extra_info={"index": "a-7"}), row(1, extra_info={"index": 2**70}), row(2, extra_info={"index": 5})]
    infos = [one["extra_info"] for one in written(tmp_path, rows)]
    assert [one["index"] for one in infos] == [0, 1, 5]
    assert [one["index_text"] for one in infos] == ["a-7", str(2**70), None]


def test_a_key_that_some_rows_lack_is_null_there(tmp_path):
    rows = [row(0, extra_info={"index": 0, "a": 1, "tags": ["x"]}), row(1, extra_info={"index": 1, "b": {"c": 1.5}})]
    assert [one["extra_info"] for one in written(tmp_path, rows)] == [
        {"index": 0, "a": 1, "tags": ["x"], "b": None},
        {"index": 1, "a": None, "tags": None, "b": {"c": 1.5}},
    ]


def test_empty_values_that_parquet_cannot_hold_are_left_out(tmp_path):
    rows = [row(0, extra_info={"index": 0, "tools": {}, "none": None, "names": []})]
    assert written(tmp_path, rows)[0]["extra_info"] == {"index": 0, "names": []}


def test_values_of_two_types_are_refused_with_their_key(tmp_path):
    rows = [
        row(0, extra_info={"index": 0, "level": 1, "x": 1}),
        row(1, extra_info={"index": 1, "level": "hard", "x": []}),
    ]
    with pytest.raises(UserError, match=r"VERL-E0202 extra_info\.level") as caught:
        written(tmp_path, rows)
    assert [problem.where for problem in caught.value.problems] == ["extra_info.level", "extra_info.x"]


def searched(number: int) -> dict:
    truth = {"target": [str(number), "x"]}
    return row(number, data_source="searchR1_nq", reward_model={"style": "rule", "ground_truth": truth})


def test_ground_truths_of_search_are_objects(tmp_path):
    files = write_data(write_rows(tmp_path / "data", [searched(1)], [searched(2)]), tmp_path / "verl")
    assert files.object_truths
    assert read(files.train, tmp_path)[0]["reward_model"]["ground_truth"] == {"target": ["1", "x"]}


def test_objects_and_texts_together_are_refused_unless_the_rewards_are_ones_own(tmp_path):
    data = write_rows(tmp_path / "data", [searched(1), row(2)], [row(3)])
    with pytest.raises(UserError, match=r"VERL-E0201 .*searchR1_nq.*openai/gsm8k"):
        write_data(data, tmp_path / "verl")
    rows = read(write_data(data, tmp_path / "verl", own_rewards=True).train, tmp_path)
    assert [one["reward_model"]["ground_truth"] for one in rows] == ['{"target":["1","x"]}', "2"]


def test_own_rewards_get_the_prompt(tmp_path):
    rows = written(tmp_path, [row(1)], own_rewards=True)
    assert from_json(rows[0]["extra_info"][PROMPT]) == row(1)["prompt"]
    assert PROMPT not in written(tmp_path / "without", [row(1)])[0]["extra_info"]


def test_rows_without_a_kind_are_whole(tmp_path):
    assert written(tmp_path, [row(1, ability=None)])[0]["ability"] is None


def test_messages_keep_their_other_keys(tmp_path):
    prompt = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "1?", "name": "Ann"}]
    found = written(tmp_path, [row(1, prompt=prompt)])[0]["prompt"]
    assert [one["content"] for one in found] == ["Be short.", "1?"]
    assert found[1]["name"] == "Ann"
