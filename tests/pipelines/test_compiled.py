"""The files in compiled/ match the code, are valid beyond the checks of the SDK, and run."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from pipelines.catalog import PIPELINES, SWEPT, published_as
from pipelines.checking import check, check_file
from pipelines.compile import compile_pipelines
from pipelines.kfp_values import kfp_choices, our_value
from steps.params.planned import Plan, SweepPlan

COMPILED = Path(__file__).parents[2] / "compiled"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    compile_pipelines(PIPELINES, folder, short=True, sweeps=SWEPT)
    return folder


@pytest.fixture(scope="module")
def spec():
    return list(yaml.load_all((COMPILED / "chat_completion_pipeline.yaml").read_text(), yaml.CSafeLoader))


@pytest.fixture(scope="module")
def swept():
    return list(yaml.load_all((COMPILED / "chat_completion_sweep_pipeline.yaml").read_text(), yaml.CSafeLoader))


FILES = [f"{name}{form}_pipeline.yaml" for name in PIPELINES for form in ("", "_short")]
FILES += [f"{name}_sweep_pipeline.yaml" for name in SWEPT]
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


@pytest.mark.parametrize("name", [name for name, published in PIPELINES.items() if published.trains])
def test_the_sweep_over_every_pipeline_that_trains_compiles_and_is_sound(tmp_path, name):
    full, made = compile_pipelines([name], tmp_path, sweeps=[name])
    assert [file.name for file in (full, made)] == [f"{name}_pipeline.yaml", f"{name}_sweep_pipeline.yaml"]
    assert check_file(made) == []
    spec, _ = yaml.load_all(made.read_text(), yaml.CSafeLoader)
    one, _ = yaml.load_all(full.read_text(), yaml.CSafeLoader)
    drawn = [
        any("classification" in component.get("outputDefinitions", {}).get("artifacts", {}) for component in
            made["components"].values()) for made in (one, spec)
    ]  # fmt: skip
    assert drawn[0] == drawn[1]
    assert spec["pipelineInfo"]["name"] == f"{name.replace('_', '-')}-sweep"


@pytest.mark.parametrize("name", SWEPT)
def test_the_inputs_of_a_sweep_are_the_trials_and_what_most_runs_need(name):
    (root, _) = yaml.load_all((COMPILED / f"{name}_sweep_pipeline.yaml").read_text(), yaml.CSafeLoader)
    inputs, model = root["root"]["inputDefinitions"]["parameters"], published_as(f"{name}_sweep").parameters
    assert set(inputs) == {*model.short_inputs, "overrides"}
    assert {"trials", "parallelism", "sweep_metric", "pruner", *PIPELINES[name].parameters.short_inputs} <= set(inputs)
    assert inputs["trials"]["parameterType"] == "LIST"
    assert inputs["parallelism"]["parameterType"] == "NUMBER_INTEGER"
    for key, given in inputs.items():
        field = model.model_fields[key]
        assert our_value(field, given["defaultValue"]) == field.get_default(call_default_factory=True), key
        assert given.get("literals", []) == kfp_choices(field), key
        assert given["description"] == field.description


def test_the_plan_of_a_sweep_requests_hardware_for_the_same_tasks():
    settings = {"model", "models", "data", "lanes", "training", "evaluation", "registration"}
    single, swept = ({name: kind for name, kind in one.__annotations__.items() if name not in settings}
                     for one in (Plan, SweepPlan))  # fmt: skip
    assert list(single.items()) == list(swept.items())
    assert len(single) > 10


@pytest.mark.parametrize(("made", "outputs"), [("spec", Plan), ("swept", SweepPlan)])
def test_every_parameter_reaches_the_plan_and_every_plan_output_is_used(made, outputs, request):
    spec = request.getfixturevalue(made)
    tasks = spec[0]["root"]["dag"]["tasks"]
    assert set(tasks["plan"]["inputs"]["parameters"]) == set(spec[0]["root"]["inputDefinitions"]["parameters"])
    text = str([task for name, task in tasks.items() if name != "plan"]) + str(spec[0]["components"]) + str(spec[1])
    for output in outputs._fields:
        assert f"'{output}'" in text, output
    of_plan = outputs_of_plan(tasks, spec[1])
    assert of_plan == set(outputs._fields)


def outputs_of_plan(tasks: dict, platform: dict) -> set[str]:
    """Return the values of the plan that a task of the root or its pod reads; pods of a sweep's parts have inputs."""
    found, todo = set(), [tasks, platform]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if value.get("producerTask") == "plan" and "outputParameterKey" in value:
                found.add(value["outputParameterKey"])
            todo += value.values()
        elif isinstance(value, list):
            todo += value
    return found


def tasks_by_name(spec: dict) -> dict[str, dict]:
    """Return the tasks of all layers that are neither a condition nor a loop nor a pipeline."""
    dags = [spec["root"], *(component for component in spec["components"].values() if "dag" in component)]
    return {
        name: task for dag in dags for name, task in dag["dag"]["tasks"].items()
        if "dag" not in spec["components"][task["componentRef"]["name"]]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("made", "never"),
    [
        ("spec", {"plan", "report", "register-model"}),
        ("swept", {"plan", "report", "register-model", "choose-trial"}),  # the choice tells MLflow
    ],
)
def test_only_what_looks_outside_of_the_run_is_never_cached(made, never, request):
    tasks = tasks_by_name(request.getfixturevalue(made)[0])
    uncached = {name for name, task in tasks.items() if not task.get("cachingOptions", {}).get("enableCache")}
    assert uncached == never


@pytest.mark.parametrize("made", ["spec", "swept"])
def test_pods_run_as_a_normal_user_and_install_nothing(made, request):
    spec = request.getfixturevalue(made)
    executors = spec[0]["deploymentSpec"]["executors"]
    settings = spec[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert [label for label, executor in executors.items() if "importer" in executor] == (
        ["exec-importer"] if made == "swept" else []
    )
    for label, executor in executors.items():
        if "importer" in executor:
            continue
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


def test_the_plan_of_a_sweep_says_what_its_tasks_request(swept, tiny_model, chat_file, tmp_path):
    from steps.plan.step import plan

    given = {"pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file), "mlflow_server_uri": "http://m",
             "trials": [{"seed": 1}, {"seed": 2}]}  # fmt: skip
    made = plan("chat_completion_sweep", given, tmp_path / "plan", tmp_path / "plan.html")
    names = {"import_model": "import-models", "prepare_data": "prepare-all", "finetune": "trial",
             "evaluate": "evaluate-best", "register_model": "register-model"}  # fmt: skip
    groups = {"import-models": "import", "prepare-all": "prepare", "trial": "finetune", "evaluate-best": "evaluate"}
    told = json.loads((tmp_path / "plan" / "plan.json").read_text())["tasks"]
    assert {task["task"] for task in told} == set(names)
    for one in told:
        step = names[one["task"]]
        resources = swept[0]["deploymentSpec"]["executors"][f"exec-{step}"]["container"]["resources"]
        for what, key in (("cpu", "resourceCpuLimit"), ("memory", "resourceMemoryLimit")):
            at_run_time = resources[key].startswith("{{")
            assert at_run_time == (step in groups)
            requested = getattr(made, f"{groups[step]}_{what}") if at_run_time else resources[key]
            assert one[what] == requested, (step, what)


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


# The same for what only a sweep has.
SWEEP_MUTATIONS = {
    "comp-best-trial/importer: an importer reads inputs of its pipeline only, no outputs of tasks": (
        lambda s: task_in(s, "comp-best-trial", "importer")["inputs"]["parameters"].update(
            uri={"taskOutputParameter": {"producerTask": "evaluate-best", "outputParameterKey": "score"}})
    ),
    "comp-for-loop-1/lane.trials: a STRING for a LIST": (
        lambda s: parameters_of(s, "comp-for-loop-1")["pipelinechannel--lanes-loop-item"].update(parameterType="STRING")
    ),
    "comp-lane/for-loop-1.pipelinechannel--trials: a STRUCT for a LIST": (
        lambda s: parameters_of(s, "comp-lane")["trials"].update(parameterType="STRUCT")
    ),
    "comp-lane/for-loop-1: required input pipelinechannel--cpu is missing": (
        lambda s: task_in(s, "comp-lane", "for-loop-1")["inputs"]["parameters"].pop("pipelinechannel--cpu")
    ),
    "comp-lane/for-loop-1: required input pipelinechannel--trials-loop-item is missing": (
        lambda s: task_in(s, "comp-lane", "for-loop-1").pop("parameterIterator")
    ),
    "comp-best-trial/evaluate-best: uses importer without depending on it": (
        lambda s: task_in(s, "comp-best-trial", "evaluate-best").update(dependentTasks=[])
    ),
    "comp-for-loop-1-2/trial: its resources read pipelinechannel--cpu, which is not an input of the task": (
        lambda s: task_in(s, "comp-for-loop-1-2", "trial")["inputs"]["parameters"].pop("pipelinechannel--cpu")
    ),
    "root/best-trial.registers: a LIST for a BOOLEAN": (
        lambda s: s["components"]["comp-plan"]["outputDefinitions"]["parameters"]["registers"].update(
            parameterType="LIST")
    ),
}  # fmt: skip


def task_in(spec: dict, component: str, task: str) -> dict:
    return spec["components"][component]["dag"]["tasks"][task]


def parameters_of(spec: dict, component: str) -> dict:
    return spec["components"][component]["inputDefinitions"]["parameters"]


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


@pytest.mark.parametrize("told", SWEEP_MUTATIONS)
def test_the_checker_finds_in_a_sweep(swept, told):
    broken = copy.deepcopy(swept[0])
    SWEEP_MUTATIONS[told](broken)
    assert told in list(check(broken, swept[1]))
    assert list(check(*swept)) == []


def test_the_checker_finds_platform_settings_that_refer_to_nothing(spec):
    platform = copy.deepcopy(spec[1])
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors["exec-none"] = {}
    executors["exec-finetune"]["nodeSelector"]["nodeSelectorJson"]["taskOutputParameter"]["producerTask"] = "none"
    assert list(check(spec[0], platform)) == [
        "platform settings for exec-none, which does not exist", "platform settings of root/finetune: no task none"
    ]  # fmt: skip
