"""register_model: one version by reference, repeatable, loadable without this project."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from registering import METRICS, as_artifact, client, content, holder, registered, settings, write_evaluation

from steps.artifacts import read_manifest
from steps.errors import Outage
from steps.models.identity import model_digest
from steps.register_model import registry
from steps.register_model.step import register_model
from steps.register_model.weights import missing_at

pytestmark = pytest.mark.slow


def test_a_file_of_another_size_is_not_the_one_that_was_measured(tmp_path):
    files = {"model.safetensors": {"size": 5}, "config.json": {"size": 2}}
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    (tmp_path / "config.json").write_bytes(b"{}")
    assert missing_at(str(tmp_path), files) == ""
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    assert missing_at(str(tmp_path), files) == f"{tmp_path} without model.safetensors (1 of 2 files)"


def test_a_registration_is_one_version_with_alias_tags_and_metrics(world):
    assert register_model(settings(), **world) == "models:/normaliser@champion"
    version = client().get_model_version_by_alias("normaliser", "champion")
    tuned = read_manifest(world["tuned"])
    assert version.tags["weights_uri"] == str(world["tuned"])
    assert version.tags["weights_digest"] == model_digest(world["tuned"], tuned.files)
    assert version.tags["data_digest"] == "d" * 64
    assert version.tags["base_model"] == "org/base"
    assert version.tags["tuned/loss"] == "0.5"
    run = client().get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {
        f"{side}/{name}": value for side in ("base", "tuned") for name, value in METRICS[side].items()
    }
    assert run.data.tags["registered_model"] == "normaliser/1"
    assert registered(world) == {
        "name": "normaliser",
        "version": "1",
        "alias": "champion",
        "model_uri": "models:/normaliser@champion",
        "run_id": version.run_id,
        "tracking_uri": os.environ["MLFLOW_TRACKING_URI"],
        "weights_uri": str(world["tuned"]),
    }
    read_manifest(world["registration"], "registration")


def test_the_registry_holds_no_weights(world):
    register_model(settings(), **world)
    version = client().get_model_version("normaliser", "1")
    files = {str(file.relative_to(version.source)): file for file in Path(version.source).rglob("*") if file.is_file()}
    assert not [name for name in files if name.endswith(".safetensors")]
    assert {"artifacts/reference/tokenizer.json", "artifacts/reference/config.json"} <= set(files)
    reference = json.loads(files["artifacts/reference/model_reference.json"].read_text())
    assert reference["files"] == read_manifest(world["tuned"]).files
    needed = files["requirements.txt"].read_text().split()
    assert {"torch==2.13.0", "transformers==5.17.0"} <= set(needed)
    assert {name.split("==")[0] for name in needed} == {
        "mlflow", "torch", "transformers", "safetensors", "jinja2", "fsspec",
    }  # fmt: skip


def test_the_model_card_says_what_it_is_how_good_and_how_to_load_it(world):
    register_model(settings(), **world)
    card = (world["registration"] / "model_card.md").read_text()
    for text in ("# normaliser", "org/base", "s3://bucket/train.jsonl", "| exact_match | 0 | 0.9 | more |",
                 "Passed: loss 0.5", 'load_model("models:/normaliser@champion")', "| learning_rate | 0.003 |",
                 read_manifest(world["tuned"]).digest):  # fmt: skip
        assert text in card


def test_a_metric_that_the_base_has_no_value_of_is_a_dash_in_the_card(world, tmp_path):
    base = {name: value for name, value in METRICS["base"].items() if name != "exact_match"}
    world["evaluation"] = write_evaluation(tmp_path / "other", world["tuned"], base=base)
    register_model(settings(), **world)
    assert "| exact_match | – | 0.9 | more |" in (world["registration"] / "model_card.md").read_text()


def test_the_same_registration_twice_is_one_version(world):
    first = register_model(settings(), **world)
    before = content()
    assert register_model(settings(), **world) == first
    assert content() == before == (1, 1, 1)


def test_other_settings_are_another_version_and_take_the_alias(world):
    register_model(settings(), **world)
    register_model(settings(max_new_tokens=9), **world)
    assert content() == (1, 2, 2)
    assert holder() == "2"


def test_a_version_with_missing_weights_is_not_used_for_new_ones(world, tmp_path):
    moved = Path(shutil.copytree(world["tuned"], tmp_path / "run-2"))
    register_model(settings(), **world)
    register_model(settings(), **{**world, "tuned": moved})
    assert content()[1] == 1  # same bytes, and the first folder is still there
    shutil.rmtree(world["tuned"])
    register_model(settings(), **{**world, "tuned": moved})
    assert [v.tags["weights_uri"] for v in registry.find_versions(*by_key())] == [str(world["tuned"]), str(moved)]


def by_key() -> tuple[MlflowClient, str, str]:
    version = client().get_model_version("normaliser", "1")
    return client(), "normaliser", version.tags[registry.KEY]


def test_a_request_that_was_carried_out_twice_leaves_one_version(world, monkeypatch):
    create = MlflowClient.create_model_version

    def lose_the_first_answer(self, *given, **named):
        create(self, *given, **named)
        return create(self, *given, **named)

    monkeypatch.setattr(MlflowClient, "create_model_version", lose_the_first_answer)
    assert register_model(settings(), **world) == "models:/normaliser@champion"
    assert content() == (1, 1, 1)
    assert registered(world)["version"] == "1"


@pytest.mark.parametrize("used", [False, True])
def test_a_repetition_after_lost_answers_leaves_one_version_but_none_in_use_is_deleted(world, monkeypatch, used):
    create = MlflowClient.create_model_version

    def lose_every_answer(self, *given, **named):
        for _ in range(2):
            create(self, *given, **named)
        raise MlflowException("API request to /create failed with exception Max retries exceeded")

    with monkeypatch.context() as changed:
        changed.setattr(MlflowClient, "create_model_version", lose_every_answer)
        with pytest.raises(Outage):
            register_model(settings(), **world)
    assert content()[1] == 2
    if used:
        client().set_registered_model_alias("normaliser", "tried", "2")
    register_model(settings(), **world)
    assert content()[1] == (2 if used else 1)
    assert registered(world)["version"] == "1"


@pytest.mark.parametrize("call", ["create_model_version", "set_registered_model_alias", "log_artifacts", "log_batch"])
def test_a_registration_that_broke_off_is_finished_by_repeating_it(world, monkeypatch, call):
    done = getattr(MlflowClient, call)

    def lose_the_answer(self, *given, **named):
        done(self, *given, **named)
        raise ConnectionError("the answer got lost")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, lose_the_answer)
        with pytest.raises(Outage):
            register_model(settings(), **world)
        assert not world["registration"].exists()
        assert statuses() <= {"FAILED", "FINISHED"}  # no run stays open if nobody repeats the registration
    assert register_model(settings(), **world) == "models:/normaliser@champion"
    assert content() == (1, 1, 1)
    assert statuses() == {"FINISHED"}


def statuses() -> set[str]:
    runs = client().search_runs([experiment.experiment_id for experiment in client().search_experiments()])
    return {run.info.status for run in runs}


def test_an_alias_that_was_moved_meanwhile_is_left_alone(world, monkeypatch, caplog):
    register_model(settings(), **world)
    client().create_model_version("normaliser", "s3://elsewhere")
    move = registry.move_alias

    def someone_else_first(mlflow, target, version):
        mlflow.set_registered_model_alias(target.name, target.alias, "2")
        return move(mlflow, target, version)

    monkeypatch.setattr(registry, "move_alias", someone_else_first)
    assert register_model(settings(max_new_tokens=9), **world) == "models:/normaliser/3"
    assert holder() == "2"
    assert registered(world)["alias"] == ""
    assert "stays at version 2" in caplog.text


def test_repeating_a_registration_does_not_undo_a_roll_back(world):
    register_model(settings(), **world)
    register_model(settings(max_new_tokens=9), **world)
    client().set_registered_model_alias("normaliser", "champion", "1")
    assert register_model(settings(max_new_tokens=9), **world) == "models:/normaliser/2"
    assert holder() == "1"


def test_registrations_at_the_same_time_all_get_their_version(world, tmp_path):
    def one(number: int) -> str:
        places = {**world, "registration": tmp_path / f"registration-{number}"}
        return register_model(settings(max_new_tokens=number + 1), **places)

    with ThreadPoolExecutor(6) as pool:
        uris = list(pool.map(one, range(6)))
    assert content()[:2] == (1, 6)
    versions = {json.loads((tmp_path / f"registration-{n}/registration.json").read_text())["version"] for n in range(6)}
    assert versions == {str(number) for number in range(1, 7)}
    assert "models:/normaliser@champion" in uris


def test_kubeflows_run_is_used_when_there_is_one(world, monkeypatch):
    run = client().create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    register_model(settings(), **world)
    assert registered(world)["run_id"] == run.info.run_id
    assert content()[2] == 1
    assert client().get_run(run.info.run_id).info.status == "RUNNING"  # Kubeflow ends it


@pytest.mark.parametrize("known", [True, False])
def test_the_run_of_the_training_is_used_when_this_server_has_it(world, models, tmp_path, known):
    run_id = client().create_run("0").info.run_id if known else "0" * 32
    plain = Path(shutil.copytree(models["tuned"], tmp_path / "plain"))
    history = {"steps": 7, "seconds": 2.5, "parameters": {"total": 99, "trainable": 9}, "mlflow_run_id": run_id}
    (plain / "history.json").write_text(json.dumps(history))
    tuned = as_artifact(plain, tmp_path / "tuned-2")
    evaluation = write_evaluation(tmp_path / "evaluation-2", tuned)
    register_model(settings(), **{**world, "tuned": tuned, "evaluation": evaluation})
    assert (registered(world)["run_id"] == run_id) is known
    assert "| trained parameters | 9 of 99 |" in (world["registration"] / "model_card.md").read_text()
    assert content()[2] == 1


def test_metrics_that_the_training_could_not_send_reach_the_run_of_the_version(world, models, tmp_path):
    from steps.tracking import UNSENT
    from steps.tracking.records import TrackedRun, write_unsent

    plain = Path(shutil.copytree(models["tuned"], tmp_path / "plain"))
    records = [{"metrics": {"loss": 1 / step}, "step": step, "time": 1_700_000_000_000 + step} for step in (1, 2, 3)]
    write_unsent(plain / UNSENT, TrackedRun("p finetune", "default", {"pipeline": "p"}, started=5), records)
    tuned = as_artifact(plain, tmp_path / "tuned-2")
    evaluation = write_evaluation(tmp_path / "evaluation-2", tuned)
    given = {**world, "tuned": tuned, "evaluation": evaluation}
    register_model(settings(), **given)
    run_id = registered(world)["run_id"]
    sent = client().get_metric_history(run_id, "loss")
    assert [(one.step, one.value, one.timestamp) for one in sent] == [
        (record["step"], record["metrics"]["loss"], record["time"]) for record in records
    ]
    assert client().get_run(run_id).data.tags["pipeline"] == "chat_completion"  # the version's own tags come after
    assert client().get_run(run_id).info.start_time == 5
    register_model(settings(), **given)
    assert content() == (1, 1, 1)
