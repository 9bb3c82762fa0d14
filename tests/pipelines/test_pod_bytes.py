"""A run's pod specifications stay small: Kubernetes limits the object that holds them, several times each."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from pod_bytes import Made, bytes_of, driver_sizes, nodes_of, object_bytes, pod_sizes, tasks

from steps.errors import UserError
from steps.params.sweep import RESULT_BYTES, STORED_BYTES
from steps.plan.step import plan
from steps.sweep.choosing import choose_trial
from steps.sweep.result import Result

COMPILED = Path(__file__).parents[2] / "compiled"
# The same count on the commit 7edac6b, whose pods shipped the text of their function and every setting.
BEFORE = {
    "register-model": 10318, "evaluate": 6472, "finetune": 6844, "import-model": 3599, "merge-adapter": 2682,
    "plan": 21014, "prepare-data": 4577, "report": 3971,
}  # fmt: skip
PARAMETERS_BEFORE = 141  # which the plan's pod has, and no other


@pytest.fixture
def run(tiny_model, chat_file, tmp_path, monkeypatch, request):
    """The compiled chat_completion (or its short form), its inputs and what its plan decides."""
    monkeypatch.chdir(tmp_path)
    file = COMPILED / f"chat_completion{getattr(request, 'param', '')}_pipeline.yaml"
    spec, platform = yaml.load_all(file.read_text(), yaml.CSafeLoader)
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    given = {name: _typed(declared) for name, declared in inputs.items()}
    shutil.copytree(tiny_model, "base-model")  # the length of its path counts
    shutil.copyfile(chat_file, "train.jsonl")
    given |= {"pytorch_model_path": "base-model", "train_file_path": "train.jsonl"}
    given |= {"mlflow_server_uri": "http://mlflow.kubeflow:5000"}
    planned = plan("chat_completion", given, tmp_path / "plan", tmp_path / "plan.html")._asdict()
    return spec, platform, given, planned


def _typed(declared):
    value = declared["defaultValue"]
    return int(value) if declared["parameterType"] == "NUMBER_INTEGER" else value


def test_all_tasks_have_three_fifths_of_the_bytes_that_they_had_and_those_after_the_plan_half(run):
    sizes = bytes_of(*run)
    assert set(sizes) == set(BEFORE) - {"merge-adapter"}
    before = BEFORE | {"plan": BEFORE["plan"] * len(run[2]) / PARAMETERS_BEFORE}
    assert sum(sizes.values()) < 0.6 * sum(before.values()), sizes
    later = sum(sizes.values()) - sizes["plan"]
    assert later < 0.51 * (sum(BEFORE.values()) - BEFORE["plan"]), sizes


@pytest.mark.parametrize("run", ["_short"], indirect=True)
def test_a_run_of_the_short_form_has_less_than_half_of_the_bytes(run):
    sizes = bytes_of(*run)
    assert sum(sizes.values()) < 0.47 * sum(BEFORE.values()), sizes


def test_a_task_has_one_short_settings_text_and_only_inputs_that_it_uses(run):
    spec, platform, given, planned = run
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, component, values in tasks(spec, spec["root"], given, {"plan": planned}):
        if name == "plan":
            continue
        assert len(values.get("settings", "").encode()) < 1000, name
        own = {key for key in values if not key.startswith("pipelinechannel--")}
        assert own <= {"settings"}, name
        container = str(spec["deploymentSpec"]["executors"][component["executorLabel"]])
        for key in set(values) - own:
            placed = key.removeprefix("pipelinechannel--plan-") in str(settings[component["executorLabel"]])
            assert key in container or placed, (name, key)


HALF = 1024 * 1024 // 2
# What was seen of a real backend. A run whose pods have 59,477 bytes by this count had 828 kB of status and 127 kB of
# specification; the status of a loop over four such runs had 2.8 MB, which Argo compressed to 450 kB.
SEEN_STATUS, SEEN_PODS, SEEN_COMPRESSION = 828_000, sum(BEFORE.values()), 2_800_000 / 450_000


def sweep(tmp_path: Path, parallelism: int, count: int = 32, **more) -> tuple[dict, dict, dict, Made]:
    """Return the compiled sweep over chat_completion, its inputs and what its plan and its choice return."""
    spec, platform = yaml.load_all((COMPILED / "chat_completion_sweep_pipeline.yaml").read_text(), yaml.CSafeLoader)
    given = {name: _typed(declared) for name, declared in spec["root"]["inputDefinitions"]["parameters"].items()}
    trials = [{"learning_rate": 1e-3 / (1 + number / 7), "lora_r": 2 ** (1 + number % 5), "lora_alpha": 16.0,
               "lora_dropout": number / 640, "weight_decay": 0.01} for number in range(count)]  # fmt: skip
    given |= {"pytorch_model_path": "base-model", "train_file_path": "train.jsonl", "apply_lora": True}
    given |= {"mlflow_server_uri": "http://mlflow.kubeflow:5000", "parallelism": parallelism, "trials": trials, **more}
    planned = plan("chat_completion_sweep", given, tmp_path / "plan", tmp_path / "plan.html")._asdict()
    results = [long_result(number).as_text() for number in range(count)]
    chosen = choose_trial(results, tmp_path / "chosen", tmp_path / "sweep", tmp_path / "sweep.html", tmp_path / "plan")
    made = {"plan": planned, "choose-trial": {**chosen._asdict(), "rows": chosen.data},
            "for-loop-1": {"pipelinechannel--lane-Output": results},
            "trials": {**chosen._asdict(), "rows": chosen.data}}  # fmt: skip
    return spec, platform, given, made


def long_result(number: int) -> Result:
    """Return a result that has every field, and more points and metrics than are passed on."""
    run = "7a4d2f0e-0000-4000-8000-000000000000"
    return Result(
        number, "finished",
        metrics={f"metric_{name}": number + name / 7 for name in range(14)}, score=number + 0.123456789012345,
        curve=[[10 * step, 1 + step / 7] for step in range(200)], curve_metric="validation loss", steps=120,
        max_steps=120, seconds=61.234567890123, tokens=1234567, trained=11272192, mlflow_run_id=run.replace("-", ""),
        key="0123456789abcdef",
        tuned_uri=f"minio://mlpipeline/v2/artifacts/chat-completion-sweep/{run}/trial/{run}/tuned_model",
    )  # fmt: skip


@pytest.fixture
def inputs(tiny_model, chat_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "true")
    shutil.copytree(tiny_model, "base-model")
    shutil.copyfile(chat_file, "train.jsonl")


@pytest.mark.parametrize("parallelism", [4, 32])
def test_the_object_of_a_sweep_of_32_trials_stays_below_half_of_argos_limit(inputs, tmp_path, parallelism):
    """Argo refuses an object above 1 MB with its nodes compressed. Two estimates from what was seen of a single run.

    The first knows no repetition: bytes of all pods × 828 kB / 59,477 (status of a run by the bytes of its pods), and
    the arguments of the drivers that have no pod, once; both / 6.2 (compression of a loop over four runs). It is an
    upper bound of the compressed nodes: those of 32 equal trials repeat each other more than those of four runs.

    The second makes the nodes, compresses them, and adds the specification. For the run that was seen, these nodes have
    382 kB instead of 828, four such runs compress to 202 kB instead of 450, and the specification has 89 kB instead of
    127: hence the factors.
    """
    spec, platform, given, made = sweep(tmp_path, parallelism)
    sizes = list(pod_sizes(spec, platform, given, made))
    assert [name for name, _ in sizes].count("trial") == 32
    drivers = [size for _, size in driver_sizes(spec, given, made)]
    assert len(drivers) == 7 + 3 * parallelism + 32
    pods = sum(size for _, size in sizes)
    bound = (pods * SEEN_STATUS / SEEN_PODS + sum(drivers)) / SEEN_COMPRESSION
    specification, _, packed = object_bytes(spec, platform, nodes_of(spec, platform, given, made))
    estimate = specification * 127 / 89 + packed * 450 / 202
    print(f"{pods:,} bytes of pods, {sum(drivers):,} of drivers: at most {bound:,.0f}, estimated {estimate:,.0f}")
    assert bound < HALF
    assert estimate < HALF


def test_no_parameter_of_a_sweep_of_64_trials_is_too_long_for_kfps_store(inputs, tmp_path):
    _, _, _, made = sweep(tmp_path, 64, 64)
    for values in made.values():
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            assert len(text.encode()) <= STORED_BYTES < 65_535, name
    assert len(made["plan"]["lanes"]) == 64


def test_a_sweep_whose_trials_or_results_are_too_long_is_refused_with_how_many_fit(inputs, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"SWEEP-E0208 trials: found 81 trials, .* expected at most 80,") as told:
        sweep(tmp_path, 4, 81)
    assert len(told.value.problems) == 1
    long = {"experiment_name": "e" * 480}
    with pytest.raises(UserError, match=r"SWEEP-E0208 trials: found 79 trials, .* expected at most \d+,") as told:
        sweep(tmp_path, 4, 79, overrides=long)
    fit = int(str(told.value).split("expected at most ")[1].split(",")[0])
    assert 40 < fit < 79
    sweep(tmp_path / "fits", 4, fit, overrides=long)
    rows = tmp_path / ("d" * 200) / "train.jsonl"
    rows.parent.mkdir()
    shutil.copyfile("train.jsonl", rows)
    lengths = [{"max_seq_length": 8 + number} for number in range(79)]  # as many preparations, that name the rows twice
    with pytest.raises(UserError, match=r"SWEEP-E0208 trials: found 79 trials"):
        sweep(tmp_path, 4, 79, trials=lengths, train_file_path=str(rows.relative_to(tmp_path)))
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))  # here no text is stored
    sweep(tmp_path / "here", 4, 81, mlflow_server_uri="")


@pytest.mark.parametrize("state", ["finished", "failed", "pruned"])
def test_the_text_of_a_result_is_short_and_keeps_what_the_choice_needs(state):
    whole = long_result(63)
    changed = {"finished": {}, "failed": {"reason": "a\"ü" * 900, "error": {"code": 6, "class": "NumericError",
               "step": "finetune", "problems": ["x" * 5000]}}, "pruned": {"reason": "worse " * 300}}  # fmt: skip
    text = Result(**{**vars(whole), "state": state, **changed[state]}).as_text()
    assert len(json.dumps([text])) <= RESULT_BYTES + 2
    told = json.loads(text)
    for name in ("number", "score", "tokens", "trained", "tuned_uri", "mlflow_run_id", "key"):
        assert told[name] == getattr(whole, name)
    assert told["state"] == state
    if state == "finished":
        assert len(told["curve"]) >= 2
        assert told["curve"][0] == [0, 1.0]
        assert told["curve"][-1][0] == 1990
    else:
        assert told["reason"]


def test_a_result_that_fits_keeps_everything():
    result = Result(3, "finished", {"loss": 1.25}, 1.2512345678, [[2, 1.5], [4, 1.25]], "validation loss", 4, 4, 1.5)
    told = json.loads(result.as_text())
    assert Result(**told) == result
