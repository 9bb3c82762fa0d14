"""Values with a closed meaning, and where metrics, versions and checkpoints go: told by the plan."""

import os
import re
import shutil
import sqlite3
import threading
import time

import pytest
from conftest import chat_rows, write_jsonl
from stores import ROOT, objects
from waiting import LONG

from steps.errors import Outage, UserError
from steps.params.reading import read_parameters
from steps.plan.deciding import decide


@pytest.fixture
def given(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    rows = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    return {"pytorch_model_path": str(tiny_model), "train_file_path": str(rows), "number_of_gpu_to_use_finetuning": 0}


def problems(given, **changes) -> list[str]:
    try:
        decide("chat_completion", {**given, **changes})
    except UserError as error:
        return [str(problem) for problem in error.problems]
    return []


# resume_from_checkpoint

SOURCES = {"pytorch_model_path": "m", "train_file_path": "t"}


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("true", "true"), ("True", "true"), ("yes", "true"), ("on", "true"), ("1", "true"), (1, "true"),
        (True, "true"), ("false", "false"), ("False", "false"), ("no", "false"), ("off", "false"), ("0", "false"),
        (0, "false"), (False, "false"), ("", "false"), ("auto", "auto"), ("AUTO", "auto"),
    ],
)  # fmt: skip
def test_a_switch_that_is_a_text_is_read_in_every_spelling(value, meant):
    read = read_parameters("chat_completion", {**SOURCES, "resume_from_checkpoint": value}).parameters
    assert read.resume_from_checkpoint == meant
    if meant != "auto" and value != "":
        assert read_parameters("chat_completion", {**SOURCES, "deepspeed": value}).parameters.deepspeed == meant


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("tru", "PARAM-E0219 resume_from_checkpoint: found 'tru'; .*did you mean true"),
        ("flase", "PARAM-E0219 .*did you mean false"),
        ("500", "PARAM-E0219 .*whole path of a checkpoint folder"),
        ("2", "PARAM-E0219"),
        ("latest", "PARAM-E0219"),
        ("last-checkpoint", "PARAM-E0219"),
        ("checkpoint-20", "PLAN-E0364 resume_from_checkpoint: found nothing at 'checkpoint-20'"),
        ("gone/checkpoint-20", "PLAN-E0364 .*found nothing at 'gone/checkpoint-20'"),
        ("./rows.jsonl", "PLAN-E0364 .*found a file at"),
        ("./empty", "PLAN-E0364 .*found './empty' without manifest.json.*name another folder"),
        ("./several", r"PLAN-E0364 .*found './several' without manifest.json.*such as several/checkpoint-100"),
        ("hf://bucket/checkpoint-20", "PLAN-E0364 .*a URI with one of abfs, "),
        ("s3a://bucket/checkpoint-20", "PLAN-E0364 .*write s3://"),
        ("s3:///checkpoint-20", "URI-E0205 .*no bucket"),
    ],
)
def test_what_cannot_be_resumed_is_told_before_anything_runs(given, tmp_path, value, words):
    (tmp_path / "empty").mkdir()
    for name in ("checkpoint-20", "checkpoint-100"):
        (tmp_path / "several" / name).mkdir(parents=True)
    (told,) = problems(given, resume_from_checkpoint=value)
    assert re.search(words, told), told


def test_a_checkpoint_that_is_there_is_accepted(given, tmp_path):
    (tmp_path / "some/checkpoint-20").mkdir(parents=True)
    (tmp_path / "some/checkpoint-20/manifest.json").write_text("{}")
    assert problems(given, resume_from_checkpoint="some/checkpoint-20") == []


def test_on_a_cluster_a_checkpoint_may_be_on_a_volume_of_its_own(given, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT")
    cluster = {**given, "mlflow_server_uri": "http://m", "checkpoint_dir": "/volume"}
    assert problems(cluster, resume_from_checkpoint="/volume/checkpoint-20") == []
    assert "PARAM-E0219" in problems(cluster, resume_from_checkpoint="tru")[0]


def test_a_file_in_the_place_of_the_checkpoints_is_told(given, tmp_path):
    for folder in ("rows.jsonl", "rows.jsonl/below"):
        (told,) = problems(given, checkpoint_dir=folder)
        assert told.startswith("PLAN-E0363 checkpoint_dir: found rows.jsonl")
        assert f"where {tmp_path}/rows.jsonl is a file" in told
    assert problems(given, checkpoint_dir="new/folder") == []


def test_a_place_that_takes_no_folder_is_told_and_nothing_is_left_in_one_that_does(given, tmp_path):
    (told,) = problems(given, checkpoint_dir="/proc/new")
    assert told.startswith("PLAN-E0363 checkpoint_dir: found /proc/new, where /proc cannot be written")
    before = sorted(tmp_path.iterdir())
    assert problems(given, checkpoint_dir="new/folder", mlflow_server_uri="other/folder") == []
    assert sorted(tmp_path.iterdir()) == before


# Object stores


@pytest.fixture
def on_cluster(given, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT")
    return {**given, "mlflow_server_uri": "http://m"}


def test_a_store_that_can_be_written_is_accepted_and_nothing_is_left_there(on_cluster, memory):
    assert problems(on_cluster, checkpoint_dir=ROOT, resume_from_checkpoint="auto") == []
    assert objects(memory) == {}


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (
            "hf://owner/repo",
            "PLAN-E0301 checkpoint_dir: found the scheme hf://; expected a folder, or a URI with one of",
        ),
        ("s3a://bucket/x", "PLAN-E0301 .*write s3://"),
        ("https://host/x", "PLAN-E0301 .*name a folder, or a bucket"),
        ("s3://", "URI-E0205"),
        ("s3://bucket/a\\b", "URI-E0101"),
    ],
)
def test_a_place_that_no_checkpoint_can_be_written_to_is_told(on_cluster, uri, words):
    (told,) = problems(on_cluster, checkpoint_dir=uri)
    assert re.search(words, told), told


def test_a_store_that_refuses_is_told(on_cluster, memory):
    def refuse(*_, **__):
        raise PermissionError("Access Denied")

    memory.pipe_file = refuse
    (told,) = problems(on_cluster, checkpoint_dir=ROOT)
    found = f"URI-E0202 checkpoint_dir: found no access to '{ROOT}' (Access Denied); "
    assert told.startswith(f"{found}expected credentials with read and write access")


def test_without_credentials_only_a_run_that_trains_here_is_refused(given, on_cluster, memory, monkeypatch):
    class NoCredentialsError(Exception):
        pass

    def refuse(*_, **__):
        raise NoCredentialsError("Unable to locate credentials")

    NoCredentialsError.__module__ = "botocore.exceptions"
    memory.pipe_file = memory.find = refuse
    asked = {"checkpoint_dir": ROOT, "resume_from_checkpoint": f"{ROOT}/checkpoint-5"}
    assert problems(on_cluster, **asked) == []
    monkeypatch.setenv("FINETUNE_ROOT", "root")
    told = problems(given, **asked)
    assert [one.partition(":")[0] for one in told] == ["URI-E0202 checkpoint_dir", "URI-E0202 resume_from_checkpoint"]


def test_a_store_that_does_not_answer_is_an_outage_in_seconds(on_cluster, memory, monkeypatch):
    monkeypatch.setattr("steps.plan.place.STORE_SECONDS", 0.3)
    asked_for = threading.Event()
    memory.pipe_file = lambda *_, **__: asked_for.wait(1000)
    began = time.monotonic()
    with pytest.raises(Outage, match=r"URI-E0401 checkpoint_dir: found no answer within 0.3 s"):
        decide("chat_completion", {**on_cluster, "checkpoint_dir": ROOT})
    asked_for.set()
    assert time.monotonic() - began < LONG


def test_a_checkpoint_in_a_store_is_looked_at(on_cluster, memory):
    for name in ("a/checkpoint-9/manifest.json", "a/checkpoint-10/manifest.json", "b/file"):
        memory().pipe_file(f"/bucket/checkpoints/{name}", b"{}")
    assert problems(on_cluster, resume_from_checkpoint=f"{ROOT}/a/checkpoint-9") == []  # without a checkpoint_dir
    (told,) = problems(on_cluster, resume_from_checkpoint=f"{ROOT}/a/")
    assert f"'{ROOT}/a' without manifest.json" in told
    assert told.endswith(f"Fix: name one of them, such as {ROOT}/a/checkpoint-10.")
    (told,) = problems(on_cluster, resume_from_checkpoint=f"{ROOT}/b")
    assert told.endswith("Fix: name another folder.")
    (told,) = problems(on_cluster, resume_from_checkpoint=f"{ROOT}/gone/checkpoint-1")
    assert told.startswith(f"PLAN-E0364 resume_from_checkpoint: found nothing at '{ROOT}/gone/checkpoint-1'")


def test_a_misspelled_switch_of_deepspeed_is_told(given):
    (told,) = problems(given, apply_deepspeed=True, deepspeed="tru")
    assert "PARAM-E0273 deepspeed: found 'tru'; expected true, or a file. Fix: did you mean true?" in told


# MLflow

ADDRESSES = {
    "htp://m": "with the scheme htp; .*did you mean http",
    "postgres://host/name": "with the scheme postgres; .*did you mean postgresql",
    "s3://bucket/mlruns": "with the scheme s3",
    "localhost:5000": "write http://localhost:5000",
    "mlflow.example:80/path": "write http://mlflow.example:80/path",
    "http:m": "write http://host:port",
    "http:/m": "expected http://host:port",
    "http://": "expected http://host:port",
    "http://m:port": "expected http://host:port",
    "https://m:70000": "expected https://host:port",
    "http://a b": "remove the blanks",
    " http://m": "remove the blanks",
    "http://m\n": "remove the blanks",
    "sqlite://mlflow.db": "write sqlite:///mlflow.db",
    "sqlite:///": "write sqlite:///mlflow.db",
    "sqlite:///:memory:": "write sqlite:///mlflow.db",
    "sqlite:///folder": "name a file in it: sqlite:///folder/mlflow.db",
    "sqlite:///rows.jsonl": "expected a file of SQLite",
    "sqlite:///rows.jsonl/mlflow.db": "a folder that can be written, unlike",
    "rows.jsonl": "a folder that can be written, unlike",
    "/proc/new": "a folder that can be written, unlike /proc",
    "x y": "write http://… for a server, or ./x y for a folder",
    "http//m": "for a server",
    "localhost": "for a server",
    "mlflow.example.com": "for a server",
    "None": "for a server",
}


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("by", ["mlflow_server_uri", "MLFLOW_TRACKING_URI"])
def test_an_address_that_mlflow_cannot_use_is_told(given, tmp_path, monkeypatch, address, by):
    (tmp_path / "folder").mkdir()
    if by == "MLFLOW_TRACKING_URI":
        monkeypatch.setenv(by, address)
        found = problems(given)
    else:
        found = problems(given, mlflow_server_uri=address)
    (told,) = found
    assert told.startswith(f"PLAN-E0371 {by}: found ")
    assert re.search(ADDRESSES[address], told), told


@pytest.mark.parametrize(
    "address",
    ["http://m", "https://m:443/path/", "http://127.0.0.1:5000", "http://[::1]:5000", "databricks", "databricks-uc",
     "databricks://profile", "uc:http://host", "postgresql://host/name", "postgresql+psycopg2://host/name", "mlruns",
     "sqlite:///new/mlflow.db", "file:mlruns", "file:///tmp/some where/mlruns", "folder/with blank", ""],
)  # fmt: skip
def test_addresses_of_every_known_kind_are_accepted(given, address):
    assert problems(given, mlflow_server_uri=address) == []


def test_a_scheme_of_a_plugin_is_accepted(given, monkeypatch):
    from importlib.metadata import EntryPoint

    from steps.plan import tracking

    plugin = EntryPoint("aliyun", "module:store", tracking.PLUGINS)
    monkeypatch.setattr(tracking, "entry_points", lambda group: [plugin])
    assert problems(given, mlflow_server_uri="aliyun://store") == []


@pytest.fixture(scope="module")
def deleted(tmp_path_factory):
    """An MLflow store with the experiments kept and gone, the second deleted."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("store")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.create_experiment("kept")
    number = client.create_experiment("gone")
    client.delete_experiment(number)
    return folder, number


@pytest.mark.parametrize("form", ["sqlite:///{}/mlflow.db", "file://{}", "{}"])
def test_a_deleted_experiment_is_told(given, deleted, form):
    folder, number = deleted
    address = form.format(folder)
    (told,) = problems(given, mlflow_server_uri=address, experiment_name="gone")
    assert told.startswith("PLAN-E0373 experiment_name: found 'gone', which was deleted")
    assert f"mlflow experiments restore --experiment-id {number}" in told
    for name in ("kept", "new", "default"):
        assert problems(given, mlflow_server_uri=address, experiment_name=name) == []


def test_a_deleted_experiment_of_the_environment_and_of_local_runs_is_told(given, deleted, tmp_path, monkeypatch):
    folder, _ = deleted
    (tmp_path / "root").mkdir()
    shutil.copy(folder / "mlflow.db", tmp_path / "root/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gone")
    assert problems(given)[0].startswith("PLAN-E0373 MLFLOW_EXPERIMENT_NAME: found 'gone'")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "kept")
    assert problems(given) == []


def test_a_server_is_asked_for_its_experiment(given, monkeypatch):
    import json
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            stage = "deleted" if self.path.endswith("=old%20one") else "active"
            body = json.dumps({"experiment": {"experiment_id": "7", "lifecycle_stage": stage}}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        (told,) = problems(given, mlflow_server_uri=address, experiment_name="old one")
        assert problems(given, mlflow_server_uri=address, experiment_name="new") == []
        server.shutdown()
    assert "restore --experiment-id 7" in told
    assert asked[0] == "/api/2.0/mlflow/experiments/get-by-name?experiment_name=old%20one"
    assert problems(given, mlflow_server_uri=address, experiment_name="old one") == []  # it is down


@pytest.mark.parametrize("name", ["x" * 501, "two\nlines"])
def test_a_name_that_no_experiment_can_have_is_told(given, name):
    assert problems(given, experiment_name=name)[0].startswith("PLAN-E0372 experiment_name")


@pytest.mark.parametrize("name", ["a/b", "a:b", " ", "..", "x" * 201, "/", "a\nb"])
def test_a_name_that_the_registry_refuses_is_told(given, name):
    assert problems(given, registered_model_name=name)[0].startswith("REGISTER-E0202 registered_model_name")


def test_a_damaged_or_empty_store_is_left_to_mlflow(given, tmp_path):
    (tmp_path / "empty.db").touch()
    assert problems(given, mlflow_server_uri="sqlite:///empty.db") == []
    with sqlite3.connect(tmp_path / "other.db") as store:
        store.execute("CREATE TABLE other (name TEXT)")
    assert problems(given, mlflow_server_uri="sqlite:///other.db") == []
    assert os.path.getsize(tmp_path / "other.db") > 0


@pytest.mark.parametrize("name", ["mlflow_config_map", "huggingface_token_secret", "node_pool_label"])
@pytest.mark.parametrize("value", ["two words", "-first", "last-", "a/b/c", "ä", "x" * 300])
def test_a_name_that_kubernetes_cannot_have_is_told(given, name, value):
    (told,) = problems(given, **{name: value})
    assert told.startswith(f"PLAN-E0366 {name}: found ")


@pytest.mark.parametrize(
    ("name", "value"),
    [("mlflow_config_map", "team.mlflow-2"), ("node_pool_label", "example.com/Pool_1"), ("node_pool_label", "pool")],
)
def test_names_that_kubernetes_has_are_accepted(given, name, value):
    assert problems(given, **{name: value}) == []
