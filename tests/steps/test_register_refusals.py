"""What register_model refuses before anything is created, and what a person reads then."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fault_proxy import Fault, fault_proxy
from mlflow import MlflowClient
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client
from registering import content, registered, settings, write_evaluation
from s3_server import s3_server
from tracking_server import TrackingServer

from steps.errors import Outage, SecurityRefusal, UserError
from steps.params.settings import RegistrationSettings
from steps.register_model.candidate import Target, read_target
from steps.register_model.step import register_model
from steps.register_model.weights import masked
from steps.sources import bounded

pytestmark = pytest.mark.slow


def refused(world: dict[str, Path], given: RegistrationSettings, error: type[Exception], match: str, **more) -> None:
    with pytest.raises(error, match=match):
        register_model(given, **world, **more)
    assert content() == (0, 0, 0)
    assert not world["registration"].exists()


def test_absent_and_partial_weights_are_refused_before_anything_is_created(world, tmp_path):
    refused({**world, "merged": tmp_path / "nowhere"}, settings(), Outage, r"no manifest\.json")
    refused(world, settings(), UserError, "nothing at", tuned_uri=str(tmp_path / "nowhere"))
    refused(world, settings(), UserError, r"without .*model\.safetensors", tuned_uri=str(world["merged"]))
    weights = world["tuned"] / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\x55")
    refused(world, settings(), Outage, "other content")
    weights.write_bytes(whole[:100])
    refused(world, settings(), Outage, "100 bytes instead of")
    weights.unlink()
    refused(world, settings(), Outage, r"model\.safetensors missing")


def test_numbers_of_another_model_and_a_gate_that_did_not_pass_are_refused(world, models, tmp_path):
    other = write_evaluation(tmp_path / "other", models["base"])
    refused({**world, "evaluation": other}, settings(), UserError, "evaluate this model")
    failed = write_evaluation(tmp_path / "failed", world["tuned"], gate={"passed": False, "reason": "too bad"})
    refused({**world, "evaluation": failed}, settings(), UserError, "too bad")


def test_credentials_in_the_uri_of_the_weights_are_refused_and_not_repeated(world):
    with pytest.raises(SecurityRefusal) as error:
        register_model(settings(), **world, tuned_uri="s3://AKIA:hunter2@bucket/tuned")
    assert "hunter2" not in str(error.value)


def test_kfps_name_for_its_object_store_becomes_s3(world, monkeypatch):
    """Nothing answers there, so the registration rests on the bytes that were checked here."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    register_model(settings(), **world, tuned_uri="minio://mlpipeline/v2/artifacts/tuned")
    assert registered(world)["weights_uri"] == "s3://mlpipeline/v2/artifacts/tuned"


def test_every_problem_of_the_target_is_named_at_once(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    bad = settings(registration={"registered_model_name": "a/b", "registered_model_alias": "v3"})
    with pytest.raises(UserError) as error:
        read_target(bad)
    assert [problem.where for problem in error.value.problems] == [
        "mlflow_server_uri", "registered_model_name", "registered_model_alias",
    ]  # fmt: skip


@pytest.mark.parametrize("uri", ["{}/mlruns", "file://{}/mlruns"])
def test_a_folder_gets_a_database(world, tmp_path, uri):
    register_model(settings(tracking={"mlflow_server_uri": uri.format(tmp_path)}), **world)
    database = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert registered(world)["tracking_uri"] == database
    assert MlflowClient(tracking_uri=database).get_model_version("normaliser", "1").version == 1


@pytest.mark.parametrize("name", ["x", "My model 2", "a.b-c_d", "übersetzer"])
def test_mlflow_takes_the_names_that_are_let_through(name):
    from mlflow.utils.validation import _validate_model_name

    assert read_target(settings(registration={"registered_model_name": name}, tracking=LOCAL)).name == name
    _validate_model_name(name)


LOCAL = {"mlflow_server_uri": "sqlite:///x.db"}


@pytest.mark.parametrize("name", ["a:b", "../x", "a'b", " ", "x" * 201, "a\nb"])
def test_names_that_mlflow_or_its_search_would_misread_are_refused(name):
    with pytest.raises(UserError, match="registered_model_name"):
        read_target(settings(registration={"registered_model_name": name}, tracking=LOCAL))


def test_the_pipelines_name_stands_in_for_an_empty_one():
    target = read_target(settings(registration={}, tracking=LOCAL))
    assert target == Target("sqlite:///x.db", "default", "chat_completion", "champion")


def test_credentials_are_masked_wherever_they_stand():
    value = {"a": ["https://me:secret@host/x", "token hf_abcdefghijklmnop"], "b": 3}
    assert masked(value) == {"a": ["https://***@host/x", "token …"], "b": 3}


def test_a_server_that_is_down_is_an_outage_and_says_how_to_finish(world, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    given = settings(tracking={"mlflow_server_uri": "http://me:secret@127.0.0.1:9"})
    with pytest.raises(Outage) as error:
        register_model(given, **world)
    assert error.value.exit_code == 4
    assert "secret" not in str(error.value)
    assert error.value.resume_from.startswith("python -m steps register-model ")
    assert "secret" not in error.value.resume_from
    assert len(str(error.value)) < 600
    assert "run again when MLflow answers" in str(error.value)
    assert not world["registration"].exists()


def test_a_server_that_sends_a_byte_now_and_then_is_an_outage(world, monkeypatch, tmp_path):
    monkeypatch.setattr(bounded, "LONGEST", 0.5)
    server = TrackingServer(tmp_path / "artifacts")
    with fault_proxy(server.uri) as proxy:
        proxy.play(Fault("trickle head", seconds=0.2))
        with pytest.raises(Outage, match=r"NoAnswer: no answer within 0\.5 s") as error:
            register_model(settings(tracking={"mlflow_server_uri": proxy.url}), **world)
    server.close()
    assert error.value.resume_from.startswith("python -m steps register-model ")
    assert not world["registration"].exists()


@pytest.mark.parametrize("key", ["", "a", "the right one"])
def test_an_artifact_store_that_lets_nobody_write_is_the_users_to_open(world, monkeypatch, tmp_path, key):
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # these two would still have the key of the test before
    _cached_get_s3_client.cache_clear()
    with s3_server(tmp_path, "mlflow") as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        for name, value in keys.items():
            monkeypatch.setenv(name, key if key == "a" else value)
            if not key:
                monkeypatch.delenv(name)
        MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).create_experiment("on s3", artifact_location="s3://mlflow")
        given = settings(tracking={"experiment_name": "on s3"})
        if key == "the right one":
            register_model(given, **world)
            assert registered(world)["version"] == "1"
            return
        with pytest.raises(UserError, match="REGISTER-E0210") as error:
            register_model(given, **world)
        assert "expected credentials that may write there" in str(error.value)
        assert ("InvalidAccessKeyId" if key else "NoCredentialsError") in str(error.value)
        assert not world["registration"].exists()


def test_the_command_of_the_error_finishes_the_registration_without_loading_torch(world, monkeypatch, tmp_path):
    up = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(Outage) as error:
        register_model(settings(), **world)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", up)
    _, _, command = error.value.resume_from.partition("python -m steps ")
    report = "import sys, runpy; sys.argv[1:] = sys.argv[1:]\ntry: runpy.run_module('steps', run_name='__main__')\n"
    report += "finally: print('heavy:', sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", report, *shlex.split(command)], capture_output=True, text=True, check=True
    )
    assert '"models:/normaliser@champion"' in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert content() == (1, 1, 1)
