"""Other names of a parameter work everywhere, and giving a parameter twice is refused."""

import json

import click
import pytest
from click.testing import CliRunner

from pipelines.catalog import PIPELINES
from pipelines.cli import cli
from pipelines.experiment_yaml import from_experiment
from pipelines.flags import PipelineGroup
from pipelines.reference import schema
from pipelines.runs import _passable
from steps.errors import UserError
from steps.params.group import Group, Renamed, merged, old_names, renamed_in
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.pipelines.chat_completion import ChatCompletionParameters
from steps.params.reading import defaults, read_parameters

ENOUGH = {"pytorch_model_path": "m", "train_file_path": "t.jsonl"}
# Another name → the parameter, a value that is not its default, and what it means.
OLD = {
    "eval_strategy": ("evaluation_strategy", "steps", "steps"),
    "use_peft": ("apply_lora", "true", True),
    "max_length": ("max_seq_length", "64", 64),
    "tracking_uri": ("mlflow_server_uri", "http://there", "http://there"),
    "chat_template_name": ("chat_template", "chat-ml", "chat-ml"),
    "seq_length": ("max_seq_length", "64", 64),
}


def given_to(action: str, *words: object) -> dict:
    """The parameters that a command hands on for some words of its command line."""
    got = {}
    command = PipelineGroup(lambda name, given, **others: got.update(given), [], name=action)
    command.main(["chat_completion", *map(str, words)], standalone_mode=False)
    return got


def effective(given: dict) -> dict:
    return read_parameters("chat_completion", {**ENOUGH, **given}).parameters.model_dump()


def test_every_other_name_that_is_declared_is_tried_here():
    assert old_names(ChatCompletionParameters) == {old: name for old, (name, *_) in OLD.items()}


@pytest.mark.parametrize("pipeline", PARAMETER_MODELS)
def test_no_name_stands_for_two_parameters(pipeline):
    model = PARAMETER_MODELS[pipeline]
    names = [old for other in renamed_in(model).values() for old in other.names]
    assert len(names) == len(set(names))
    assert set(old_names(model).values()) <= set(model.model_fields)


@pytest.mark.parametrize("pipeline", PARAMETER_MODELS)
def test_every_translated_value_is_one_that_there_is(pipeline):
    from steps.params.reading import choices_of

    fields = PARAMETER_MODELS[pipeline].model_fields
    for name, other in renamed_in(PARAMETER_MODELS[pipeline]).items():
        if name in fields and (choices := choices_of(fields[name])):
            assert set(other.values.values()) <= set(choices), name
            assert not set(other.instead) & set(choices), name


@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize("way", ["file", "-p", "--flag", "--flag_", "overrides", "-p overrides"])
def test_another_name_works_wherever_a_parameter_is_given(old, way, tmp_path):
    name, value, meant = OLD[old]
    file = tmp_path / "config.yaml"
    file.write_text(f"{old}: {value}\n")
    words = {
        "file": ["-f", file],
        "-p": ["-p", f"{old}={value}"],
        "--flag": [f"--{old.replace('_', '-')}", value],
        "--flag_": [f"--{old}", value],
        "-p overrides": ["-p", "overrides=" + json.dumps({old: value})],
    }
    given = {"overrides": {old: value}} if way == "overrides" else given_to("plan", *words[way])
    reading = read_parameters("chat_completion", {**ENOUGH, **given})
    assert getattr(reading.parameters, name) == meant
    assert str(reading.requested[name]).lower() == value
    assert old not in reading.requested
    assert reading.warnings == [f"{old}: '{old}' is read as '{name}'"]


@pytest.mark.parametrize("old", OLD)
def test_another_name_works_in_the_overrides_of_a_cluster(old, tmp_path, tiny_model, chat_file):
    from steps.plan.step import plan

    name, value, meant = OLD[old]
    model = PARAMETER_MODELS["chat_completion"]
    # KFP hands every parameter over, all but one with its default, and numbers inside a dict as floats.
    sources = {"pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file), "mlflow_server_uri": ""}
    inside = {old: 64.0 if old == "max_length" else value, "register_tuned_model": False}
    arguments = {**defaults(model), **sources, "overrides": inside}
    plan("chat_completion", arguments, tmp_path / "plan", tmp_path / "plan.html")
    told = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert told["effective"][name] == meant
    assert any(f"is read as '{name}'" in warning for warning in told["warnings"])


@pytest.mark.parametrize("old", OLD)
def test_both_names_of_a_parameter_are_refused_in_one_problem(old):
    name, value, _ = OLD[old]
    for given in ({old: value, name: value}, {"overrides": {name: value, old: value}}):
        with pytest.raises(UserError) as caught:
            read_parameters("chat_completion", {**ENOUGH, **given})
        (problem,) = caught.value.problems
        assert problem.code == "PARAM-E0107"
        assert old in problem.where
        assert name in problem.where
        assert name in problem.why


def test_a_later_place_wins_over_an_earlier_one_whichever_name_each_has(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("eval_strategy: epoch\nmax_seq_length: 8\nuse_peft: true\n")
    words = ["-f", file, "-p", "evaluation_strategy=no", "-p", "max_length=16", "--eval-strategy", "steps"]
    values = effective(given_to("plan", *words))
    assert (values["evaluation_strategy"], values["max_seq_length"], values["apply_lora"]) == ("steps", 16, True)
    inside = {**given_to("plan", *words), "overrides": {"evaluation_strategy": "no", "max_seq_length": 32}}
    for given in (inside, _passable("chat_completion", inside)):
        values = effective(given)
        assert (values["evaluation_strategy"], values["max_seq_length"]) == ("no", 32)


def test_a_secret_under_another_name_is_refused_although_it_is_overruled():
    from steps.errors import SecurityRefusal

    given = {"tracking_uri": "http://me:secret@there", "overrides": {"mlflow_server_uri": "http://there"}}
    with pytest.raises(SecurityRefusal, match=r"PARAM-E0302 tracking_uri: ") as caught:
        read_parameters("chat_completion", {**ENOUGH, **given})
    assert len(caught.value.problems) == 1


def test_a_parameter_of_that_name_is_no_other_name():
    class Narrow(ChatCompletionParameters):
        max_length: int = 1

    assert "max_length" not in old_names(Narrow)


def test_other_names_hold_where_a_task_narrows_a_parameter():
    from typing import Annotated, Literal

    class Wide(Group):
        kind: Annotated[Literal["a", "b"], Renamed(names=("sort",), values={"A": "a"})] = "a"

    class Narrow(Wide):
        kind: Literal["a"] = "a"

    assert old_names(Narrow) == {"sort": "kind"}
    assert merged(Narrow, {"sort": "b"}, {"kind": "a"}) == {"kind": "a"}


def test_flags_of_other_names_are_not_shown():
    shown = CliRunner().invoke(cli, ["run", "chat_completion", "--help"]).output
    assert "--evaluation-strategy" in shown
    assert "--eval-strategy" not in shown


def test_editors_know_other_names_as_outdated():
    import jsonschema

    made = schema(PARAMETER_MODELS["chat_completion"])
    jsonschema.validate({"eval_strategy": "steps", "max_length": 8}, made)
    assert made["properties"]["eval_strategy"]["deprecated"] is True
    assert "deprecated" not in made["properties"]["evaluation_strategy"]


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ({"training_args": {"eval_strategy": "no"}}, {"evaluation_strategy": "no"}),
        ({"training_args": {"max_length": 8}}, {"max_seq_length": 8}),
        ({"sft_args": {"max_length": 8}}, {"max_seq_length": 8}),
        ({"sft_args": {"max_seq_length": 8}, "training_args": {"max_length": 8}}, {"max_seq_length": 8}),
        ({"tracking": {"tracking_uri": "http://t"}}, {"mlflow_server_uri": "http://t"}),
        ({"tracking": {}, "use_peft": True}, {"use_peft": True}),
    ],
)
def test_another_name_works_in_the_sections_of_an_experiment(experiment, expected):
    assert from_experiment(experiment)[0] == expected


@pytest.mark.parametrize(
    ("experiment", "names"),
    [
        ({"training_args": {"eval_strategy": "no", "evaluation_strategy": "no"}},
         "training_args.eval_strategy and training_args.evaluation_strategy"),
        ({"training_args": {"max_length": 9}, "sft_args": {"max_seq_length": 8}},
         "training_args.max_length and sft_args.max_seq_length"),
        ({"peft_conf": {"peft_type": "LORA", "peft_kwargs": {"alpha": 8, "lora_alpha": 8}}},
         "peft_conf.peft_kwargs.alpha and peft_conf.peft_kwargs.lora_alpha"),
    ],
)  # fmt: skip
def test_two_keys_of_one_parameter_are_refused_in_an_experiment(experiment, names):
    with pytest.raises(UserError) as caught:
        from_experiment(experiment)
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("PARAM-E0107", names)


def test_a_key_of_a_section_and_another_name_beside_the_sections_are_refused():
    given, _ = from_experiment({"training_args": {"evaluation_strategy": "no"}, "eval_strategy": "steps"})
    with pytest.raises(UserError, match="PARAM-E0107 evaluation_strategy and eval_strategy: "):
        read_parameters("chat_completion", {**ENOUGH, **given})


def test_the_check_of_data_knows_other_names(tmp_path, monkeypatch):
    from typing import Annotated

    from steps.prepare_data.alone import check_alone
    from steps.tasks import text_generation

    class Columns(text_generation.Columns):
        text_key: Annotated[str, Renamed(names=("text_column",))] = "text"

    monkeypatch.setattr(text_generation, "Columns", Columns)
    file = tmp_path / "t.jsonl"
    file.write_text("".join(f'{{"words": "{number} of them"}}\n' for number in range(20)))
    check_alone("text_generation", str(file), options={"text_column": "words"})
    with pytest.raises(UserError, match="PARAM-E0107"):
        check_alone("text_generation", str(file), options={"text_column": "words", "text_key": "words"})


def test_completion_offers_every_flag_by_its_own_name():
    group = cli.commands["run"]
    context = click.Context(group)
    command = group.get_command(context, "chat_completion")
    offered = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    assert {name for name in PIPELINES["chat_completion"].parameters.model_fields if name != "overrides"} == {
        option.name.removeprefix("parameter_") for option in offered if option.name.startswith("parameter_")
    }
