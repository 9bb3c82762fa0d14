"""Every configuration in examples/ runs from its plan to a registered version: a few steps of it, or all of them."""

import json
import subprocess
from pathlib import Path

import pytest
from command_line import FINETUNE
from example_files import CONFIGS, make_all, named, read

# So little that nothing is learned, and a gate that lets everything through: registration is to run, too.
A_FEW_STEPS = {
    "max_steps": 3, "warmup_steps": 0, "evaluation_max_rows": 12,
    "gate_must_beat_base": "false", "gate_min_value": -1, "gate_max_value": -1,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_all(tmp_path_factory.mktemp("checkout"))


def run(made: Path, config: Path, **changes: object) -> dict:
    words = [word for name, value in changes.items() for word in ("-p", f"{name}={value}")]
    file = made / config.relative_to(config.parents[2])
    command = [*FINETUNE, "run", read(config)[0], "-f", file, "--json", *words]
    done = subprocess.run(list(map(str, command)), cwd=made, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_config_runs_to_a_registered_version(made, config):
    writes = "evaluation_max_new_tokens" in read(config)[1]
    result = run(made, config, **A_FEW_STEPS, **({"evaluation_max_new_tokens": 4} if writes else {}))
    assert result["status"] == "succeeded"
    assert result["registered"]["name"] == read(config)[1]["registered_model_name"]
    assert set(result["metrics"]["base"]) == set(result["metrics"]["tuned"])
    history = json.loads(Path(result["artifacts"]["tuned"], "history.json").read_text())
    assert history["steps"] == 3


@pytest.mark.examples
@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_config_reaches_the_goal_that_it_names(made, config, record_property):
    result = run(made, config)
    metric = result["gate"]["metric"]
    told = {"gate": metric, "base": result["metrics"]["base"][metric], "tuned": result["metrics"]["tuned"][metric]}
    seconds = {step["step"]: step["seconds"] for step in result["steps"]}
    print(f"{named(config)}: {told}, training {seconds['finetune']} s, all {result['seconds']} s")
    assert result["gate"]["passed"], result["gate"]["reason"]
    assert {"gate_min_value", "gate_max_value"} & set(read(config)[1]), "an example names its goal"
    assert result["registered"]
