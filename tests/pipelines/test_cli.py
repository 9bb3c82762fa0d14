"""The command line: what it prints, what it refuses, and with which exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import FINETUNE, with_our_code
from forking import ForkingPython

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python() -> Iterator[ForkingPython]:
    """A Python that has loaded what most commands need."""
    made = ForkingPython(
        ["pipelines.cli", "pipelines.supervised", "pipelines.runs", "steps.plan.deciding"], environment()
    )
    yield made
    made.close()


@pytest.fixture
def finetune(python):
    """Run the command in a fork, as its own process would."""

    def run(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        return python.ended(FINETUNE[-1], *map(str, words), cwd=cwd, environment=environment())

    return run


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def good(tiny_model, chat_file):
    return ["-p", f"pytorch_model_path={tiny_model}", "-p", f"train_file_path={chat_file}"]


def test_list_names_every_pipeline(finetune):
    done = finetune("list", "--json")
    assert set(json.loads(done.stdout)) == {
        "chat_completion", "text_generation", "pretraining", "summarization", "translation", "text_classification",
        "token_classification", "question_answering", "preference", "grpo_chat_completion", "verl_finetune",
        "reranking", "adapter_tools", "batch_inference",
    }  # fmt: skip


def test_describe_tells_every_parameter_with_default_and_meaning(finetune):
    from steps.params.pipelines.chat_completion import ChatCompletionParameters

    text = finetune("describe", "chat_completion").stdout
    for name, field in ChatCompletionParameters.model_fields.items():
        assert f"  {name} (" in text
        assert " ".join(field.description.split()[:4]) in text


def test_describe_gives_a_schema_that_accepts_an_example_configuration(finetune):
    import jsonschema
    import yaml

    schema = json.loads(finetune("describe", "chat_completion", "--json").stdout)
    config = yaml.safe_load(Path(ROOT, "examples/dates/config.yaml").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"lerning_rate": 1}, schema)


def test_plan_says_what_would_run_and_writes_nothing(finetune, good, tmp_path):
    done = finetune("plan", "chat_completion", *good, "--learning-rate", "1e-4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "finetune" in done.stdout
    assert "optimizer steps" in done.stdout
    assert list(tmp_path.glob("runs*")) == []


def test_plan_as_json_is_nothing_but_json(finetune, good):
    done = finetune("plan", "chat_completion", *good, "--json", "--apply-lora")
    told = json.loads(done.stdout)
    assert told["effective"]["apply_lora"] is True


def test_flags_win_over_p_and_p_over_the_file(finetune, good, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("pipeline: chat_completion\nlearning_rate: 1e-3\nlora_r: 3\nseed: 7\n")
    words = ["-f", config, "-p", "learning_rate=1e-4", "-p", "lora_r=4", "--lora-r", "5"]
    told = json.loads(finetune("plan", "chat_completion", *good, *words, "--json").stdout)["effective"]
    assert (told["seed"], told["learning_rate"], told["lora_r"]) == (7, 1e-4, 5)


@pytest.mark.parametrize(
    ("environment", "file", "flags", "expected"),
    [
        ("", "", [], "experiment default"),
        ("theirs", "", [], "experiment theirs"),
        ("theirs", "experiment_name: filed\nhf_mlflow_log_artifacts: 'True'\n", [], "filed, checkpoints are copied"),
        ("theirs", "experiment_name: filed\n", ["--experiment-name", "flagged"], "experiment flagged"),
    ],
)
def test_tracking_is_set_by_flag_then_file_then_environment(
    finetune, good, tmp_path, monkeypatch, environment, file, flags, expected
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://theirs")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", environment)
    config = tmp_path / "config.yaml"
    config.write_text(f"pipeline: chat_completion\n{file}")
    told = json.loads(finetune("plan", "chat_completion", *good, "-f", config, *flags, "--json").stdout)
    assert told["tracking"].startswith("http://theirs, ")
    assert told["tracking"].endswith(expected)


def test_the_plan_says_that_tracking_is_switched_off(finetune, good, monkeypatch):
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "TRUE")
    told = json.loads(finetune("plan", "chat_completion", *good, "--json").stdout)
    assert told["tracking"] == "no metrics are sent"
    assert any("DISABLE_MLFLOW_INTEGRATION is set" in warning for warning in told["warnings"])


def test_without_a_server_the_plan_names_the_store_that_the_run_will_use(finetune, good, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told = json.loads(finetune("plan", "chat_completion", *good, "--root", tmp_path / "r", "--json").stdout)
    assert told["tracking"] == f"sqlite:///{tmp_path}/r/mlflow.db, experiment default"


WRONG = {
    "unknown parameter": (["-p", "lerning_rate=1"], "did you mean learning_rate?"),
    "two models": (["-p", "huggingface_id=a/b"], "exactly one model source"),
    "learning rate": (["-p", "learning_rate=0"], "a number above 0"),
    "early stopping": (
        ["-p", "apply_early_stopping=true", "-p", "evaluation_strategy=no"],
        "evaluations during training",
    ),
    "missing file": (["-p", "train_file_path=nowhere.jsonl"], "nothing at 'nowhere.jsonl'"),
    "no equals sign": (["-p", "learning_rate"], "name=value"),
    "missing configuration": (["-f", "nowhere.yaml"], "nowhere.yaml"),
}


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_exits_2_with_the_fix_and_leaves_no_half_written_output(finetune, command, case, good, tmp_path):
    words, told = WRONG[case]
    done = finetune(command, "chat_completion", *good, *words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stderr + done.stdout
    outcome = json.loads(done.stderr.strip().splitlines()[-1])
    assert outcome["code"] == 2
    assert all(outcome[part] for part in ("where", "found", "expected", "fix"))
    for result in tmp_path.glob("runs/*/result.json"):
        assert json.loads(result.read_text())["status"] == "failed"
    assert not list(tmp_path.rglob("*.tmp-*"))
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_run_is_planned_before_kfp_is_loaded(good, tmp_path):
    words = ["run", "chat_completion", *good, "-p", "train_file_path=nowhere.jsonl"]
    code = f"""
import sys
from pipelines.cli import main
sys.argv[1:] = {words!r}
try:
    main()
finally:
    print([name for name in sys.modules if name in ("kfp", "torch", "transformers")])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=with_our_code(), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    (result,) = tmp_path.glob("runs/*/result.json")
    told = json.loads(result.read_text())
    assert told["error"]["step"] == "plan"
    assert "nothing at 'nowhere.jsonl'" in told["error"]["problems"][0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1]\nb: *x\n", "alias"),
        ("- 1\n", "a mapping of parameters"),
        ("a: [\n", "valid YAML"),
        ("!!python/object/apply:os.system ['true']\n", "YAML"),
        ("pipeline: text_generation\n", "finetune run text_generation"),
    ],
)
def test_a_bad_configuration_file_is_refused(finetune, tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    done = finetune("plan", "chat_completion", "-f", tmp_path / "c.yaml")
    assert done.returncode == 2
    assert words in done.stderr


def test_an_unknown_pipeline_suggests_the_nearest(finetune):
    for command in ("plan", "run", "describe", "compile"):
        done = finetune(command, "chat_competion")
        assert done.returncode == 2
        assert "did you mean chat_completion?" in done.stderr


def test_completion_knows_pipelines_flags_and_choices(finetune):
    def complete(text: str) -> str:
        words = {"_FINETUNE_COMPLETE": "bash_complete", "COMP_WORDS": text, "COMP_CWORD": str(text.count(" "))}
        return subprocess.run(FINETUNE, capture_output=True, text=True, env={**os.environ, **words}).stdout

    assert "chat_completion" in complete("finetune run chat")
    assert "--lr-scheduler-type" in complete("finetune run chat_completion --lr")
    assert "cosine_with_restarts" in complete("finetune run chat_completion --lr-scheduler-type cos")
    assert "_finetune_completion" in finetune("completion", "bash").stdout


def test_compile_writes_only_what_is_named(finetune, tmp_path):
    done = finetune("compile", "text_generation", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    written = sorted(file.name for file in tmp_path.iterdir())
    assert written == ["text_generation_pipeline.yaml", "text_generation_short_pipeline.yaml"]


def test_a_step_runs_alone_and_its_flags_are_its_own_parameters(tiny_model, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "steps", "merge-adapter", "--base", str(tmp_path), "--adapter", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--output" in done.stderr
