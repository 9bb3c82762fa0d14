"""Whole pipelines, run locally."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from command_line import FINETUNE, with_our_code
from conftest import chat_rows, write_jsonl
from grids import long_but
from waiting import wait_for

pytestmark = pytest.mark.slow

SETTINGS = {
    "number_of_gpu_to_use_finetuning": 0,
    "num_train_epochs": 2,
    "total_train_batch_size": 4,
    "max_per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 16,
    "learning_rate": 3e-3,
    "logging_steps": 2,
    "max_seq_length": 64,
    "evaluation_max_new_tokens": 4,
}
STEPS = {"plan", "import-model", "prepare-data", "finetune", "evaluate", "register-model", "report"}


@pytest.fixture(scope="module")
def given(tiny_model, tmp_path_factory):
    rows = write_jsonl(tmp_path_factory.mktemp("data") / "chat.jsonl", chat_rows(60))
    return {**SETTINGS, "pytorch_model_path": str(tiny_model), "train_file_path": str(rows)}


def words(given: dict) -> list[str]:
    return [word for name, value in given.items() for word in ("-p", f"{name}={value}")]


def run(root: Path, given: dict, name: str = "chat_completion", code: int = 0) -> dict:
    done = subprocess.run(
        [*FINETUNE, "run", name, "--root", str(root), *words(given)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(max(root.glob(f"{name}-*/result.json"), key=os.path.getmtime).read_text())


@pytest.fixture(scope="module")
def first(given, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return root, run(root, given)


def test_a_run_ends_with_a_registered_version_and_says_where_everything_is(first):
    root, result = first
    assert result["status"] == "succeeded"
    assert {step["step"] for step in result["steps"]} == STEPS
    assert result["metrics"]["tuned"]["loss"] < result["metrics"]["base"]["loss"]
    assert result["gate"]["passed"] is True
    assert result["registered"]["version"] == "1"
    assert result["parameters"]["requested"]["optim"] == "adamw_hf"
    assert result["parameters"]["effective"]["optim"] == "adamw_torch"
    assert result["parameters"]["requested"]["per_device_train_batch_size"] == 1
    assert result["parameters"]["effective"]["per_device_train_batch_size"] == 4
    for path in result["artifacts"].values():
        assert Path(path).exists()
    logged = sqlite3.connect(root / "mlflow.db").execute("select key, value from params").fetchall()
    assert ("training.per_device_train_batch_size", "4") in logged
    report = Path(result["artifacts"]["report"]).read_text()
    assert "<svg" in report
    assert "http://" not in report.replace("http://www.w3.org", "")


def test_a_run_says_in_the_metadata_of_its_artifacts_what_lists_show(first):
    _, result = first
    outputs = [json.loads(file.read_text()) for file in Path(result["folder"]).rglob("executor_output.json")]
    shown = {name: kind["artifacts"][0]["metadata"] for made in outputs for name, kind in made["artifacts"].items()}
    score = result["metrics"]["tuned"]["loss"]
    assert shown["evaluation"]["passed"] is True
    assert (shown["evaluation"]["metric"], shown["evaluation"]["score"]) == ("loss", pytest.approx(score, rel=1e-5))
    assert list(shown["metrics"])[:2] == ["loss", "loss_base"]
    assert shown["metrics"]["loss"] == pytest.approx(score, rel=1e-5)
    assert (shown["registration"]["name"], shown["registration"]["version"]) == ("chat_completion", "1")
    assert shown["data"]["rows"] > shown["data"]["test_rows"] > 0
    base = result["parameters"]["effective"]["pytorch_model_path"]
    for name in ("plan", "base_model", "tuned_model"):
        assert base.endswith(shown[name]["base_model"].removeprefix("..."))
    assert shown["tuned_model"]["size_mb"] > 0
    assert shown["merged_model"] == {"same_as": "tuned"}


def test_the_tuned_model_loads_with_transformers(first):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = first[1]["artifacts"]["model"]
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
    assert AutoTokenizer.from_pretrained(folder).chat_template


@pytest.mark.long
def test_a_python_of_its_own_for_every_task_gives_the_same_weights(first, given, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_WARM", "0")
    cold = run(tmp_path, given)
    weights = [Path(result["artifacts"]["model"], "model.safetensors").read_bytes() for result in (first[1], cold)]
    assert weights[0] == weights[1]
    assert first[1]["metrics"] == cold["metrics"]


def test_a_second_run_reuses_what_did_not_change_and_says_so(first, given, warm):
    root, before = first
    again = run(root, given)
    assert again["reused"] == ["import-model", "prepare-data", "finetune", "evaluate"]
    assert again["metrics"] == before["metrics"]
    assert again["registered"]["version"] == "1"  # the same weights are the same version
    changed = run(root, {**given, "learning_rate": 1e-3})
    assert changed["reused"] == ["import-model", "prepare-data"]


def test_the_libraries_are_loaded_when_a_step_needs_them_and_not_before(tmp_path):
    from pipelines.warm import READY, warm_python

    def task(name: str) -> list[str]:
        return ["-c", "print('ran')", "--function_to_execute", name]

    with warm_python(at_once=False) as folder:
        for name, wakes in (("plan", False), ("register_model", False), ("report", False), ("import_model", True)):
            done = subprocess.run([folder / "python3", *task(name)], capture_output=True, text=True, check=True)
            assert done.stdout == "ran\n"
            if not wakes:
                time.sleep(0.5)
                assert not (folder / READY).exists()
        wait_for((folder / READY).exists)


def test_a_run_at_a_place_with_blanks_and_quotes_ends_with_7_if_the_gate_refuses_the_model(given, tmp_path, warm):
    place = tmp_path / 'it\'s a "place"'
    place.mkdir()
    words_ = words({**given, "max_steps": 1, "gate_max_value": 0.01})
    command = [*FINETUNE, "run", "chat_completion", "--root", "the runs", "--gate-exit", *words_]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=place, env=with_our_code())
    assert done.returncode == 7, done.stdout + done.stderr
    result = json.loads(next(place.glob("the runs/*/result.json")).read_text())
    assert result["gate"]["passed"] is False
    assert result["status"] == "succeeded"
    assert result["registered"] is None
    assert {step["step"] for step in result["steps"]} == STEPS - {"register-model"}
    again = subprocess.run([*command, "-p", "gate_max_value=100", "-p", "gate_must_beat_base=false"],
                           capture_output=True, text=True, timeout=300, cwd=place, env=with_our_code())  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert "version chat_completion 1" in again.stdout


def test_mlflow_that_is_down_at_the_registration_leaves_table_and_report(given, tmp_path, runs_root, warm, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "TRUE")  # not to wait for metrics at the end of the training
    down = {**given, "mlflow_server_uri": "http://127.0.0.1:9"}
    done = subprocess.run([*FINETUNE, "run", "chat_completion", "--root", str(runs_root), *words(down)],
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 4, done.stdout + done.stderr
    assert "run again when MLflow answers" in done.stderr.splitlines()[-2]
    assert "exact_match" in done.stdout
    result = json.loads(max(runs_root.glob("*/result.json"), key=os.path.getmtime).read_text())
    assert Path(result["artifacts"]["report"]).is_file()
    assert Path(result["artifacts"]["model"], "config.json").is_file()
    assert result["metrics"]["tuned"]["loss"] > 0
    assert result["error"]["resume_from"].startswith("python -m steps register-model ")


def test_a_failing_step_gives_its_own_message_code_and_result(given, tmp_path, runs_root, warm):
    rows = chat_rows(60)
    rows[40]["messages"][0]["role"] = "bot"
    bad = write_jsonl(tmp_path / "bad.jsonl", rows)
    result = run(runs_root, {**given, "train_file_path": str(bad)}, code=2)
    assert result["status"] == "failed"
    assert result["error"]["step"] == "prepare-data"
    assert "bad.jsonl:41" in result["error"]["where"]
    assert [step["step"] for step in result["steps"]] == ["plan", "import-model", "prepare-data"]
    assert result["parameters"]["requested"]["per_device_train_batch_size"] == 1
    assert result["parameters"]["effective"]["per_device_train_batch_size"] == 4
    assert not list(runs_root.rglob("*.tmp-*"))


def test_text_that_kfp_would_rewrite_arrives_as_it_was(given, tmp_path, runs_root, warm):
    from pipelines.local import run_local
    from steps.errors import SecurityRefusal

    with pytest.raises(SecurityRefusal, match="experiment_name"):
        run_local(None, {"experiment_name": "{{$.inputs}}"}, tmp_path, tmp_path / "x")
    odd = "python3 with 'quotes', \"more\" and {braces}"
    result = run(runs_root, {**given, "experiment_name": odd, "train_file_path": "nowhere.jsonl"}, code=2)
    assert result["error"]["step"] == "plan"
    assert result["parameters"]["requested"]["experiment_name"] == odd
    assert result["parameters"]["effective"]["total_train_batch_size"] == 4  # no plan has split it
    import sqlite3

    good = run(runs_root, {**given, "experiment_name": odd, "max_steps": 1, "gate_must_beat_base": "false"})
    assert good["status"] == "succeeded"
    names = sqlite3.connect(runs_root / "mlflow.db").execute("select name from experiments").fetchall()
    assert (odd,) in names


def test_a_compiled_pipeline_runs_here_too(given, tmp_path, warm):
    from kfp import components

    from pipelines.local import run_local

    pipeline = components.load_component_from_file("compiled/chat_completion_pipeline.yaml")
    typed = {**given, "num_train_epochs": 2.0, "apply_lora": True, "lora_r": 2, "register_tuned_model": False}
    done = run_local(pipeline, typed, tmp_path, tmp_path / "run", show=lambda line: None)
    assert {record["step"] for record in done.records} == STEPS - {"register-model"}
    assert done.outputs["passed"] is True  # the gate's verdict, although nobody wants the model registered
    merged = json.loads(Path(done.outputs["merged"], "manifest.json").read_text())
    assert merged["same_as"] == ""
    assert json.loads(Path(done.outputs["tuned"], "manifest.json").read_text())["kind"] == "adapter"


def test_a_model_that_is_not_wanted_in_the_registry_still_has_the_verdict_of_its_gate(given, runs_root, warm):
    result = run(runs_root, {**given, "register_tuned_model": "no"})
    assert result["gate"]["passed"] is True
    assert result["registered"] is None
    assert {step["step"] for step in result["steps"]} == STEPS - {"register-model"}
    wanted = run(runs_root, given)
    assert wanted["registered"]["version"] == "1"
    assert set(wanted["reused"]) >= {"finetune", "evaluate"}


def test_text_generation_learns_from_prompts_and_answers_in_csv(tiny_model, tmp_path, runs_root, warm):
    rows = "".join(f'"{number} + 1 =","{number + 1}"\n' for number in range(60))
    (tmp_path / "sums.csv").write_text("question,answer\n" + rows)
    given = {
        **SETTINGS,
        "pytorch_model_path": str(tiny_model),
        "train_file_path": str(tmp_path / "sums.csv"),
        "text_key": "question",
        "ground_truth_key": "answer",
        "text_separator": " ",
        "packing": "true",
        "max_seq_length": 32,
    }
    result = run(runs_root, given, "text_generation")
    assert result["status"] == "succeeded"
    assert result["metrics"]["tuned"]["loss"] < result["metrics"]["base"]["loss"]
    assert set(result["metrics"]["tuned"]) >= {"loss", "perplexity", "exact_match", "bleu", "rougeL"}


@pytest.fixture(scope="module")
def unbroken(given, shared, warm_folder) -> tuple[dict, dict]:
    """A longer training, and what came of it."""
    longer = {**given, "num_train_epochs": 6, "save_steps": 5, "register_tuned_model": "false"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FINETUNE_WARM", str(warm_folder))  # for this run alone: a signal reaches no task of a server
        folder = shared.made("unbroken", lambda folder: run(folder, longer))
    [result] = folder.glob("chat_completion-*/result.json")
    return longer, json.loads(result.read_text().replace(f"{folder}.part", str(folder)))


@pytest.mark.parametrize("how", long_but([signal.SIGTERM], [signal.SIGKILL, signal.SIGTERM]))
def test_a_run_that_is_stopped_in_training_resumes_to_the_same_weights(unbroken, tmp_path, how):
    longer, whole = unbroken
    root = tmp_path / "broken"
    command = [*FINETUNE, "run", "chat_completion", "--root", str(root), *words(longer)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while not list(root.glob("checkpoints/*/*/checkpoint-10/manifest.json")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(how)
    code = process.wait(timeout=300)
    if how == signal.SIGTERM:
        assert code == 143
        (result,) = root.glob("chat_completion-*/result.json")
        assert json.loads(result.read_text())["error"]["code"] == 143
    resumed = run(root, {**longer, "resume_from_checkpoint": "true"})
    history = json.loads(Path(resumed["artifacts"]["tuned"], "history.json").read_text())
    assert history["resumed_from"] >= 10
    weights = [Path(result["artifacts"]["model"], "model.safetensors").read_bytes() for result in (whole, resumed)]
    assert weights[0] == weights[1]
