"""The files in compiled/ match the code, are valid beyond the checks of the SDK, and run."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from pipelines.catalog import PIPELINES
from pipelines.checking import check, check_file
from pipelines.compile import compile_pipelines
from pipelines.kfp_values import kfp_choices, our_value
from steps.params.planned import Plan

COMPILED = Path(__file__).parents[2] / "compiled"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    compile_pipelines(PIPELINES, folder, short=True)
    return folder


@pytest.fixture(scope="module")
def spec():
    return list(yaml.load_all((COMPILED / "chat_completion_pipeline.yaml").read_text(), yaml.CSafeLoader))


FILES = [f"{name}{form}_pipeline.yaml" for name in PIPELINES for form in ("", "_short")]
FILES.remove("adapter_tools_short_pipeline.yaml")  # it has few inputs anyway


@pytest.mark.parametrize("file", FILES)
def test_compiled_is_current(fresh, file):
    assert (fresh / file).read_text() == (COMPILED / file).read_text(), f"compiled/{file} is stale: run `make compile`"


def test_compiled_holds_nothing_that_no_pipeline_makes():
    assert {file.name for file in COMPILED.iterdir()} == set(FILES)


@pytest.mark.parametrize("file", sorted(COMPILED.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_compiled_pipeline_is_sound(file):
    assert check_file(file) == []


@pytest.mark.parametrize("name", PIPELINES)
def test_every_parameter_is_an_input_with_its_default_and_choices(name):
    (root, _) = yaml.load_all((COMPILED / f"{name}_pipeline.yaml").read_text(), yaml.CSafeLoader)
    inputs = root["root"]["inputDefinitions"]["parameters"]
    fields = PIPELINES[name].parameters.model_fields
    assert set(inputs) == set(fields)
    for key, field in fields.items():
        default = field.get_default(call_default_factory=True)
        assert our_value(field, inputs[key]["defaultValue"]) == default, key
        assert inputs[key].get("literals", []) == kfp_choices(field), key
        assert inputs[key]["description"] == field.description


def test_every_parameter_reaches_the_plan_and_every_plan_output_is_used(spec):
    tasks = spec[0]["root"]["dag"]["tasks"]
    assert set(tasks["plan"]["inputs"]["parameters"]) == set(spec[0]["root"]["inputDefinitions"]["parameters"])
    text = str([task for name, task in tasks.items() if name != "plan"]) + str(spec[0]["components"]) + str(spec[1])
    for output in Plan._fields:
        assert f"'{output}'" in text, output


def test_only_what_looks_outside_of_the_run_is_never_cached(spec):
    components = spec[0]["components"]
    dags = [spec[0]["root"], *(component for component in components.values() if "dag" in component)]
    tasks = {name: task for dag in dags for name, task in dag["dag"]["tasks"].items() if not name.startswith("cond")}
    uncached = {name for name, task in tasks.items() if not task.get("cachingOptions", {}).get("enableCache")}
    assert uncached == {"plan", "report", "register-model"}


def test_pods_run_as_a_normal_user_and_install_nothing(spec):
    executors = spec[0]["deploymentSpec"]["executors"]
    settings = spec[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for label, executor in executors.items():
        assert "pip install" not in str(executor["container"]["command"]), label
        assert settings[label]["securityContext"]["runAsNonRoot"] is True, label
        assert executor["container"]["image"].startswith("finetune-pipelines-"), label


def test_the_plan_says_what_the_pipeline_requests(spec, tiny_model, chat_file, tmp_path):
    from steps.plan.step import plan

    given = {"pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file), "mlflow_server_uri": "http://m"}
    made = plan("chat_completion", given, tmp_path / "plan", tmp_path / "plan.html")
    executors = spec[0]["deploymentSpec"]["executors"]
    for told in json.loads((tmp_path / "plan" / "plan.json").read_text())["tasks"]:
        resources = executors[f"exec-{told['task'].replace('_', '-')}"]["container"]["resources"]
        for what, key in (("cpu", "resourceCpuLimit"), ("memory", "resourceMemoryLimit")):
            _, at_run_time, output = resources[key].partition("pipelinechannel--plan-")
            requested = getattr(made, output.removesuffix("']}}")) if at_run_time else resources[key]
            assert told[what] == requested, (told["task"], what)


def test_an_old_backend_can_have_a_pipeline_without_choices(tmp_path):
    (file,) = compile_pipelines(["chat_completion"], tmp_path, choices=False)
    assert "literals" not in file.read_text()


def test_images_can_be_put_into_a_registry_or_pinned(tmp_path):
    images = {"finetune-pipelines-core:0.1.0": "core@sha256:" + "0" * 64}
    (file,) = compile_pipelines(["chat_completion"], tmp_path, image_prefix="registry/project/", images=images)
    (root, _) = yaml.load_all(file.read_text(), yaml.CSafeLoader)
    used = {executor["container"]["image"] for executor in root["deploymentSpec"]["executors"].values()}
    assert used == {"core@sha256:" + "0" * 64, "registry/project/finetune-pipelines-train:0.1.0"}


def test_kfp_still_names_the_setting_that_it_refuses():
    from kfp.dsl import pipeline_task

    from pipelines.signature import pipeline
    from pipelines.supervised import chat_completion

    usual = pipeline_task.inspect

    def nested(p, plan):
        chat_completion().set_cpu_limit("1")

    nested.__annotations__["return"] = None
    with pytest.raises(ValueError, match=r"^set_cpu_limit can only be used on single-step components"):
        pipeline(PIPELINES["chat_completion"].parameters)(nested)
    assert pipeline_task.inspect is usual


# What the checker must find; the SDK accepts every one of these.


def tasks_of(spec: dict) -> dict:
    return spec["root"]["dag"]["tasks"]


MUTATIONS = {
    "root/finetune: no component comp-none": lambda s: tasks_of(s)["finetune"]["componentRef"].update(name="comp-none"),
    "comp-finetune: no executor 'exec-none'": lambda s: s["components"]["comp-finetune"].update(
        executorLabel="exec-none"
    ),
    "root/finetune.model: no task none": lambda s: artifact(s, "finetune", "model").update(producerTask="none"),
    "root/finetune.model: import-model has no output none": lambda s: artifact(s, "finetune", "model").update(
        outputArtifactKey="none"
    ),
    "root/finetune: required input data is missing": lambda s: tasks_of(s)["finetune"]["inputs"]["artifacts"].pop(
        "data"
    ),
    "root/finetune: required input settings is missing": lambda s: tasks_of(s)["finetune"]["inputs"]["parameters"].pop(
        "settings"
    ),
    "root/report: input x is not declared by its component": lambda s: tasks_of(s)["report"]["inputs"].update(
        parameters={"x": {}}
    ),
    "root/finetune: uses prepare-data without depending on it": lambda s: tasks_of(s)["finetune"][
        "dependentTasks"
    ].remove("prepare-data"),
    "root/finetune: depends on none, which does not exist": lambda s: tasks_of(s)["finetune"]["dependentTasks"].append(
        "none"
    ),
    "root: a cycle through condition-1 → evaluate → finetune → import-model → prepare-data → report": (
        lambda s: tasks_of(s)["import-model"].setdefault("dependentTasks", []).append("evaluate")
    ),
    "root/finetune: its resources read pipelinechannel--plan-finetune_cpu, which is not an input of the task": (
        lambda s: tasks_of(s)["finetune"]["inputs"]["parameters"].pop("pipelinechannel--plan-finetune_cpu")
    ),
    "executor exec-finetune: its image is 5": lambda s: s["deploymentSpec"]["executors"]["exec-finetune"][
        "container"
    ].update(image=5),
    "root/condition-1: its condition reads the named output score": lambda s: condition_input(s).update(
        outputParameterKey="score"
    ),
    "root/condition-1: its condition reads pipelinechannel--evaluate-Output, which is not an input of the task": (
        lambda s: tasks_of(s)["condition-1"]["inputs"]["parameters"].clear()
    ),
    "comp-extra: never used": lambda s: s["components"].update({"comp-extra": {"executorLabel": "exec-plan"}}),
    "the pipeline and a component have the same name: finetune": lambda s: s["pipelineInfo"].update(name="finetune"),
    "root output score: no task none": lambda s: s["root"]["dag"]["outputs"]["parameters"]["score"][
        "valueFromParameter"
    ].update(producerSubtask="none"),
}  # what is told: what brings it about


def artifact(spec: dict, task: str, name: str) -> dict:
    return tasks_of(spec)[task]["inputs"]["artifacts"][name]["taskOutputArtifact"]


def condition_input(spec: dict) -> dict:
    return tasks_of(spec)["condition-1"]["inputs"]["parameters"]["pipelinechannel--evaluate-Output"][
        "taskOutputParameter"
    ]


@pytest.mark.parametrize("told", MUTATIONS)
def test_the_checker_finds(spec, told):
    broken = copy.deepcopy(spec[0])
    MUTATIONS[told](broken)
    assert told in list(check(broken, spec[1]))
    assert told not in list(check(spec[0], spec[1]))


def test_the_checker_finds_platform_settings_that_refer_to_nothing(spec):
    platform = copy.deepcopy(spec[1])
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors["exec-none"] = {}
    executors["exec-finetune"]["nodeSelector"]["nodeSelectorJson"]["taskOutputParameter"]["producerTask"] = "none"
    assert list(check(spec[0], platform)) == [
        "platform settings for exec-none, which does not exist", "platform settings of root/finetune: no task none"
    ]  # fmt: skip
