"""Forms of compiled pipelines: few inputs, the other values baked in, and the same plan as with the full form."""

import json
from pathlib import Path

import pytest
import yaml

from pipelines.catalog import PIPELINES
from pipelines.checking import check_file
from pipelines.compile import compile_pipelines
from pipelines.form import OVERRIDES, form_of, short_form
from pipelines.in_pod import bake, command_of, function_of
from pipelines.profile import Profile
from steps.artifacts import read_manifest
from steps.errors import SecurityRefusal, UserError
from steps.params.reading import defaults
from steps.wire import load

COMPILED = Path(__file__).parents[2] / "compiled"
TRAINING = [name for name, published in PIPELINES.items() if published.trains]


def inputs_of(file: Path) -> dict:
    root, _ = yaml.load_all(file.read_text(), yaml.CSafeLoader)
    return root["root"]["inputDefinitions"]["parameters"]


def plan_command(file: Path) -> list[str]:
    root, _ = yaml.load_all(file.read_text(), yaml.CSafeLoader)
    return root["deploymentSpec"]["executors"]["exec-plan"]["container"]["command"]


@pytest.mark.parametrize("name", TRAINING)
def test_the_short_form_has_few_inputs_which_are_those_of_the_full_one(name):
    short, full = (inputs_of(COMPILED / f"{name}{form}_pipeline.yaml") for form in ("_short", ""))
    assert 15 <= len(short) <= 20
    assert OVERRIDES in short
    assert short == {key: full[key] for key in short}
    assert set(PIPELINES[name].parameters.short_inputs) <= set(full)


@pytest.fixture
def given(tiny_model, chat_file):
    return {
        "pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file), "register_tuned_model": False,
        "learning_rate": 1e-3, "apply_lora": True,
    }  # fmt: skip


class Place:
    """An output artifact of kfp."""

    def __init__(self, path: Path):
        self.path, self.metadata = str(path), {}


def planned(tmp_path, inputs: dict, *function: str):
    """Call the plan as its pod does."""
    return function_of(inputs, "plan", *function)(
        plan=Place(tmp_path / "plan"), plan_report=Place(tmp_path / "plan.html"), **inputs
    )


def test_a_form_plans_what_the_full_pipeline_plans_with_the_same_values(given, tmp_path):
    published = PIPELINES["chat_completion"]
    whole = defaults(published.parameters)
    full = planned(tmp_path / "full", {**whole, **given}, "chat_completion")
    named = {key: {**whole, **given}[key] for key in short_form(published).inputs}
    short = planned(tmp_path / "short", {**named, OVERRIDES: {"register_tuned_model": False}}, "chat_completion")
    form = form_of(published, "dates", ["learning_rate"], {**given, "learning_rate": "3"})
    (file,) = compile_pipelines(["chat_completion"], tmp_path, form=form)
    command = plan_command(file)
    own = planned(tmp_path / "own", {"learning_rate": 1e-3, OVERRIDES: {}}, *command[command.index("plan") + 1 :])
    assert short == full
    assert own == full
    plans = [json.loads((tmp_path / form / "plan/plan.json").read_text()) for form in ("full", "short", "own")]
    assert plans[0]["effective"] == plans[1]["effective"] == plans[2]["effective"]
    digests = {read_manifest(tmp_path / form / "plan").digest for form in ("full", "short", "own")}
    assert len(digests) == 1


def test_the_inputs_of_a_form_have_the_values_of_the_file_as_their_defaults(tmp_path):
    form = form_of(
        PIPELINES["preference"], "manners", ["learning_rate", " method "], {"learning_rate": "1e-4", "beta": 0.5}
    )
    (file,) = compile_pipelines(["preference"], tmp_path, form=form)
    assert file.name == "manners_pipeline.yaml"
    assert check_file(file) == []
    inputs = inputs_of(file)
    assert set(inputs) == {"learning_rate", "method", OVERRIDES}
    assert inputs["learning_rate"]["defaultValue"] == 1e-4
    assert inputs["method"]["literals"] == inputs_of(COMPILED / "preference_pipeline.yaml")["method"]["literals"]
    assert load(plan_command(file)[-1]) == {"beta": 0.5}


def described(file: Path) -> str:
    root, _ = yaml.load_all(file.read_text(), yaml.CSafeLoader)
    return root["pipelineInfo"]["description"]


def test_the_description_says_what_to_fill_in(tmp_path):
    full, short = (described(COMPILED / f"translation{form}_pipeline.yaml") for form in ("", "_short"))
    assert "Give one of huggingface_id, pytorch_model_path or mlflow_model_path and one of train_file_path" in full
    assert "Every other input has a default." in full
    assert f"This form of translation has {len(short_form(PIPELINES['translation']).inputs)} inputs" in short
    assert full.partition(" Give ")[0] == short.partition(" Give ")[0]
    given = {"huggingface_id": "a/b", "train_file_path": "a.jsonl"}
    form = form_of(PIPELINES["translation"], "own", ["learning_rate"], given)
    (own,) = compile_pipelines(["translation"], tmp_path, form=form)
    assert "Give " not in described(own)  # the file names model and rows
    assert "This form of translation has 2 inputs" in described(own)


def test_defaults_of_a_profile_reach_the_plan_of_a_short_form(tmp_path):
    volume = {"claim": "c", "mount_path": "/checkpoints", "holds": ["checkpoints"]}
    profile = Profile(volumes=[volume], defaults={"instance_type_finetune": "gpu-node", "compute_finetune": "pool"})
    full, short = compile_pipelines(["chat_completion"], tmp_path, profile=profile, short=True)
    assert inputs_of(full)["checkpoint_dir"]["defaultValue"] == "/checkpoints/checkpoints"
    assert inputs_of(short)["instance_type_finetune"]["defaultValue"] == "gpu-node"
    baked = load(plan_command(short)[-1])
    assert baked["checkpoint_dir"] == "/checkpoints/checkpoints"
    assert baked["compute_finetune"] == "pool"
    assert len(plan_command(full)) == len(command_of("plan", "chat_completion"))


def test_what_a_form_fixes_wins_over_the_profile():
    command = command_of("plan", "chat_completion", '{"seed": 1}')
    bake(command, {"seed": 2, "optim": "sgd"})
    assert load(command[-1]) == {"seed": 1, "optim": "sgd"}


def test_what_a_form_fixes_wins_over_the_profile_for_inputs_and_others(tmp_path):
    given = {"instance_type_finetune": "cpu=2,memory=4Gi", "compute_finetune": "mine", "seed": 7}
    form = form_of(PIPELINES["chat_completion"], "own", ["instance_type_finetune", "optim"], given)
    profile = Profile(defaults={"instance_type_finetune": "gpu-node", "compute_finetune": "pool", "optim": "sgd"})
    (file,) = compile_pipelines(["chat_completion"], tmp_path, profile=profile, form=form)
    assert inputs_of(file)["instance_type_finetune"]["defaultValue"] == "cpu=2,memory=4Gi"
    assert inputs_of(file)["optim"]["defaultValue"] == "sgd"
    assert load(plan_command(file)[-1]) == {"compute_finetune": "mine", "seed": 7}


def test_a_value_that_kfp_would_expand_is_not_baked():
    with pytest.raises(SecurityRefusal, match="PARAM-E0301"):
        form_of(PIPELINES["chat_completion"], "own", [], {"registered_model_name": "{{$.inputs}}"})


WRONG = {
    "an input that is no parameter": (("f", ["learning_ate"], {}), "did you mean learning_rate"),
    "a value of the wrong type": (("f", [], {"learning_rate": "fast"}), "learning_rate"),
    "a value that is no parameter": (("f", [], {"learning_ate": 1}), "learning_ate"),
    "a name with capitals": (("Dates", [], {}), "COMPILE-E0105"),
    "a name with a blank": (("my dates", [], {}), "COMPILE-E0105"),
    "the name of a step": (("evaluate", [], {}), "COMPILE-E0107"),
    "the name of a pipeline": (("chat_completion", [], {}), "COMPILE-E0107"),
    "the name of a short form": (("translation_short", [], {}), "COMPILE-E0107"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_forms_are_refused(case):
    arguments, told = WRONG[case]
    with pytest.raises(UserError, match=told):
        form_of(PIPELINES["chat_completion"], *arguments)


def test_every_problem_of_a_form_is_told_at_once():
    with pytest.raises(UserError) as caught:
        form_of(PIPELINES["chat_completion"], "Bad", ["no_such"], {"learning_rate": "fast"})
    assert len(caught.value.problems) == 3
