"""Every configuration in examples/ is planned, and one of each kind runs to a registered version: three steps of it.

The tests of the mark `examples` run every one in full.
"""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import FINETUNE
from example_files import CONFIGS, named, read
from grids import long_but

from steps import wire
from steps.artifacts import sha256_of
from steps.params.registration import database_in
from steps.params.settings import (
    DataSettings,
    EvaluationSettings,
    FinetuneSettings,
    ImportSettings,
    RegistrationSettings,
)
from steps.plan.step import plan

# So little that nothing is learned, and a gate that lets everything through: registration is to run, too.
A_FEW_STEPS = {"max_steps": 3, "warmup_steps": 0}
A_FEW_STEPS_OF_VERL = {"total_training_steps": 3, "actor_optim_lr_warmup_steps_ratio": 0}
A_FEW_ROWS = {"evaluation_max_rows": 12, "gate_must_beat_base": "false", "gate_min_value": -1, "gate_max_value": -1}


@pytest.fixture(scope="session")
def plans(shared, made) -> dict[str, dict]:
    """What the plan step decides for every configuration: its outputs, settings read, and plan.json."""
    folder = shared.made("plans", lambda folder: plan_all(made, folder))
    return json.loads((folder / "plans.json").read_text())


def plan_all(made: Path, folder: Path) -> None:
    told = {}
    with contextlib.chdir(made), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_ROOT", str(folder))
        patch.setenv("MLFLOW_TRACKING_URI", database_in(folder))
        for config in CONFIGS:
            name, given = read(config)
            where = folder / named(config)
            outputs = plan(name, given, where / "plan", where / "report.html")
            settings = {
                key: kind.model_validate(wire.load(getattr(outputs, key))).model_dump(mode="json")
                for key, kind in SETTINGS.items()
            }
            told[named(config)] = {**settings, "plan": json.loads((where / "plan/plan.json").read_text())}
    (folder / "plans.json").write_text(json.dumps(told))


SETTINGS = {
    "model": ImportSettings, "data": DataSettings, "training": FinetuneSettings, "evaluation": EvaluationSettings,
    "registration": RegistrationSettings,
}  # fmt: skip


def kind_of(planned: dict) -> tuple:
    """Tell what makes a run go another way: pipeline, model kind, method, adapter kind, and what the model brings."""
    training = FinetuneSettings.model_validate(planned["training"])
    model = ImportSettings.model_validate(planned["model"])
    stored = [bits for bits in ("load_in_4bit", "load_in_8bit") if getattr(training.quantisation, bits)]
    adapter = (training.lora.peft_type, *stored) if training.lora.apply_lora else ()
    brings = (model.adapter and model.adapter.use, bool(model.new_tokens), model.new_weights)
    return training.pipeline, training.kind, training.recipe.trainer, adapter, brings


def first_of_each_kind(plans: dict[str, dict]) -> dict[tuple, str]:
    found: dict[tuple, str] = {}
    for name, planned in sorted(plans.items()):
        found.setdefault(kind_of(planned), name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_config_is_planned_as_it_says(plans, config):
    name, given = read(config)
    planned = plans[named(config)]
    assert planned["training"]["pipeline"] == name
    assert planned["registration"]["registration"]["registered_model_name"] == given["registered_model_name"]
    told = planned["plan"]
    assert {key: told["requested"][key] for key in given} == given
    for settings, group in (("training", "training"), ("training", "lora"), ("evaluation", "evaluation")):
        decided = planned[settings][group]
        stays = {key: value for key, value in given.items() if key in decided and told["effective"][key] == value}
        assert {key: decided[key] for key in stays} == stays
    assert {"gate_metric", "actor_optim_lr" if name == "verl_finetune" else "learning_rate"} <= given.keys()
    assert any("optimizer steps" in str(line) for line in told["arithmetic"])


@pytest.fixture(scope="module")
def root(empty_database, tmp_path_factory) -> Path:
    """Where the runs of this worker lie; what two of them have in common is made once."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copyfile(empty_database, folder / "mlflow.db")
    return folder


# The first of every pipeline, and what a model may bring: tokens of its own, an adapter to continue.
RUN = {
    next(config for config in CONFIGS if read(config)[0] == name) for name in {read(config)[0] for config in CONFIGS}
}
RUN |= {
    config for config in CONFIGS if named(config) in ("dates/config_new_tokens.yaml", "manners/config_after_sft.yaml")
}


@pytest.mark.slow
@pytest.mark.parametrize("config", long_but(RUN, CONFIGS), ids=named)
def test_one_config_of_each_kind_runs_to_a_registered_version(made, plans, config, warm, root, monkeypatch):
    from pipelines import runs

    first = first_of_each_kind(plans)[kind_of(plans[named(config)])]
    if first != named(config):
        pytest.skip(f"runs as {first} does")
    name, given = read(config)
    monkeypatch.chdir(made)
    steps = A_FEW_STEPS_OF_VERL if name == "verl_finetune" else A_FEW_STEPS
    short = {
        **steps,
        **A_FEW_ROWS,
        **({"evaluation_max_new_tokens": 4} if "evaluation_max_new_tokens" in given else {}),
    }
    result = runs.run(name, {**given, **short}, root, cache=True, quiet=True)
    assert result["status"] == "succeeded", result["error"]
    assert result["registered"]["name"] == given["registered_model_name"]
    assert measured_or_undefined(result, "base") == measured_or_undefined(result, "tuned")
    history = json.loads(Path(result["artifacts"]["tuned"], "history.json").read_text())
    assert history["steps"] == 3


def measured_or_undefined(result: dict, which: str) -> set[str]:
    """Return the metrics of a model, with those that its evaluation lists as undefined, such as a precision."""
    told = json.loads(Path(result["artifacts"]["evaluation_result"], "metrics.json").read_text())
    undefined = [part["undefined"][which] for part in (told.get("labels"), told.get("tags")) if part]
    return set(result["metrics"][which]).union(*undefined)


def run(made: Path, config: Path, root: Path, *more: str) -> dict:
    file = made / config.relative_to(config.parents[2])
    command = [*FINETUNE, "run", read(config)[0], "-f", str(file), "--root", str(root), "--json", *more]
    done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.examples
@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_config_reaches_the_goal_that_it_names(all_made, config, root, record_property):
    result = run(all_made, config, root)
    metric = result["gate"]["metric"]
    told = {"gate": metric, "base": result["metrics"]["base"][metric], "tuned": result["metrics"]["tuned"][metric]}
    seconds = {step["step"]: step["seconds"] for step in result["steps"]}
    print(f"{named(config)}: {told}, training {seconds['finetune']} s, all {result['seconds']} s")
    assert result["gate"]["passed"], result["gate"]["reason"]
    assert {"gate_min_value", "gate_max_value"} & set(read(config)[1]), "an example names its goal"
    assert result["registered"]


@pytest.mark.examples
def test_sorting_is_learned_from_rewards_alone_with_every_seed_and_twice_the_same(all_made, tmp_path):
    """On 300 prompts about digits of which no training prompt is; the answers of both models are greedy."""
    config = next(config for config in CONFIGS if named(config) == "sorting/config.yaml")
    results = [
        run(all_made, config, tmp_path / f"{place}", "-p", f"seed={seed}") for place, seed in enumerate((42, 42, 2))
    ]
    for result in results:
        assert result["metrics"]["base"]["reward"] < 0.4
        assert result["metrics"]["tuned"]["reward"] > 0.8
        assert result["metrics"]["tuned"]["rewards/exact_answer"] > 0.8
        assert next(step["seconds"] for step in result["steps"] if step["step"] == "finetune") < 300
    first, again, other = (
        {
            name: sha256_of(Path(result["artifacts"]["tuned"], name))
            for name in ("model.safetensors", "completions.parquet")
        }
        for result in results
    )
    assert first == again
    assert all(first[name] != other[name] for name in first)
