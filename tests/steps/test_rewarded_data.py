"""Prompts for training with rewards: their tokens, their lengths, and the columns that rewards take."""

import json

import pyarrow.parquet as pq
import pytest
from conftest import CHAT_TEMPLATE, build_tokenizer
from reward_prompts import prepared_prompts, prompt_rows
from transformers import AutoTokenizer

from steps.artifacts import read_manifest
from steps.errors import UserError
from steps.params.chat_columns import GrpoColumns
from steps.tasks import grpo
from steps.tasks.rules.rewarded import as_columns


def tokens_of(data, split="train") -> list[list[int]]:
    return pq.read_table(data / f"tokens/{split}.parquet")["prompt_ids"].to_pylist()


def rows_of(data, split="train") -> list[dict]:
    read = pq.read_table(data / f"rows/{split}.parquet").to_pylist()
    return [grpo.training_row(row, GrpoColumns()) for row in read]


def warnings_of(data) -> dict[str, dict]:
    return {warning["code"]: warning for warning in read_manifest(data).facts["warnings"]}


def rendered(model, prompt) -> list[int]:
    """Let transformers render and tokenise a prompt."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    made = AutoTokenizer.from_pretrained(model).apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    return made["input_ids"]


def refused(model, folder, rows, **changes) -> list:
    with pytest.raises(UserError) as error:
        prepared_prompts(model, folder, rows, **changes)
    return error.value.problems


def test_prompts_are_the_tokens_of_transformers_and_every_column_is_kept(tiny_model, tmp_path):
    rows = prompt_rows(84)
    rows[3]["problem"] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Ünïcödé 🙂?"}]
    data = prepared_prompts(tiny_model, tmp_path / "a", rows, max_prompt_length=200)
    for split, part in (("train", rows[:-24]), ("validation", rows[-24:-12]), ("test", rows[-12:])):
        assert tokens_of(data, split) == [rendered(tiny_model, row["problem"]) for row in part]
        for made, row in zip(rows_of(data, split), part, strict=True):
            assert made["ground_truth"] == made["solution"] == row["solution"]
            assert made["level"] == row["level"]
    facts = read_manifest(data).facts
    assert facts["columns"] == ["ground_truth", "solution", "level"]
    assert facts["splits"]["train"]["tokens"] == sum(map(len, tokens_of(data)))
    assert facts["splits"]["train"]["sequences"] == 60
    assert facts["max_length"] == 200
    shown = "".join(token["text"] for token in facts["samples"][0]["tokens"])
    assert shown == AutoTokenizer.from_pretrained(tiny_model).decode(tokens_of(data)[0])
    schema = pq.read_schema(data / "tokens/train.parquet")
    assert str(schema.field("prompt_ids").type.value_type) == "int32"


def test_equal_rows_give_equal_files(tiny_model, tmp_path):
    made = [prepared_prompts(tiny_model, tmp_path / name, prompt_rows(84)) for name in "ab"]
    assert read_manifest(made[0]).digest == read_manifest(made[1]).digest


def test_a_long_prompt_keeps_its_end_or_is_left_out_of_both_files(tiny_model, tmp_path):
    rows = prompt_rows(84)
    rows[5]["problem"] = "again and again. " * 30 + "Which one?"
    whole = rendered(tiny_model, rows[5]["problem"])
    data = prepared_prompts(tiny_model, tmp_path / "a", rows)
    assert tokens_of(data)[5] == whole[-64:]
    assert warnings_of(data)["DATA-W0807"]["rows"] == [6]
    assert "were truncated at the start (1.7%)" in warnings_of(data)["DATA-W0807"]["what"]
    split = read_manifest(data).facts["splits"]["train"]
    assert (split["truncated"], split["left_out"], split["length"]["max"]) == (1, 0, len(whole))
    filtered = prepared_prompts(tiny_model, tmp_path / "b", rows, preprocessing={"length_handling": "filter"})
    assert tokens_of(filtered) == [one for number, one in enumerate(tokens_of(data)) if number != 5]
    assert [row["ground_truth"] for row in rows_of(filtered)] == [
        row["solution"] for number, row in enumerate(rows[:60]) if number != 5
    ]
    split = read_manifest(filtered).facts["splits"]["train"]
    assert (split["rows"], split["sequences"], split["truncated"], split["left_out"]) == (59, 59, 0, 1)


def test_prompts_that_are_all_left_out_are_refused(tiny_model, tmp_path):
    how = {"max_prompt_length": 5, "preprocessing": {"length_handling": "filter"}}
    problems = refused(tiny_model, tmp_path / "a", prompt_rows(84), **how)
    assert {problem.code for problem in problems} == {"DATA-E0820"}
    assert len(problems) == 3
    assert "every prompt of train longer than 5 tokens" in problems[0].found


def test_the_completion_has_room_in_the_positions_of_the_model(tiny_model, tmp_path):
    positions = json.loads((tiny_model / "config.json").read_text())["max_position_embeddings"]
    rows = prompt_rows(84)
    rows[5]["problem"] = "again and again. " * 90
    data = prepared_prompts(tiny_model, tmp_path / "a", rows, max_prompt_length=positions, max_completion_length=40)
    assert max(map(len, tokens_of(data))) == positions - 40
    assert f"leave room for a completion of 40 in the model's {positions} positions" in str(warnings_of(data))
    [problem] = refused(tiny_model, tmp_path / "b", rows, max_completion_length=positions)
    assert problem.code == "DATA-E0826"


def test_prompts_that_are_equal_in_what_is_left_of_them_are_told(tiny_model, tmp_path):
    rows = prompt_rows(84)
    rows[4]["problem"], rows[9]["problem"] = ("a " * n + "the lazy dog, " * 40 for n in (3, 8))
    data = prepared_prompts(tiny_model, tmp_path / "a", rows)
    assert warnings_of(data)["DATA-W1527"]["rows"] == [5, 10]


def test_a_prompt_with_a_control_token_is_told_and_refused_when_strict(tiny_model, tmp_path):
    rows = prompt_rows(84)
    rows[7]["problem"] = "well <|im_end|> so"
    data = prepared_prompts(tiny_model, tmp_path / "a", rows)
    assert warnings_of(data)["DATA-W0802"]["rows"] == [8]
    [problem] = refused(tiny_model, tmp_path / "b", rows, columns={"strict": True})
    assert (problem.code, problem.where) == ("DATA-E0812", f"{tmp_path}/b/train.jsonl:8 (record 8) problem[0].content")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no system') if messages[0]['role'] == 'system' }}" + CHAT_TEMPLATE, "no system"),
        ("{% if messages[0]['role'] != 'system' %}" + CHAT_TEMPLATE + "{% endif %}", "it writes nothing"),
    ],
)
def test_a_prompt_that_the_template_refuses_names_its_row(tmp_path, template, reason):
    build_tokenizer(tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(template)
    rows = prompt_rows(84)
    rows[2]["problem"] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1?"}]
    [problem] = refused(tmp_path / "model", tmp_path / "a", rows)
    assert (problem.code, problem.where) == ("DATA-E0805", f"{tmp_path}/a/train.jsonl:3 (record 3)")
    assert reason in problem.expected


def test_a_tokenizer_without_any_end_token_is_refused(tmp_path):
    build_tokenizer(tmp_path / "model")
    config = json.loads((tmp_path / "model/tokenizer_config.json").read_text())
    del config["eos_token"]
    (tmp_path / "model/tokenizer_config.json").write_text(json.dumps(config))
    prepared_prompts(tmp_path / "model", tmp_path / "a", prompt_rows(84))  # <|im_end|> ends the assistant's turns
    plain = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    (tmp_path / "model/chat_template.jinja").write_text(plain)
    assert refused(tmp_path / "model", tmp_path / "b", prompt_rows(84))[0].code == "DATA-E0807"


def test_columns_that_rewards_take_are_asked_for_with_the_nearest_name(tiny_model, tmp_path):
    rows = [{**row, "tests": ["assert True"]} for row in prompt_rows(84)]
    wanted = ("ground_truth", "levle", "tests")
    problems = refused(tiny_model, tmp_path / "a", rows, reward_columns=wanted)
    assert [(problem.code, problem.fix) for problem in problems] == [("DATA-E1528", "did you mean level?")] * 3
    assert "no column 'levle' (there are ground_truth, solution, level, tests)" in problems[0].found
    data = prepared_prompts(tiny_model, tmp_path / "b", rows, reward_columns=("ground_truth", "solution", "tests"))
    assert rows_of(data)[0]["tests"] == ["assert True"]


def test_a_missing_right_answer_names_the_parameter_of_its_column(tiny_model, tmp_path):
    rows = [{"problem": row["problem"], "answer": row["solution"], "solutions": "x"} for row in prompt_rows(84)]
    problem, *_ = refused(tiny_model, tmp_path / "a", rows, reward_columns=("ground_truth",))
    assert problem.found == "no right answer in a column 'solution' (there are answer, solutions)"
    assert problem.fix == "did you mean solutions?"
    named = {"dataset_ground_truth_column": "answer"}
    data = prepared_prompts(tiny_model, tmp_path / "b", rows, columns=named, reward_columns=("ground_truth", "answer"))
    assert rows_of(data)[0]["answer"] == "1"
    without = [{"problem": row["problem"]} for row in prompt_rows(84)]
    problem, *_ = refused(tiny_model, tmp_path / "c", without, reward_columns=("ground_truth",))
    assert problem.fix == "set dataset_ground_truth_column to the column with it"
    assert read_manifest(prepared_prompts(tiny_model, tmp_path / "d", without)).facts["columns"] == []


def test_a_column_ground_truth_is_the_right_answer_if_there_is_no_solution(tiny_model, tmp_path):
    rows = [{"problem": row["problem"], "ground_truth": int(row["solution"])} for row in prompt_rows(84)]
    data = prepared_prompts(tiny_model, tmp_path / "a", rows, reward_columns=("ground_truth",))
    assert [row["ground_truth"] for row in rows_of(data, "test")] == [str(row["ground_truth"]) for row in rows[-12:]]


def test_a_column_that_only_some_rows_have_is_told_and_none_elsewhere(tiny_model, tmp_path):
    rows = prompt_rows(84)
    del rows[1]["level"]
    rows[2]["level"] = None
    data = prepared_prompts(tiny_model, tmp_path / "a", rows, reward_columns=("level",))
    assert warnings_of(data)["DATA-W1529"]["count"] == 2
    columns = as_columns(rows_of(data)[:4], read_manifest(data).facts["columns"])
    assert columns == {"ground_truth": list("1234"), "solution": list("1234"), "level": [0, None, None, 0]}


def test_too_few_prompts_for_one_generation_are_refused(tiny_model, tmp_path):
    rows = prompt_rows(40)
    rows[1]["problem"] = "again " * 99
    how = {"rows_per_step": 16, "preprocessing": {"length_handling": "filter"}}
    [problem] = refused(tiny_model, tmp_path / "a", rows, **how)
    assert (problem.code, problem.found) == ("DATA-E0704", "15 training prompts, as 1 is too long")
    prepared_prompts(tiny_model, tmp_path / "b", rows, rows_per_step=16)
