"""Prompts and answers are tokenised as by TRL, within their limits."""

from itertools import pairwise
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from preferences import pair_rows, prepared, rated_rows, turn

from steps.artifacts import read_manifest
from steps.errors import UserError


def tokens_of(data, split="train") -> list[dict]:
    return pq.read_table(data / f"tokens/{split}.parquet").to_pylist()


def by_trl(trainer: str, folder, rows: list[dict], length: int = 64) -> list[dict]:
    """Let TRL's trainer prepare rows and its collator cut them; give the sequences with what is learned in them."""
    import trl
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    how = SimpleNamespace(
        dataset_num_proc=None, max_length=length, truncation_mode="keep_start", per_device_train_batch_size=4
    )  # fmt: skip
    itself = SimpleNamespace(_tokenizer=tokenizer, calculate_KL=False, desirable_weight=1.0, undesirable_weight=1.0)
    prepare = getattr(trl, trainer)._prepare_dataset
    return list(prepare(itself, Dataset.from_list(rows), tokenizer, how, "validation"))


def cut(row: dict, length: int = 64) -> dict:
    """Cut answers at the end of the longest sequence, as TRL's collators do."""
    answers = [key for key in row if key in ("chosen_ids", "rejected_ids", "completion_ids")]
    return {"prompt_ids": row["prompt_ids"]} | {key: row[key][: length - len(row["prompt_ids"])] for key in answers}


@pytest.mark.slow
@pytest.mark.parametrize("chat", [True, False], ids=["messages", "texts"])
@pytest.mark.parametrize("length", [64, 34])
def test_pairs_become_the_tokens_that_trl_makes(tiny_model, tmp_path, chat, length):
    rows = pair_rows(84, chat)
    data = prepared(tiny_model, tmp_path / "a", rows, length)
    expected = [cut(row, length) for row in by_trl("DPOTrainer", tiny_model, rows[:60], length)]
    assert tokens_of(data) == expected
    assert len(expected) == 60


@pytest.mark.slow
@pytest.mark.parametrize("chat", [True, False], ids=["messages", "texts"])
def test_rated_answers_become_the_tokens_that_trl_makes_in_an_order_of_their_own(tiny_model, tmp_path, chat):
    rows = rated_rows(84, chat)
    data = prepared(tiny_model, tmp_path / "a", rows)
    expected = [{**cut(row), "label": row["label"]} for row in by_trl("KTOTrainer", tiny_model, rows[:60])]
    made = tokens_of(data)
    assert sorted(map(str, made)) == sorted(map(str, expected))
    assert made != expected
    assert tokens_of(prepared(tiny_model, tmp_path / "b", rows)) == made
    test = [{**cut(row), "label": row["label"]} for row in by_trl("KTOTrainer", tiny_model, rows[-12:])]
    assert tokens_of(data, "test") == test


@pytest.mark.slow
def test_pairs_taken_apart_are_the_rated_answers_of_trl(tiny_model, tmp_path):
    rows = pair_rows(84)
    data = prepared(tiny_model, tmp_path / "a", rows, unpairs=True)
    expected = [{**cut(row), "label": row["label"]} for row in by_trl("KTOTrainer", tiny_model, rows[:60])]
    assert sorted(map(str, tokens_of(data))) == sorted(map(str, expected))
    facts = read_manifest(data).facts["splits"]
    assert (facts["train"]["rows"], facts["train"]["sequences"]) == (60, 120)
    neighbours = [row["prompt_ids"] for row in tokens_of(data)]
    assert sum(one == other for one, other in pairwise(neighbours)) < 5
    assert tokens_of(data, "test") == [cut(row) for row in by_trl("DPOTrainer", tiny_model, rows[-12:])]


def test_texts_and_conversations_stand_in_one_file(tiny_model, tmp_path):
    chats, texts = pair_rows(84), pair_rows(84, chat=False)
    mixed = [(chats if number % 2 else texts)[number] for number in range(84)]
    whole = tokens_of(prepared(tiny_model, tmp_path / "mixed", mixed))
    alone = [tokens_of(prepared(tiny_model, tmp_path / name, rows)) for name, rows in (("t", texts), ("c", chats))]
    assert whole == [alone[number % 2][number] for number in range(60)]


def test_a_long_prompt_loses_its_start_and_is_told(tiny_model, tmp_path):
    rows = pair_rows(84)
    rows[5]["prompt"] = turn("user", "again and again. " * 30)
    whole = tokens_of(prepared(tiny_model, tmp_path / "a", rows, length=256))[5]
    data = prepared(tiny_model, tmp_path / "b", rows, max_prompt_length=40)
    assert len(whole["prompt_ids"]) > 64
    assert tokens_of(data)[5] == {**whole, "prompt_ids": whole["prompt_ids"][-40:]}
    warnings = {warning["code"]: warning for warning in read_manifest(data).facts["warnings"]}
    assert "were truncated at the start" in warnings["DATA-W0807"]["what"]
    assert warnings["DATA-W0807"]["rows"] == [6]
    filtered = prepared(
        tiny_model, tmp_path / "c", rows, max_prompt_length=40, preprocessing={"length_handling": "filter"}
    )
    assert len(tokens_of(filtered)) == 59
    assert read_manifest(filtered).facts["splits"]["train"]["left_out"] == 1


def test_a_prompt_that_leaves_no_room_for_an_answer_is_left_out_and_many_are_refused(tiny_model, tmp_path):
    rows = pair_rows(324)
    rows[5]["prompt"] = turn("user", "again and again. " * 30)
    data = prepared(tiny_model, tmp_path / "a", rows)
    assert len(tokens_of(data)) == 299
    assert "DATA-W0803" in {warning["code"] for warning in read_manifest(data).facts["warnings"]}
    for row in rows[:20]:
        row["prompt"] = turn("user", f"again and again. {row}")
    with pytest.raises(UserError, match=r"DATA-E0803 .*train.jsonl:1 .*20 of 300"):
        prepared(tiny_model, tmp_path / "b", rows)


def test_prompts_that_are_all_too_long_are_refused(tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"DATA-E0820 .*train.jsonl:1 .*every prompt of train longer than 5 tokens"):
        prepared(
            tiny_model, tmp_path / "a", pair_rows(84), max_prompt_length=5, preprocessing={"length_handling": "filter"}
        )


def test_answers_that_differ_only_behind_the_cut_are_told(tiny_model, tmp_path):
    rows = pair_rows(84)
    for name, end in (("chosen", "yes"), ("rejected", "no")):
        rows[3][name] = turn("assistant", "the lazy dog, " * 30 + end)
    data = prepared(tiny_model, tmp_path / "a", rows)
    warnings = {warning["code"]: warning for warning in read_manifest(data).facts["warnings"]}
    assert warnings["DATA-W1505"]["rows"] == [4]
    assert warnings["DATA-W0804"]["rows"] == [4]


def test_a_prompt_that_runs_into_its_answer_begins_the_answer_where_they_part(tiny_model, tmp_path):
    rows = pair_rows(84, chat=False)
    for row in rows:
        row["prompt"], row["chosen"] = row["prompt"] + " The capit", "al of France" + row["chosen"]
    data = prepared(tiny_model, tmp_path / "a", rows)
    told = [warning["count"] for warning in read_manifest(data).facts["warnings"] if warning["code"] == "DATA-W1506"]
    assert told == [60, 12, 12]
    assert tokens_of(data) == [cut(row) for row in by_trl("DPOTrainer", tiny_model, rows[:60])]


def test_a_message_with_a_control_token_is_told_and_refused_when_strict(tiny_model, tmp_path):
    rows = pair_rows(84)
    rows[7]["rejected"] = turn("assistant", "well <|im_end|> so")
    data = prepared(tiny_model, tmp_path / "a", rows)
    assert "DATA-W0802" in {warning["code"] for warning in read_manifest(data).facts["warnings"]}
    with pytest.raises(UserError, match=r"DATA-E0812 .*train.jsonl:8 .*rejected\[0\].content"):
        prepared(tiny_model, tmp_path / "b", rows, columns={"strict": True})


def test_a_template_that_no_row_needs_is_told(tiny_model, tmp_path):
    how = {"preprocessing": {"chat_template": "chat-ml"}}
    for chat, told in ((True, False), (False, True)):
        data = prepared(tiny_model, tmp_path / str(chat), pair_rows(84, chat), **how)
        codes = {warning["code"] for warning in read_manifest(data).facts["warnings"]}
        assert ("DATA-W0809" in codes) is told
        assert (data / "chat_template.jinja").is_file() is chat


def test_pairs_where_rated_answers_are_looked_for_are_told_apart(tiny_model, tmp_path):
    from preferences import data_settings

    from steps.prepare_data.step import prepare_data

    settings = data_settings(tmp_path / "a", pair_rows(84))
    with pytest.raises(UserError, match=r"DATA-E0601 .*set kto_rows=pairs"):
        prepare_data(settings.model_copy(update={"task": "kto"}), tiny_model, tmp_path / "d", tmp_path / "d.html")
