"""sweep.yaml is read like the other configuration files, and everything wrong in it is told at once."""

import json

import pytest

from pipelines.sweeping.described import describe
from pipelines.sweeping.file import read_sweep
from steps.errors import UserError

WHOLE = """
pipeline: chat_completion
config: configs/run.yaml
parameters:
  lora_alpha: 16
  chat_template: no          # a text, which YAML reads as false
space:
  learning_rate: {low: 1e-5, high: 1e-3, log: true}
  lora_r: [4, 8, 16]
  precision: [32, 16]
  evaluation_strategy: [no, epoch]
search: tpe
budget: 20
metric: exact_match
max_parallel: 2
seed: 7
name: dates
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "run.yaml").write_text("lora_alpha: 8\nnum_train_epochs: 2\n")
    (tmp_path / "configs" / "experiment.yaml").write_text("method: sft\ntraining_args: {weight_decay: 0.1}\n")
    (tmp_path / "configs" / "wrong.yaml").write_text("pipeline: preference\nbeta: 0.2\n")
    (tmp_path / "configs" / "broken.yaml").write_text("a: [1\n")
    return tmp_path


def read(folder, text, name="sweep.yaml", **given):
    (folder / name).write_text(text)
    return read_sweep(folder / name, **given)


def told(folder, text, **given) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(folder, text, **given)
    return [str(one) for one in caught.value.problems]


def test_a_file_is_read_as_the_same_call_in_python(folder):
    assert read(folder, WHOLE) == describe(
        "chat_completion",
        {"num_train_epochs": 2, "lora_alpha": 16, "chat_template": "no"},
        {
            "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
            "lora_r": [4, 8, 16],
            "precision": ["32", "16"],
            "evaluation_strategy": ["no", "epoch"],
        },
        search="tpe", budget=20, metric="exact_match", max_parallel=2, seed=7, name="dates",
    )  # fmt: skip


def test_json_is_read_as_well(folder):
    values = {"pipeline": "chat_completion", "space": {"lora_r": [4, 8]}}
    assert read(folder, json.dumps(values), "sweep.json").varied == ["lora_r"]


def test_trials_have_words_and_numbers_as_parameter_files_do(folder):
    text = "trials:\n- {learning_rate: 1e-4, eval_strategy: no}\n- {learning_rate: 1.e-5, precision: 16}"
    described = read(folder, text, pipeline="chat-completion")
    assert described.trials == (
        {"learning_rate": 1e-4, "evaluation_strategy": "no", "precision": "32"},
        {"learning_rate": 1e-5, "evaluation_strategy": "epoch", "precision": "16"},
    )


def test_the_pipeline_may_come_from_the_command_line_or_the_experiment(folder):
    space = "space: {lora_r: [4]}"
    assert read(folder, space, pipeline="chat-completion").pipeline == "chat_completion"
    described = read(folder, f"config: configs/experiment.yaml\n{space}")
    assert (described.pipeline, described.parameters) == ("chat_completion", {"weight_decay": 0.1})


def test_options_of_the_command_line_replace_those_of_the_file(folder):
    text = "pipeline: chat_completion\nspace: {lora_r: [4]}\nsearch: random\nbudget: 4\nseed: 1"
    described = read(folder, text, budget=9, seed=None)
    assert (described.budget, described.seed) == (9, 1)


def test_an_empty_key_is_one_that_is_left_out(folder):
    text = "pipeline: chat_completion\nspace: {lora_r: [4]}\ntrials:\nbudget:\nmetric:\nname:\nconfig:\nparameters:"
    assert read(folder, text) == read(folder, "pipeline: chat_completion\nspace: {lora_r: [4]}")


SPACE = "pipeline: chat_completion\nspace: {lora_r: [4]}\n"


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        ("", "CONFIG-E0101", "an empty file"),
        ("- lora_r", "CONFIG-E0101", "a list"),
        (SPACE + "budget: 1\nbudget: 2", "CONFIG-E0106", "sweep.yaml:4"),
        ("pipeline: chat_completion\nspace:\n  lora_r: [4]\n  lora_r: [8]", "CONFIG-E0106", "sweep.yaml:4"),
        (SPACE + "name: [a", "CONFIG-E0102", "sweep.yaml"),
        (SPACE + "budgt: 2", "SWEEP-E0162 budgt: ", "did you mean budget?"),
        (SPACE + "n_trials: 2", "SWEEP-E0162 n_trials: ", "did you mean budget?"),
        (SPACE + "parallelism: 2", "SWEEP-E0162 parallelism: ", "did you mean max_parallel?"),
        (SPACE + "lora_alpha: 2", "SWEEP-E0162 lora_alpha: ", "below parameters"),
        (SPACE + "eval_strategy: no", "SWEEP-E0162 eval_strategy: ", "below parameters"),
        (SPACE + "xyzzy: no", "SWEEP-E0162 xyzzy: ", "remove it"),
        (SPACE + "config: missing.yaml", "CONFIG-E0101", "no such file"),
        (SPACE + "config: configs", "CONFIG-E0101", "a folder"),
        (SPACE + "config: configs/broken.yaml", "CONFIG-E0102", "broken.yaml"),
        (SPACE + "config: configs/wrong.yaml", "CONFIG-E0103", "preference"),
        (SPACE + "config: {lora_alpha: 2}", "SWEEP-E0163 config: ", "parameters go below parameters"),
        (SPACE + "config: ''", "SWEEP-E0163 config: ", "path"),
        (SPACE + "parameters: [lora_alpha]", "SWEEP-E0164 parameters: ", "by name"),
        (SPACE + "parameters: {lora_alph: 2}", "PARAM-E0101 lora_alph: ", "did you mean lora_alpha"),
        (SPACE + "parameters: {pipeline: preference}", "CONFIG-E0103", "preference"),
        (SPACE + "search: {name: tpe}", "SWEEP-E0146 search: ", "one of grid"),
        (SPACE + "search: no", "SWEEP-E0146 search: ", "one of grid"),
        (SPACE + "budget: [2]", "SWEEP-E0150 budget: ", "a whole number"),
        (SPACE + "metric: 5", "SWEEP-E0151 metric: ", "one of loss"),
        (SPACE + "pruner: {median: 1}", "SWEEP-E0152 pruner: ", "one of none"),
        (SPACE + "max_parallel: two", "SWEEP-E0141 max_parallel: ", "a whole number"),
        (SPACE + "seed: x", "SWEEP-E0142 seed: ", "a whole number"),
        (SPACE + "pruner: off", "SWEEP-E0152 pruner: ", "did you mean none?"),
        (SPACE + "name: 2026-01-01/x", "SWEEP-E0154 name: ", "letters"),
        ("space: {lora_r: [4]}", "SWEEP-E0161 pipeline in", "found nothing"),
        ("pipeline: chat_completio\nspace: {lora_r: [4]}", "SWEEP-E0161 pipeline in", "did you mean chat_completion?"),
        ("pipeline: [a]\nspace: {lora_r: [4]}", "SWEEP-E0161 pipeline in", "one of chat_completion"),
        ("pipeline: adapter_tools\nspace: {lora_r: [4]}", "SWEEP-E0161 pipeline in", "which trains nothing"),
        ("pipeline: chat_completion", "SWEEP-E0140 space: ", "neither space nor trials"),
        ("pipeline: chat_completion\nspace: {learning_rate: {low: 010, high: x}}",
         "PARAM-E0103 space.learning_rate.high", "a number"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_told(folder, text, start, words):
    (problem,) = told(folder, text)
    assert problem.startswith(start), problem
    assert words in problem, problem


def test_another_pipeline_than_the_one_of_the_command_line_is_told(folder):
    (problem,) = told(folder, SPACE, pipeline="preference")
    assert problem.startswith("SWEEP-E0160 pipeline in ")


def test_everything_wrong_is_told_at_once(folder):
    problems = told(folder, SPACE + "config: missing.yaml\nparameters: 4\nbudgt: 2\nsearch: tpee\nseed: x")
    assert [one.split(" ")[0] for one in problems] == [
        "CONFIG-E0101", "SWEEP-E0162", "SWEEP-E0164", "SWEEP-E0146", "SWEEP-E0142",
    ]  # fmt: skip


def test_a_name_that_looks_like_a_number_is_the_word_of_the_file(folder):
    assert read(folder, SPACE + "name: 010").name == "010"
