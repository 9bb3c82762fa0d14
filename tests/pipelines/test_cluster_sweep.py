"""A sweep on Kubeflow Pipelines: sent, looked at through MLflow, waited for, stopped, resumed, opened by its name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from kubeflow import GIVEN
from waiting import time_with

from pipelines.client import connect
from pipelines.sweeping.cluster import ClusterSweep, start_on_cluster
from pipelines.sweeping.described import describe
from pipelines.sweeping.handle import SweepFailed
from steps.errors import Outage, UserError
from steps.params.registration import TrackingParams

pytestmark = pytest.mark.usefixtures("kfp_server", "compiled_once")
SPACE = {"learning_rate": [1e-5, 1e-4, 1e-3], "lora_r": [4, 8]}
OPEN = {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "lora_r": [4, 8, 16]}


@pytest.fixture(scope="module")
def store(empty_database, tmp_path_factory) -> str:
    """A store of MLflow, which the trials write to."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copyfile(empty_database, folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture
def pods(store, kfp_server, monkeypatch) -> "Pods":
    """What the pods of a run do."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("pipelines.sweeping.cluster.FRESH", 0.0)
    return Pods(store, kfp_server)


class Pods:
    """Stands for the pods of the newest run: they write to MLflow, and the run ends."""

    def __init__(self, store: str, server: Any):
        self.tracking = TrackingParams(mlflow_server_uri=store, experiment_name="sweeps")
        self.server = server
        self.scores: dict[int, float] = {}

    @property
    def newest(self) -> dict[str, Any]:
        return list(self.server.runs.values())[-1]

    @property
    def inputs(self) -> dict[str, Any]:
        return self.newest["runtime_config"]["parameters"]

    def trial(self, number: int, state: str = "finished", score: float | None = None, reason: str = "") -> None:
        """A trial has ended."""
        from steps.sweep.result import Result
        from steps.sweep.tracked import tell_trial

        metrics = {} if score is None else {"loss": score}
        curve = [[1, 2.0], [2, score or 1.0]]
        result = Result(number, state, metrics, score, curve=curve, curve_metric="validation loss", steps=8,
                        max_steps=8, tokens=800, key=f"{self.inputs['sweep_name']}-{number}", reason=reason)  # type: ignore[arg-type]  # fmt: skip
        tell_trial(self.tracking, self.inputs["sweep_name"], result)

    def begin(self, number: int) -> None:
        """A trial trains."""
        from mlflow import MlflowClient

        from steps.tracking.store import experiment_id

        client = MlflowClient(tracking_uri=self.tracking.mlflow_server_uri)
        place = experiment_id(client, "sweeps", self.tracking.mlflow_server_uri)
        tags = {"sweep": self.inputs["sweep_name"], "trial": str(number)}
        run = client.create_run(place, tags=tags).info.run_id
        client.log_metric(run, "eval_loss", 1.5, step=4)

    def all(self, state: str = "SUCCEEDED") -> None:
        """Every trial that has not ended has a score, and the run ends."""
        for number, trial in enumerate(self.inputs["trials"]):
            if number not in self.scores:
                self.scores[number] = abs(trial["learning_rate"] - 2e-4) * 1000 + trial.get("lora_r", 0) / 100
                self.trial(number, score=self.scores[number])
        self.newest["state"] = state

    def choose(self, passed: bool = True) -> None:
        """The best trial was evaluated, and registered if it passed."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric, RunTag

        from steps.running import load
        from steps.sweep.tracked import track_sweep

        inputs = self.inputs
        trials = load("read-sweep")(inputs["sweep_name"], [self.tracking.mlflow_server_uri])["trials"]
        lines = [{"number": number, "parameters": one} for number, one in enumerate(inputs["trials"])]
        planned = {"pipeline": "chat_completion", "sweep": {
            "name": inputs["sweep_name"], "metric": "loss", "pruner": "none", "varied": list(inputs["trials"][0]),
            "trials": lines, "preparations": 1}}  # fmt: skip
        facts = load("sweep-facts")(planned, trials, {})
        track_sweep(self.tracking.model_dump(), facts, None)
        client = MlflowClient(tracking_uri=self.tracking.mlflow_server_uri)
        best = next(one["mlflow_run_id"] for one in facts["trials"] if one["best"])
        tags = {"gate.passed": str(passed), "gate.reason": "loss 0.5 is better than 1.0"}
        tags |= {"registered_model": "dates/3"} if passed else {}
        client.log_batch(best, metrics=[Metric("tuned/loss", 0.5, 0, 0), Metric("base/loss", 1.0, 0, 0)],
                         tags=[RunTag(*pair) for pair in tags.items()])  # fmt: skip


def described(name: str, store: str = "", **more: Any) -> Any:
    given = {**GIVEN, **({"mlflow_server_uri": store} if store else {}), **more.pop("parameters", {})}
    trials = more.pop("trials", None)
    return describe("chat_completion", given, None if trials else more.pop("space", SPACE), trials, name=name,
                    max_parallel=more.pop("max_parallel", 2), **more)  # fmt: skip


def started(name: str, store: str = "", **more: Any) -> ClusterSweep:
    return start_on_cluster(described(name, store, **more), plan=False, tell=lambda line: None)


def sent(server: Any) -> list[dict[str, Any]]:
    return [made["body"] for made in server.asked("POST runs") if made["body"]]


def test_all_trials_of_a_grid_are_one_run_of_the_compiled_sweep(kfp_server, pods, store):
    sweep = started("grid", store, metric="loss", pruner="median", parameters={"evaluation_strategy": "steps"})
    (body,) = sent(kfp_server)
    inputs = body["runtime_config"]["parameters"]
    assert [(one["learning_rate"], one["lora_r"]) for one in inputs["trials"]] == [
        (rate, rank) for rate in SPACE["learning_rate"] for rank in SPACE["lora_r"]
    ]
    assert (inputs["parallelism"], inputs["sweep_name"], inputs["sweep_metric"]) == (2, "grid", "loss")
    assert (inputs["pruner"], inputs["learning_rate"]) == ("median", 2e-5)
    assert inputs["overrides"]["evaluation_strategy"] == "steps"
    assert body["display_name"] == "grid"
    assert body["pipeline_version_reference"]
    assert inputs["sweep_search"]["space"]["lora_r"] == [4, 8]
    assert sweep.state == "running"
    assert sweep.best is sweep.final is sweep.report is None


def test_states_and_scores_come_from_mlflow_while_it_runs(kfp_server, pods, store):
    sweep = started("looked_at", store)
    assert set(sweep.table()["state"]) == {"waiting"}
    pods.begin(0)
    pods.trial(1, score=0.75)
    pods.trial(2, "failed", reason="too little memory")
    pods.trial(3, "pruned", reason="worse than the median")
    table = sweep.table()
    assert list(table["state"]) == ["running", "finished", "failed", "pruned", "waiting", "waiting"]
    assert table.loc[1, "score"] == table.loc[1, "validation loss"] == 0.75
    assert table.loc[0, "steps"] == 4
    assert table.loc[2, "reason"] == "too little memory"
    assert list(table["lora_r"]) == [4, 8] * 3
    assert sweep.best["number"] == 1
    assert sweep.best["parameters"] == {"learning_rate": 1e-5, "lora_r": 8}
    assert "looked_at: running" in repr(sweep)
    assert "<table>" in sweep._repr_html_()
    assert len(sweep.facts["trials"][1]["curve"]) == 2


def test_waiting_ends_with_the_verdict_and_the_version(kfp_server, pods, store, capsys):
    sweep = started("waited_for", store, metric="loss")
    pods.all()
    pods.choose()
    assert sweep.wait() is sweep
    assert sweep.state == "finished"
    assert sweep.best["parameters"] == {"learning_rate": 1e-4, "lora_r": 4}
    assert sweep.final["gate"] == {"passed": True, "reason": "loss 0.5 is better than 1.0"}
    assert sweep.final["registered"] == {"name": "dates", "version": "3"}
    assert sweep.final["metrics"] == {"base": {"loss": 1.0}, "tuned": {"loss": 0.5}}
    assert sweep.report == sweep.url
    assert "6 of 6 trials" in capsys.readouterr().out
    assert "version dates 3" in repr(sweep)


def test_a_refused_best_trial_has_no_version(kfp_server, pods, store):
    sweep = started("refused", store)
    pods.all()
    pods.choose(passed=False)
    assert sweep.wait(show=False).final["registered"] is None
    assert sweep.final["gate"]["passed"] is False


@pytest.mark.parametrize("way", ["no server", "no answer", "another server"])
def test_without_mlflow_the_state_of_the_run_is_known(kfp_server, pods, store, way, mlflow_store, monkeypatch):
    server = {"no server": "", "no answer": "http://127.0.0.1:9", "another server": mlflow_store}
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sweep = started(f"blind_{way.replace(' ', '_')}", server[way])
    assert set(sweep.table()["state"]) == ({"waiting"} if way == "another server" else {"unknown"})
    told = repr(sweep)
    if way == "no server":
        assert "mlflow_server_uri" in told
    elif way == "no answer":
        assert "127.0.0.1:9" in told
        assert "MLFLOW_TRACKING_URI" in told
    pods.newest["state"] = "SUCCEEDED"
    assert sweep.wait(show=False).state == "finished"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)  # as this machine reaches it
    pods.all()
    assert set(sweep.table()["state"]) == {"finished"}


def test_stopped_and_resumed_it_sends_the_same_run(kfp_server, pods, store):
    sweep = started("stopped", store)
    pods.trial(0, score=1.0)
    pods.begin(1)
    assert sweep.stop().state == "stopped"
    assert list(sweep.table()["state"])[:3] == ["finished", "waiting", "waiting"]
    assert len(kfp_server.asked("POST runs/")) == 1
    assert sweep.wait(show=False).state == "stopped"
    assert sweep.resume().state == "running"
    assert sweep.resume().state == "running"  # nothing more
    first, second = sent(kfp_server)
    for key in ("display_name", "experiment_id", "pipeline_version_reference", "runtime_config"):
        assert first[key] == second[key]
    pods.newest["state"] = "SUCCEEDED"
    assert sweep.resume().state == "finished"
    assert len(sent(kfp_server)) == 2


def test_a_failed_run_ends_the_waiting_with_its_error_and_can_be_resumed(kfp_server, pods, store):
    sweep = started("failed", store)
    pods.begin(0)
    message = "trial ended with code 4 (outage) at train_file_path: URI-E0401 a: found b; expected c. Fix: d."
    pods.newest.update(state="FAILED", error={"message": message})
    with pytest.raises(SweepFailed, match="URI-E0401") as raised:
        sweep.wait(show=False)
    assert raised.value.exit_code == 4
    assert sweep.error["step"] == "trial"
    assert list(sweep.table()["state"])[:2] == ["failed", "waiting"]
    assert sweep.resume().state == "running"
    assert len(sent(kfp_server)) == 2


def test_it_is_opened_by_its_name_alone(kfp_server, pods, store, monkeypatch):
    started("opened", store)
    pods.trial(0, score=1.0)
    sweep = ClusterSweep.open("opened", kfp_server.url)
    assert list(sweep.table()["state"])[:2] == ["finished", "waiting"]
    assert sweep.facts["search"] == "grid"
    with pytest.raises(UserError, match="did you mean opened"):
        ClusterSweep.open("openned")
    kfp_server.fail["GET runs"] = (503, "down", {})
    assert "503" in repr(sweep)
    with pytest.raises(Outage):
        ClusterSweep.open("opened")


def test_the_same_sweep_goes_on_and_another_of_its_name_is_refused(kfp_server, pods, store):
    started("again", store)
    with pytest.raises(UserError, match="SWEEP-E0308"):
        started("again", store, space={"lora_r": [4, 8, 16]})
    with pytest.raises(UserError, match="with other overrides"):
        started("again", store, parameters={"weight_decay": 0.1})
    assert started("again", store).state == "running"
    assert len(sent(kfp_server)) == 1
    pods.newest["state"] = "FAILED"
    assert started("again", store).state == "running"
    assert len(sent(kfp_server)) == 2


def test_more_trials_are_sent_with_those_before(kfp_server, pods, store):
    listed = [{"lora_r": 4}, {"lora_r": 8}]
    started("grown", store, trials=listed)
    more = [*listed, {"lora_r": 16}]
    with pytest.raises(UserError, match="still runs"):
        started("grown", store, trials=more)
    pods.newest["state"] = "SUCCEEDED"
    assert started("grown", store, trials=more).state == "running"
    assert sent(kfp_server)[-1]["runtime_config"]["parameters"]["trials"] == more


def test_random_trials_are_all_known_before(kfp_server, pods, store):
    started("random", store, space=OPEN, search="random", budget=7)
    (body,) = sent(kfp_server)
    trials = body["runtime_config"]["parameters"]["trials"]
    assert len({json.dumps(one) for one in trials}) == 7
    assert body["pipeline_version_reference"]


@pytest.mark.parametrize("reopened", [False, True])
def test_a_sampler_learns_from_batches_and_only_the_last_run_registers(kfp_server, pods, store, reopened, monkeypatch):
    name = f"tpe_{reopened}"
    looks: list[int] = []

    def ended(_: float) -> None:
        looks.append(len(kfp_server.runs))
        pods.all()
        if reopened:
            raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.sweeping.cluster.time", time_with(sleep=ended))
    sweep = started(name, store, space=OPEN, search="tpe", budget=7, max_parallel=3, metric="loss")
    assert sweep.facts["total"] == 7
    for _ in range(4 if reopened else 1):
        try:
            sweep.wait(show=False)
        except KeyboardInterrupt:
            sweep = ClusterSweep.open(name)
            sweep._plan = False
    assert sweep.state == "finished"
    bodies = sent(kfp_server)
    trials = [body["runtime_config"]["parameters"]["trials"] for body in bodies]
    assert [len(one) for one in trials] == [3, 6, 7]
    assert trials[2][:6] == trials[1]
    assert trials[1][:3] == trials[0]
    assert bodies[2]["pipeline_version_reference"]
    for body in bodies[:2]:
        spec = body["pipeline_spec"]["pipeline_spec"]
        assert spec["pipelineInfo"]["name"] == "chat-completion-sweep"
        dags = [made["dag"] for made in (spec["root"], *spec["components"].values()) if "dag" in made]
        left = {task for dag in dags for task in dag["tasks"]}
        assert left == {"plan", "import-models", "prepare-all", "trials", "for-loop-1", "lane", "trial"}
    assert bodies[0]["experiment_id"] == bodies[2]["experiment_id"]
    assert len(kfp_server.asked("POST pipelines/upload_version")) == 1
    # The same as in one process, which sees the same results.
    from pipelines.sweeping.search import Search
    from pipelines.sweeping.submission import next_trials

    what = described(name, store, space=OPEN, search="tpe", budget=7, max_parallel=3, metric="loss")
    done = [{"number": place, "parameters": one, "state": "finished", "score": pods.scores[place], "curve": []}
            for place, one in enumerate(trials[1][:3])]  # fmt: skip
    assert next_trials(what, done, 3) == trials[1][3:]
    assert Search(what).total == 7


def test_between_two_batches_it_is_stopped_until_somebody_waits(kfp_server, pods, store):
    sweep = started("rests", store, space=OPEN, search="tpe", budget=6, max_parallel=3)
    pods.all()
    assert sweep.state == "stopped"
    assert sweep.final is None
    assert sweep.resume().state == "running"
    assert len(sent(kfp_server)) == 2
    pods.newest["state"] = "FAILED"
    sweep.resume()
    assert sent(kfp_server)[-1]["runtime_config"] == sent(kfp_server)[-2]["runtime_config"]


def test_a_failed_batch_is_sent_again_as_it_was(kfp_server, pods, store):
    sweep = started("batch", store, space=OPEN, search="tpe", budget=6, max_parallel=3)
    pods.newest["state"] = "FAILED"
    sweep.resume()
    first, second = sent(kfp_server)
    assert first["pipeline_spec"] == second["pipeline_spec"]
    assert first["runtime_config"] == second["runtime_config"]


def test_without_the_results_no_batch_follows(kfp_server, pods, mlflow_store):
    sweep = started("other_server", mlflow_store, space=OPEN, search="tpe", budget=6, max_parallel=3)
    pods.newest["state"] = "SUCCEEDED"
    with pytest.raises(UserError, match="SWEEP-E0310"):
        sweep.wait(show=False)
    assert len(sent(kfp_server)) == 1


def test_a_batch_waits_for_mlflow_to_answer(kfp_server, pods, store, monkeypatch):
    from pipelines.client import following

    monkeypatch.setattr(following, "PATIENCE", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sweep = started("deaf", "http://127.0.0.1:9", space=OPEN, search="gp", budget=6, max_parallel=3)
    pods.newest["state"] = "SUCCEEDED"
    with pytest.raises(Outage, match="SWEEP-E0401"):
        sweep.wait(show=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    pods.all()
    assert sweep.resume().state == "running"
    assert len(sent(kfp_server)) == 2


def test_a_trial_that_the_plan_refuses_is_not_sent(kfp_server, pods, store, monkeypatch):
    from pipelines.sweeping import cluster

    refused: list[Any] = []

    def planned(inputs: Any, trial: Any) -> bool:
        if not refused:
            refused.append(trial)
        return trial not in refused

    sweep = started("suggested", store, space=OPEN, search="tpe", budget=6, max_parallel=3)
    sweep._plan = True
    monkeypatch.setattr(cluster, "_is_planned", planned)
    pods.all()
    sweep.resume()
    inputs = pods.inputs
    assert len(inputs["trials"]) == 5
    assert refused[0] not in inputs["trials"]
    assert inputs["sweep_search"]["refused"] == refused
    assert pods.newest["pipeline_version_reference"]  # with the refused one, the budget is used up


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"space": {"max_seq_length": [64, 128]}, "search": "tpe", "budget": 2, "max_parallel": 1}, "SWEEP-E0309"),
        ({"space": {"packing": ["true", "false"], **OPEN}, "search": "gp", "budget": 4}, "SWEEP-E0309"),
        ({"max_parallel": 100}, "PARAM-E0"),
        ({"parameters": {"load_in_4bit": True, "load_in_8bit": True}}, "trial|PARAM|PLAN"),
    ],
)
def test_wrong_inputs_are_told_before_anything_is_sent(kfp_server, more, code):
    with pytest.raises(UserError, match=code):
        started("wrong", **more)
    assert not kfp_server.requests


def test_a_backend_that_refuses_is_told_in_its_words(kfp_server):
    kfp_server.fail["POST runs"] = (400, "Failed to create a run: InvalidInputError: parameter trials", {})
    with pytest.raises(UserError, match="InvalidInputError"):
        started("no")


def test_every_trial_is_planned_here_if_its_sources_can_be_read(kfp_server, tiny_model, chat_file, tmp_path):
    from pipelines.client.packages import package_of  # noqa: F401

    profile = tmp_path / "cluster.yaml"
    profile.write_text(f"volumes: [{{claim: c, mount_path: {Path(chat_file).parents[0]}, holds: [data]}},"
                       f" {{claim: d, mount_path: {Path(tiny_model).parents[0]}, holds: [data]}}]\n")  # fmt: skip
    given = {"pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file),
             "mlflow_server_uri": "http://mlflow:5000"}  # fmt: skip
    told: list[str] = []
    what = describe("chat_completion", given, {"max_seq_length": [32, 100000]}, name="planned")
    with pytest.raises(UserError, match="trial 1"):
        start_on_cluster(what, profile=profile, tell=told.append)
    assert not kfp_server.runs
    what = describe("chat_completion", given, {"learning_rate": [1e-4, 1e-3]}, name="planned")
    start_on_cluster(what, connect(), profile=profile, tell=told.append)
    assert any("planned here" in line for line in told)


def test_the_trials_alone_are_a_whole_pipeline():
    from kubeflow import remembered

    from pipelines.checking import check
    from pipelines.client.packages import package_of
    from pipelines.sweeping.submission import trials_only

    whole = remembered(package_of)("chat_completion_sweep").documents
    before = json.dumps(whole)
    assert list(check(*trials_only(whole)[:2])) == []
    assert json.dumps(whole) == before


YAML = """pipeline: chat_completion
parameters: {parameters}
space:
  learning_rate: [1e-5, 1e-4]
name: commanded
"""


def test_the_command_starts_follows_shows_and_resumes(kfp_server, pods, store, finetune, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(YAML.replace("{parameters}", json.dumps({**GIVEN, "mlflow_server_uri": store})))
    there = ["--endpoint", kfp_server.url]
    begun = finetune("sweep", "-f", file, *there, "--no-plan", "--no-wait", "--experiment", "tests")
    assert begun.code == 0, begun.err
    assert f"{kfp_server.url}/#/runs/details/" in begun.out
    assert [one["display_name"] for one in kfp_server.experiments.values()] == ["tests"]
    pods.trial(0, score=0.5)
    shown = finetune("sweep", "--open", "commanded", "--status", *there, "--json")
    told = json.loads(shown.out)
    assert [one["state"] for one in told["trials"]] == ["finished", "waiting"]
    assert told["status"] == "running"
    pods.all()
    pods.choose()
    done = finetune("sweep", "--open", "commanded", *there)
    assert done.code == 0, done.err
    assert "version dates 3" in done.out
    message = "trial ended with code 5 (resources) at x: PLAN-E0401 a: found b; expected c. Fix: d."
    pods.newest["state"] = "FAILED"
    kfp_server.progress = [{"state": "FAILED", "error": {"message": message}}]
    failed = finetune("sweep", "--open", "commanded", *there)
    assert failed.code == 5
    assert "PLAN-E0401" in failed.err


def test_options_of_a_cluster_need_an_endpoint(kfp_server, finetune, tmp_path):
    done = finetune("sweep", "-f", tmp_path / "sweep.yaml", "--experiment", "x", "--no-wait")
    assert done.code == 2
    assert "--experiment, --wait" in done.problem["found"]
    wrong = finetune("sweep", "--endpoint", kfp_server.url)
    assert wrong.code == 2


def test_the_plan_of_the_command_sends_nothing(kfp_server, finetune, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(YAML.replace("{parameters}", json.dumps(GIVEN)))
    done = finetune("sweep", "-f", file, "--endpoint", kfp_server.url, "--plan")
    assert done.code == 0, done.err
    assert "waiting" in done.out
    assert kfp_server.requests == []
