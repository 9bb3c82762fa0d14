"""Metrics reach MLflow even after an outage, and a training never waits for it."""

import json
import logging
import threading
import time
from pathlib import Path

import pytest
from fault_proxy import Fault, fault_proxy
from tracking_server import TrackingServer
from waiting import LONG, wait_for

from steps.errors import Outage, UserError
from steps.params.registration import TrackingParams
from steps.sources import bounded
from steps.tracking import UNSENT, Tracker
from steps.tracking.checkpoints import CheckpointCopies
from steps.tracking.records import read_unsent
from steps.tracking.store import Store
from steps.tracking.target import TrackingTarget, target_of
from steps.tracking.tracker import FLUSH_SECONDS
from steps.tracking.unsent import send_metrics

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_FLATTEN_PARAMS", "MLFLOW_RUN_ID", "MLFLOW_TAGS",
             "HF_MLFLOW_LOG_ARTIFACTS", "DISABLE_MLFLOW_INTEGRATION")  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("steps.tracking.tracker.FIRST_WAIT", 0.02)
    monkeypatch.setattr("steps.tracking.tracker.LONGEST_WAIT", 0.1)
    monkeypatch.setattr("steps.tracking.checkpoints.WAIT", 0.05)


@pytest.fixture
def server(tmp_path):
    made = TrackingServer(tmp_path / "artifacts")
    yield made
    made.close()


@pytest.fixture
def said(monkeypatch):
    """The lines that the project's own log got."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("finetune")
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)
    log.setLevel(before)


# Parameters, environment → what differs from nothing tracked. Flags and files have become parameters before this.
PRECEDENCE = {
    "nothing": ({}, {}, {}),
    "environment": ({}, {"MLFLOW_TRACKING_URI": "http://e", "MLFLOW_EXPERIMENT_NAME": "theirs"},
                    {"uri": "http://e", "experiment": "theirs"}),
    "parameters win": ({"mlflow_server_uri": "http://p", "experiment_name": "mine"},
                       {"MLFLOW_TRACKING_URI": "http://e", "MLFLOW_EXPERIMENT_NAME": "theirs"},
                       {"uri": "http://p", "experiment": "mine"}),
    "each by itself": ({"mlflow_server_uri": "http://p"}, {"MLFLOW_EXPERIMENT_NAME": "theirs"},
                       {"uri": "http://p", "experiment": "theirs"}),
    "copies by environment": ({}, {"HF_MLFLOW_LOG_ARTIFACTS": "TRUE"}, {"copies_checkpoints": True}),
    "copies, as 1": ({"hf_mlflow_log_artifacts": "1"}, {}, {"copies_checkpoints": True}),
    "copies, as True": ({"hf_mlflow_log_artifacts": "True"}, {"HF_MLFLOW_LOG_ARTIFACTS": "0"},
                        {"copies_checkpoints": True}),
    "no copies, as False": ({"hf_mlflow_log_artifacts": "False"}, {"HF_MLFLOW_LOG_ARTIFACTS": "1"}, {}),
    "no copies, as a boolean": ({"hf_mlflow_log_artifacts": False}, {"HF_MLFLOW_LOG_ARTIFACTS": "1"}, {}),
    "switched off": ({"mlflow_server_uri": "http://p"}, {"DISABLE_MLFLOW_INTEGRATION": "TRUE"}, {}),
    "not switched off": ({"mlflow_server_uri": "http://p"}, {"DISABLE_MLFLOW_INTEGRATION": "FALSE"},
                         {"uri": "http://p"}),
    "a run of somebody's": ({}, {"MLFLOW_RUN_ID": "r1", "MLFLOW_TAGS": '{"team": "a"}'},
                            {"run_id": "r1", "tags": {"team": "a"}}),
    "tags that are none": ({}, {"MLFLOW_TAGS": "team=a"}, {}),
    "nested parameters": ({}, {"MLFLOW_FLATTEN_PARAMS": "FALSE"}, {"flattens": False}),
}  # fmt: skip


@pytest.mark.parametrize("case", PRECEDENCE)
def test_a_parameter_wins_over_the_environment_and_that_over_the_default(case):
    parameters, environment, expected = PRECEDENCE[case]
    assert target_of(TrackingParams(**parameters), environment) == TrackingTarget(**expected)


def tracked(uri: str, **options) -> Tracker:
    tags = {"pipeline": "p", "model_digest": "m", "data_digest": "d"}
    return Tracker(TrackingParams(mlflow_server_uri=uri, **options), "p finetune", tags)


def test_parameters_tags_and_metrics_arrive_with_step_and_time(server):
    before = int(time.time() * 1000)
    with tracked(server.uri) as tracker:
        tracker.parameters({"training": {"seed": 1}, "source": "s3://user:pass@bucket/x"})
        for step in range(1, 4):
            tracker.metrics({"loss": 1 / step, "grad_norm": float("nan")}, step)
        tracker.tag({"pruned": "worse than s3://user:pass@bucket/x"})
    (run,) = server.runs.values()
    assert run["params"] == {"training.seed": "1", "source": "s3://***@bucket/x"}
    assert server.metrics("loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert server.metrics("grad_norm") == []
    assert all(before <= int(metric["timestamp"]) <= time.time() * 1000 for metric in run["metrics"])
    tags = {tag["key"]: tag["value"] for tag in run["info"]["tags"]}
    assert tags.items() >= {"pipeline": "p", "model_digest": "m", "data_digest": "d"}.items()
    assert tags["pruned"] == "worse than s3://***@bucket/x"
    assert run["status"] == "FINISHED"


@pytest.mark.parametrize("when", ["at the start", "in the middle"])
def test_an_outage_delays_metrics_and_loses_none(server, said, when):
    server.down = when == "at the start"
    times = []
    with tracked(server.uri) as tracker:
        for step in range(1, 601):
            if step == 200:
                tracker.flush(0.2)
                server.down = True
            before = int(time.time() * 1000)
            tracker.metrics({"loss": float(step)}, step)
            times.append((before, time.time() * 1000))
        wait_for(lambda: any("training continues" in line for line in said))
        assert server.metrics("loss")[-1:] != [(600, 600.0)] if server.runs else True
        server.down = False
    assert server.metrics("loss") == [(step, float(step)) for step in range(1, 601)]
    assert len(server.runs) == 1
    (run,) = server.runs.values()
    sent = {int(metric["step"]): int(metric["timestamp"]) for metric in run["metrics"]}
    assert all(before <= sent[step] <= after for step, (before, after) in enumerate(times, 1))
    assert sum("training continues" in line for line in said) == 1
    assert sum("answers again" in line for line in said) == 1


def test_a_server_that_sends_a_byte_now_and_then_is_left_and_asked_again(server, said, monkeypatch):
    monkeypatch.setattr(bounded, "LONGEST", 2.0)
    with fault_proxy(server.uri) as proxy:
        proxy.play(Fault("trickle head", last=1, seconds=0.2))
        with tracked(proxy.url) as tracker:
            tracker.metrics({"loss": 1.0}, 1)
            tracker.flush(LONG)
    assert server.metrics("loss") == [(1, 1.0)]
    assert any("no answer within 2 s; training continues" in line for line in said)


def test_the_end_of_a_failed_training_does_not_wait_for_a_full_disk(tmp_path, said, monkeypatch):
    from mlflow.exceptions import MlflowException

    def full(*_: object) -> None:
        raise MlflowException("(sqlite3.OperationalError) database or disk is full")

    monkeypatch.setattr(Store, "send", full)
    tracker = tracked(f"sqlite:///{tmp_path}/m.db").__enter__()
    began = time.monotonic()
    tracker.__exit__(ValueError)
    assert time.monotonic() - began < FLUSH_SECONDS / 3
    assert any("disk is full; training continues" in line for line in said)


def test_nothing_that_is_called_waits_for_a_server_that_is_down(server):
    server.down = True
    tracker = tracked(server.uri)
    tracker.__enter__()
    started = time.monotonic()
    for step in range(1000):
        tracker.metrics({"loss": 1.0}, step)
    assert time.monotonic() - started < LONG  # a thousand calls that wait for an answer take longer
    assert tracker.run_id is None


def test_a_run_whose_opening_was_answered_by_nobody_is_not_opened_twice(server):
    server.deaf = True
    with tracked(server.uri) as tracker:
        tracker.metrics({"loss": 1.0}, 1)
        while not server.runs:
            time.sleep(0.01)
        time.sleep(0.1)
        server.deaf = False
    assert len(server.runs) == 1
    assert server.metrics("loss") == [(1, 1.0)]


def test_a_number_that_is_refused_holds_no_other_up(server, said):
    server.refuse = "bad"
    with tracked(server.uri) as tracker:
        for step in range(1, 5):
            tracker.metrics({"bad" if step == 2 else "loss": 1.0}, step)
        tracker.flush()
        left = tracker.unsent()
    assert [record["step"] for record in left] == [2]
    assert [step for step, _ in server.metrics("loss")] == [1, 3, 4]
    assert sum("refuses a record" in line for line in said) == 1


def test_what_could_not_be_sent_is_in_a_file_that_can_be_sent_later_and_again(server, tmp_path, said, monkeypatch):
    monkeypatch.setattr("steps.tracking.tracker.FLUSH_SECONDS", 0.3)
    server.down = True
    tracking = TrackingParams(mlflow_server_uri=server.uri, experiment_name="e")
    with Tracker(tracking, "p finetune", {"pipeline": "p"}, keep=tmp_path / "kept") as tracker:
        tracker.parameters({"seed": 1})
        for step in range(1, 1301):
            tracker.metrics({"loss": float(step), "lr": 0.1}, step)
    file = tmp_path / "kept" / UNSENT
    run, records = read_unsent(file)
    assert (run.name, run.experiment, run.run_id, len(records)) == ("p finetune", "e", "", 1302)
    assert any(str(file) in line and "send-metrics" in line for line in said)
    with pytest.raises(Outage):
        send_metrics(file, server.uri)
    server.down = False
    first = send_metrics(file, server.uri)
    assert send_metrics(file, server.uri) == first
    assert server.metrics("loss") == [(step, float(step)) for step in range(1, 1301)]
    assert len(server.runs) == 1
    assert server.runs[first]["status"] == "FINISHED"
    assert server.runs[first]["params"] == {"seed": "1"}


def test_a_file_of_something_else_is_refused(tmp_path, server):
    file = tmp_path / "x.jsonl"
    file.write_text("{}\n")
    with pytest.raises(UserError, match="a file of unsent metrics"):
        send_metrics(file, server.uri)
    with pytest.raises(UserError, match="no MLFLOW_TRACKING_URI"):
        send_metrics(file)


def test_records_beyond_the_bound_are_counted(server, monkeypatch):
    monkeypatch.setattr("steps.tracking.tracker.MOST_RECORDS", 10)
    server.down = True
    tracker = tracked(server.uri)
    tracker.__enter__()
    for step in range(25):
        tracker.metrics({"loss": 1.0}, step)
    assert (len(tracker.unsent()), tracker.dropped) == (10, 15)
    server.down = False
    tracker.__exit__(None)
    (run,) = server.runs.values()
    assert run["status"] == "FINISHED"


@pytest.mark.parametrize("ours", [True, False])
def test_a_run_is_ended_by_whoever_opened_it(server, monkeypatch, ours):
    if not ours:
        server.answer("/mlflow/runs/create", {})
        monkeypatch.setenv("MLFLOW_RUN_ID", next(iter(server.runs)))
    with tracked(server.uri) as tracker:
        tracker.metrics({"loss": 1.0}, 1)
    (run,) = server.runs.values()
    assert server.metrics("loss") == [(1, 1.0)]
    assert run["status"] == ("FINISHED" if ours else "RUNNING")


# Checkpoints


class SlowStore:
    """Stands for a store whose artifacts arrive when `open` is set."""

    def __init__(self, fails: int = 0):
        self.gate, self.fails, self.got = threading.Event(), fails, {}
        self.run = type("Run", (), {"run_id": "r"})()

    def client(self) -> "SlowStore":
        return self

    def log_artifacts(self, run_id: str, folder: str, place: str) -> None:
        self.gate.wait(1000)
        if self.fails:
            self.fails -= 1
            raise ConnectionError("503 Service Unavailable")
        self.got[place] = sorted(file.name for file in Path(folder).iterdir())


def checkpoint(folder: Path, step: int) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_text(str(step))
    return made


def test_a_slow_store_gets_the_newest_checkpoint_and_the_training_does_not_wait(tmp_path, said):
    import shutil

    store = SlowStore()
    copies = CheckpointCopies(store)
    started = time.monotonic()
    for step in (1, 2, 3, 4):
        made = checkpoint(tmp_path, step)
        copies.offer(made)
        if step == 1:
            while copies._sending is None:
                time.sleep(0.01)
        shutil.rmtree(made)  # as save_total_limit does
    assert time.monotonic() - started < LONG
    store.gate.set()
    copies.close()
    assert store.got == {"checkpoint-1": ["model.safetensors"], "checkpoint-4": ["model.safetensors"]}
    (line,) = [line for line in said if "not copied" in line]
    assert "checkpoint-2" in line
    assert "checkpoint-3" in line
    assert not list(tmp_path.glob(".sending/*"))


def test_a_store_that_answers_503_is_asked_again_and_at_last_let_be(tmp_path, said):
    store = SlowStore(fails=1)
    store.gate.set()
    copies = CheckpointCopies(store)
    copies.offer(checkpoint(tmp_path, 1))
    while "checkpoint-1" not in store.got:
        time.sleep(0.02)
    store.fails = 99
    copies.offer(checkpoint(tmp_path, 2))
    copies.close()
    assert list(store.got) == ["checkpoint-1"]
    assert any("checkpoint-2 (503 Service Unavailable)" in line for line in said)


def test_a_store_that_hangs_is_left_when_time_is_up(tmp_path, said):
    store = SlowStore()
    copies = CheckpointCopies(store)
    copies.offer(checkpoint(tmp_path, 1))
    started = time.monotonic()
    copies.close(0.3)
    assert time.monotonic() - started < LONG
    store.gate.set()
    assert any("checkpoint-1 (time limit reached)" in line for line in said)


@pytest.mark.slow
def test_checkpoints_arrive_in_the_runs_artifacts(tmp_path):
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path}/mlflow.db"
    with tracked(store, hf_mlflow_log_artifacts="1") as tracker:
        tracker.metrics({"loss": 1.0}, 1)
        tracker.checkpoint(checkpoint(tmp_path / "checkpoints", 7))
    client = MlflowClient(store)
    assert [file.path for file in client.list_artifacts(tracker.run_id, "checkpoint-7")] == [
        "checkpoint-7/model.safetensors"
    ]
    assert json.loads(json.dumps(client.get_run(tracker.run_id).data.metrics)) == {"loss": 1.0}


def test_every_variable_that_is_read_is_one_that_tasks_get():
    from collections.abc import Mapping

    from steps.params.registration import TRACKING_VARIABLES, TrackingParams
    from steps.tracking.target import target_of

    class Asked(Mapping):
        def __init__(self):
            self.names = set()

        def __getitem__(self, name):
            self.names.add(name)
            raise KeyError(name)

        def __iter__(self):
            return iter(())

        def __len__(self):
            return 0

    environment = Asked()
    target_of(TrackingParams(), environment)
    # The run belongs to the program that made it, not to a cluster's config map.
    assert environment.names - {"MLFLOW_RUN_ID"} == set(TRACKING_VARIABLES)
