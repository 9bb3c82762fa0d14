"""The compiled sweep, run with kfp's local runner: from the function, and from the YAML that users upload."""

import json
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from classifiers import build_bert, label_rows
from conftest import chat_rows, write_jsonl
from grids import long_but
from sweeping import lasting

from pipelines.catalog import published_as
from pipelines.local import LocalRun, StepFailed, run_local

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_module")]

COMPILED = Path(__file__).parents[2] / "compiled"
SETTINGS = {
    "number_of_gpu_to_use_finetuning": 0,
    "max_steps": 4,
    "total_train_batch_size": 4,
    "max_per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 16,
    "logging_steps": 2,
    "max_seq_length": 64,
    "evaluation_max_new_tokens": 4,
    "gate_must_beat_base": False,
}
DIVERGING = 1e30
# As KFP passes what a user types into the field of a list: whole numbers inside objects are floats.
TYPED = [{"learning_rate": "0.003", "max_steps": 4.0}, {"learning_rate": DIVERGING}, {"max_steps": 3.0}]


def from_yaml(name: str):
    from kfp.components import load_component_from_file

    return load_component_from_file(str(COMPILED / f"{name}_pipeline.yaml"))


class Swept:
    """A sweep that ran, with what a user saw of it."""

    def __init__(self, made, given: dict, trials: list, root: Path, folder: Path, **inputs):
        self.lines: list[str] = []
        self.root, self.error = root, {}
        passed = {"overrides": given, "trials": trials, "parallelism": 2, **inputs}
        try:
            self.run: LocalRun = run_local(made, passed, root, folder, show=self.lines.append)
        except StepFailed as failed:
            self.run, self.error = failed.run, failed.outcome
        self.steps = Counter(record["step"] for record in self.run.records)
        self.shown = "\n".join(self.lines)

    @property
    def facts(self) -> dict:
        return json.loads(Path(self.run.outputs["sweep"], "sweep.json").read_text())

    @property
    def states(self) -> list[str]:
        return [trial["state"] for trial in self.facts["trials"]]

    def versions(self) -> int:
        with sqlite3.connect(self.root / "mlflow.db") as database:
            return database.execute("select count(*) from model_versions").fetchone()[0]


@pytest.fixture(scope="module")
def given(tiny_model, tmp_path_factory):
    rows = write_jsonl(tmp_path_factory.mktemp("data") / "chat.jsonl", chat_rows(60))
    return {**SETTINGS, "pytorch_model_path": str(tiny_model), "train_file_path": str(rows)}


@pytest.fixture(scope="module")
def first(given, tmp_path_factory, warm_module) -> Swept:
    root = tmp_path_factory.mktemp("runs")
    return Swept(from_yaml("chat_completion_sweep"), given, TYPED, root, root / "first")


def test_one_import_one_preparation_and_the_best_trial_is_evaluated_and_registered_once(first):
    assert first.error == {}
    assert first.steps == {"plan": 1, "import-model": 1, "prepare-data": 1, "trial": 3, "choose-trial": 1,
                           "merge-adapter": 1, "evaluate": 1, "report": 1, "register-model": 1}  # fmt: skip
    assert first.versions() == 1
    facts = first.facts
    scores = {trial["number"]: trial["score"] for trial in facts["trials"] if trial["state"] == "finished"}
    assert facts["best"] == min(scores, key=scores.get)  # the loss
    assert facts["metric"] == "loss"
    assert first.run.outputs["passed"] is True
    tested = json.loads(Path(first.run.outputs["evaluation_result"], "metrics.json").read_text())
    assert tested["tuned"]["loss"] == pytest.approx(first.run.outputs["score"])
    best = next(trial for trial in facts["trials"] if trial["best"])
    assert Path(best["tuned_uri"]).samefile(first.run.outputs["tuned"])
    assert best["metrics"]["loss"] != tested["tuned"]["loss"]  # other rows
    history = json.loads(Path(first.run.outputs["tuned"], "history.json").read_text())
    assert history["steps"] == best["steps"]


def test_a_trial_that_fails_has_a_row_with_its_reason_and_the_sweep_goes_on(first):
    assert first.states == ["finished", "failed", "finished"]
    failed = first.facts["trials"][1]
    assert failed["reason"]
    assert failed["error"]["code"] == 6
    page = Path(first.run.outputs["sweep_report"]).read_text()
    assert failed["reason"].split(":")[0] in page
    assert any(failed["reason"] in line for line in first.shown.splitlines())


def test_whole_numbers_and_texts_in_the_trials_are_what_the_user_typed(first):
    parameters = [trial["parameters"] for trial in first.facts["trials"]]
    assert [one["learning_rate"] for one in parameters] == [0.003, DIVERGING, parameters[2]["learning_rate"]]
    assert json.dumps([one["max_steps"] for one in parameters]) == "[4, 4, 3]"
    assert [trial["max_steps"] for trial in first.facts["trials"] if trial["state"] == "finished"] == [4, 3]


def test_the_screen_has_the_lines_of_single_runs_and_nothing_of_the_runner(first):
    heads = [line for line in first.shown.splitlines() if line.startswith("▸ ")]
    assert Counter(heads) == {f"▸ {name}": count for name, count in first.steps.items()}
    assert f"plan of {first.facts['name']}: 3 trials of chat_completion" in first.shown
    gate = json.loads(Path(first.run.outputs["evaluation_result"], "metrics.json").read_text())["gate"]
    for words in (
        gate["reason"],
        "training from step 0 to 3",
        "prepared ",
        "registered models:/chat_completion@champion",
    ):
        assert words in first.shown
    for words in ("Traceback", "kfp", "INFO", "{{", "pipelinechannel"):
        assert words not in first.shown


@pytest.mark.long
def test_the_second_run_takes_everything_else_from_the_cache(first, given):
    again = Swept(from_yaml("chat_completion_sweep"), given, TYPED, first.root, first.root / "again")
    assert again.error == {}
    # kfp's local cache reuses no task without a file for each output: the failed trial has no model.
    assert Counter(again.run.reused) == {"import-models": 1, "prepare-all": 1, "trial": 2, "evaluate-best": 1}
    assert again.steps == {"plan": 1, "trial": 1, "choose-trial": 1, "report": 1, "register-model": 1}
    assert again.facts["trials"] == first.facts["trials"]
    assert again.versions() == 1


@pytest.mark.parametrize("parallelism", long_but([5], [1, 5]))
def test_any_parallelism_and_texts_with_python3_and_braces_give_the_same_trials(first, given, parallelism):
    made = published_as("chat_completion_sweep").load()
    folder = first.root / f"at-once-{parallelism}"
    odd = "python3 with 'quotes', \"more\" and {{braces}}"
    values = {**given, "experiment_name": odd}
    other = Swept(made, values, TYPED, first.root, folder, parallelism=parallelism, sweep_name=odd)
    assert other.error == {}
    assert other.facts["name"] == odd
    with sqlite3.connect(first.root / "mlflow.db") as database:
        assert (odd,) in database.execute("select name from experiments").fetchall()
    assert lasting(other.facts) == lasting(first.facts)
    assert other.facts["best"] == first.facts["best"]
    told = json.loads(Path(other.run.outputs["plan"], "plan.json").read_text())["sweep"]["parallelism"]
    assert told == min(parallelism, 3)


@pytest.mark.long
def test_data_are_prepared_once_more_for_another_length_and_a_second_model_is_imported(first, given, tmp_path):
    from conftest import build_model

    build_model(tmp_path / "other", hidden_size=32)
    trials = [{"learning_rate": 1e-3}, {"max_seq_length": 48.0}, {"pytorch_model_path": str(tmp_path / "other")}]
    made = Swept(from_yaml("chat_completion_sweep"), given, trials, first.root, tmp_path / "run")
    assert made.error == {}
    assert (made.steps["import-model"], made.steps["prepare-data"]) == (2, 3)
    assert made.states == ["finished"] * 3
    assert made.steps["evaluate"] == made.steps["register-model"] == 1
    told = json.loads(Path(made.run.outputs["plan"], "plan.json").read_text())["sweep"]
    assert [trial["adds"] for trial in told["trials"]] == [
        "a model and prepared data", "prepared data", "a model and prepared data",
    ]  # fmt: skip


def test_a_sweep_of_which_every_trial_fails_tells_each_reason_once(given, tmp_path):
    trials = [{"learning_rate": DIVERGING}, {"learning_rate": DIVERGING * 10}, {"learning_rate": 1e25}]
    made = Swept(from_yaml("chat_completion_sweep"), given, trials, tmp_path / "runs", tmp_path / "runs/run")
    assert made.error["code"] == 6
    assert made.error["step"] == "choose-trial"
    reasons = [problem.partition("found ")[2] for problem in made.error["problems"]]
    assert len(set(reasons)) == len(reasons)
    assert made.steps["trial"] == 3
    assert "evaluate" not in made.steps
    numbers = {word.strip(",:") for problem in made.error["problems"] for word in problem.split(": found")[0].split()}
    assert {"0", "1", "2"} <= numbers


def test_wrong_trials_are_all_told_by_the_plan_before_anything_runs(given, tmp_path):
    trials = [{"learning_rat": 1e-3}, {"optim": "fastest"}, {"max_steps": 2.5}, {"max_steps": 2.0}]
    made = Swept(from_yaml("chat_completion_sweep"), given, trials, tmp_path / "runs", tmp_path / "runs/run")
    assert made.error["code"] == 2
    assert [f"trial {number}" in "".join(made.error["problems"]) for number in range(4)] == [True, True, True, False]
    assert set(made.steps) == {"plan"}


@pytest.mark.long
def test_a_sweep_of_classifiers_has_their_charts(tmp_path):
    build_bert(tmp_path / "bert")
    rows = write_jsonl(tmp_path / "rows.jsonl", label_rows(90))
    values = {**SETTINGS, "pytorch_model_path": str(tmp_path / "bert"), "train_file_path": str(rows),
              "sentence1_key": "text", "label_key": "kind", "max_seq_length": 32}  # fmt: skip
    del values["evaluation_max_new_tokens"]
    trials = [{"learning_rate": 1e-3}, {"learning_rate": 5e-3}]
    made = Swept(from_yaml("text_classification_sweep"), values, trials, tmp_path / "runs", tmp_path / "runs/run",
                 sweep_metric="accuracy")  # fmt: skip
    assert made.error == {}, made.shown
    assert made.facts["metric"] == "accuracy"
    outputs = [json.loads(file.read_text()) for file in (tmp_path / "runs/run").rglob("executor_output.json")]
    (chart,) = [one["artifacts"]["classification"] for one in outputs if "classification" in one.get("artifacts", {})]
    matrix = chart["artifacts"][0]["metadata"]["confusionMatrix"]
    assert [spec["displayName"] for spec in matrix["annotationSpecs"]] == ["colour", "fruit", "metal"]
