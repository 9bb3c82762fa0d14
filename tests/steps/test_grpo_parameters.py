"""Inputs of the seed that other pipelines have under another name: each has one place, one meaning and no warning."""

import pytest

from steps.errors import UserError
from steps.params.chat_columns import GrpoColumns
from steps.params.data import DataSource
from steps.params.group import old_names
from steps.params.pipelines import PARAMETER_MODELS, sweep_model
from steps.params.reading import read_parameters
from steps.params.training import TrainingParams
from steps.tasks.grpo import canonical

PIPELINE = "grpo_chat_completion"


def read(**given):
    return read_parameters(PIPELINE, {"pytorch_model_path": "/m", **given})


def refused(**given) -> list[tuple[str, str]]:
    with pytest.raises(UserError) as caught:
        read(**given)
    return [(problem.code, problem.where) for problem in caught.value.problems]


def test_eval_strategy_is_read_without_a_warning_and_by_the_code_of_all_trainings():
    reading = read(dataset_name="d", eval_strategy="steps")
    assert reading.warnings == []
    assert TrainingParams.of(reading.parameters).evaluation_strategy == "steps"
    assert reading.requested["eval_strategy"] == "steps"
    assert "evaluation_strategy" not in reading.requested


def test_names_of_other_pipelines_are_read_as_the_seeds():
    reading = read(dataset_name="d", evaluation_strategy="steps", deepspeed="zero.json")
    assert reading.warnings == []
    assert (reading.parameters.eval_strategy, reading.parameters.deepspeed_config) == ("steps", "zero.json")
    assert [str(one) for one in reading.translations][:2] == [
        "evaluation_strategy: 'evaluation_strategy' is read as 'eval_strategy'",
        "deepspeed: 'deepspeed' is read as 'deepspeed_config'",
    ]
    assert refused(dataset_name="d", eval_strategy="no", evaluation_strategy="steps")[0][0] == "PARAM-E0107"


def test_in_other_pipelines_eval_strategy_is_still_an_old_name():
    reading = read_parameters("chat_completion", {"pytorch_model_path": "/m", "dataset_name": "d",
                                                  "eval_strategy": "no"})  # fmt: skip
    assert reading.warnings == ["eval_strategy: 'eval_strategy' is read as 'evaluation_strategy'"]


@pytest.mark.parametrize("model", [PARAMETER_MODELS[PIPELINE], sweep_model(PIPELINE)])
def test_a_sweep_has_the_same_names(model):
    assert {"eval_strategy", "deepspeed_config"} <= set(model.model_fields)
    assert not {"evaluation_strategy", "deepspeed"} & set(model.model_fields)
    assert old_names(model)["evaluation_strategy"] == "eval_strategy"
    assert "eval_strategy" not in old_names(model)


def test_messages_name_the_parameter_of_this_pipeline():
    with pytest.raises(UserError, match=r"true with eval_strategy=no.*set eval_strategy to epoch or steps"):
        read(dataset_name="d", apply_early_stopping=True)
    with pytest.raises(UserError, match="PARAM-E0273 deepspeed_config"):
        read(dataset_name="d", apply_deepspeed=True, deepspeed_config="tru")


@pytest.mark.parametrize(
    ("given", "applies", "file"),
    [
        ({}, False, "true"),
        ({"deepspeed_config": "zero.json"}, True, "zero.json"),
        ({"deepspeed_config": "s3://b/zero.json", "apply_deepspeed": False}, True, "s3://b/zero.json"),
        ({"apply_deepspeed": True}, True, "true"),
        ({"apply_deepspeed": True, "deepspeed_config": "true"}, True, "true"),
        ({"deepspeed_config": True}, False, "true"),
        ({"deepspeed_config": "false"}, False, "true"),
    ],
)
def test_a_deepspeed_file_applies_deepspeed(given, applies, file):
    p = read(dataset_name="d", **given).parameters
    assert (p.apply_deepspeed, p.deepspeed) == (applies, file)


def test_splits_are_files_without_a_data_set_and_names_with_one():
    files = read(dataset_train_split="a.jsonl", dataset_validation_split="b.jsonl").parameters
    source = DataSource.of(files)
    assert (source.train_file_path, source.validation_file_path) == ("a.jsonl", "b.jsonl")
    splits = read(dataset_name="d", dataset_train_split="learn", dataset_validation_split="held").parameters
    source = DataSource.of(splits)
    assert (source.train_file_path, source.dataset_split, source.dataset_validation_split) == ("", "learn", "held")
    assert read(dataset_train_split=["a.jsonl", "b,c.jsonl"]).parameters.train_file_path == "a.jsonl\nb,c.jsonl"
    assert read(train_file_path="a.jsonl").parameters.dataset_train_split == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"dataset_train_split": "a.jsonl", "train_file_path": "b.jsonl"}, "PARAM-E0336"),
        ({"dataset_name": "d", "dataset_train_split": "a", "dataset_split": "b"}, "PARAM-E0336"),
        ({"dataset_name": "d", "dataset_train_split": "rows/a.jsonl"}, "PARAM-E0337"),
        ({"dataset_name": "d", "dataset_validation_split": "a.jsonl"}, "PARAM-E0337"),
    ],
)
def test_two_meanings_of_the_rows_are_refused(given, expected):
    assert [code for code, _ in refused(**given)] == [expected]


def test_the_same_value_under_both_names_is_one_value():
    assert read(dataset_train_split="a.jsonl", train_file_path="a.jsonl").parameters.train_file_path == "a.jsonl"


# The instruction in the rows.


def prompt_of(row, **columns) -> list[tuple[str, str]]:
    made = canonical(row, GrpoColumns(**columns))["prompt"]
    return [(message["role"], message["content"]) for message in made]


@pytest.mark.parametrize("text", ["Think.", "Think.\nThen answer."])
def test_the_instruction_stands_before_prompts_without_one(text):
    plain = {"problem": "2 + 2?", "solution": "4"}
    assert prompt_of(plain, system_prompt=text) == [("system", text), ("user", "2 + 2?")]
    turns = {"prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
                        {"role": "user", "content": "2 + 2?"}]}  # fmt: skip
    assert prompt_of(turns, system_prompt=text)[0] == ("system", text)
    assert len(prompt_of(turns, system_prompt=text)) == 4


def test_a_prompt_keeps_its_own_system_message():
    own = {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]}
    assert prompt_of(own, system_prompt="Think.") == [("system", "Be brief."), ("user", "2 + 2?")]


@pytest.mark.parametrize("text", ["", "auto"])  # auto is decided by the plan; nothing is added without one
def test_nothing_is_added_without_an_instruction(text):
    assert prompt_of({"problem": "2 + 2?"}, system_prompt=text) == [("user", "2 + 2?")]
