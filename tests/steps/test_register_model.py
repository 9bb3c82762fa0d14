"""register_model: one version by reference, repeatable, loadable without this project."""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import build_model
from mlflow import MlflowClient

from steps.artifacts import new_artifact, read_manifest
from steps.errors import Outage, SecurityRefusal, UserError
from steps.params.settings import RegistrationSettings
from steps.register_model import registry
from steps.register_model.candidate import Target, read_target
from steps.register_model.step import register_model
from steps.register_model.weights import masked

pytestmark = pytest.mark.slow

METRICS = {
    "base": {"loss": 4.0, "perplexity": 54.6, "exact_match": 0.0},
    "tuned": {"loss": 0.5, "perplexity": 1.65, "exact_match": 0.9},
    "rows": 100,
    "gate": {"metric": "loss", "base": 4.0, "tuned": 0.5, "min_value": None, "max_value": None,
             "must_beat_base": True, "passed": True, "reason": "Passed: loss 0.5 beats the base model's 4."},
}  # fmt: skip


def as_artifact(folder: Path, target: Path, **lineage: str) -> Path:
    with new_artifact(target, "model", lineage) as draft:
        shutil.copytree(folder, draft.path, dirs_exist_ok=True)
    return target


def write_evaluation(target: Path, tuned: Path, **changes) -> Path:
    inputs = {"base": "b" * 64, "tuned": read_manifest(tuned).digest, "data": "d" * 64}
    with new_artifact(target, "evaluation", {"inputs": inputs}) as draft:
        draft.facts = {"versions": {"torch": "2.13.0+cpu", "transformers": "5.17.0"}}
        (draft / "metrics.json").write_text(json.dumps({**METRICS, **changes}))
    return target


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """An MLflow database without content: its migrations take seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with contextlib.chdir(file.parent):  # MLflow's own first experiment keeps its files below the current folder
        MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_model) -> dict[str, Path]:
    """A base model and a tuned one whose likeliest tokens are clear."""
    folder = tmp_path_factory.mktemp("register")
    build_model(folder / "plain", initializer_range=0.4)
    return {"base": as_artifact(tiny_model, folder / "base", source="tiny"), "tuned": folder / "plain"}


@pytest.fixture
def world(tmp_path, models, empty_database, monkeypatch) -> dict[str, Path]:
    """Everything that register_model takes, in a folder of its own, with its own registry."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    tuned = as_artifact(models["tuned"], tmp_path / "tuned")
    with new_artifact(tmp_path / "merged", "model") as draft:
        draft.same_as = "tuned"
    return {
        "base": models["base"],
        "tuned": tuned,
        "merged": tmp_path / "merged",
        "evaluation": write_evaluation(tmp_path / "evaluation", tuned),
        "registration": tmp_path / "registration",
    }


def settings(**changes) -> RegistrationSettings:
    given = {
        "pipeline": "chat_completion",
        "task": "chat_completion",
        "registration": {"registered_model_name": "normaliser"},
        "max_new_tokens": 8,
        "lineage": {
            "model": {"uri": "org/base", "digest": "c0ffee"},
            "data": {"train": {"uri": "s3://bucket/train.jsonl", "digest": "abc"}},
            "parameters": {"learning_rate": 3e-3, "train_file_path": "s3://bucket/train.jsonl"},
        },
    }
    return RegistrationSettings(**{**given, **changes})


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])


def holder() -> str:
    """The version that the alias points at."""
    return str(client().get_model_version_by_alias("normaliser", "champion").version)


def content() -> tuple[int, int, int]:
    """Registered models, versions and runs."""
    runs = client().search_runs([experiment.experiment_id for experiment in client().search_experiments()])
    return len(client().search_registered_models()), len(client().search_model_versions()), len(runs)


def registered(world: dict[str, Path]) -> dict[str, str]:
    return json.loads((world["registration"] / "registration.json").read_text())


def test_a_registration_is_one_version_with_alias_tags_and_metrics(world):
    assert register_model(settings(), **world) == "models:/normaliser@champion"
    version = client().get_model_version_by_alias("normaliser", "champion")
    tuned = read_manifest(world["tuned"])
    assert version.tags["weights_uri"] == str(world["tuned"])
    assert version.tags["weights_digest"] == tuned.digest
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
    assert register_model(settings(), **world) == "models:/normaliser@champion"
    assert content() == (1, 1, 1)


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


def test_numbers_of_another_model_and_a_gate_that_did_not_pass_are_refused(world, tmp_path):
    other = write_evaluation(tmp_path / "other", world["base"])
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
    assert "python -m steps register-model" in error.value.problems[0].fix
    assert not world["registration"].exists()


FRESH = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
asked = zip(sys.argv[3::2], sys.argv[4::2])
answers = [model.predict(json.loads(text), params=json.loads(params) or None) for text, params in asked]
answers = [answer.to_dict("records") if hasattr(answer, "to_dict") else answer for answer in answers]
ours = [name for name in sys.modules if name.split(".")[0] in ("steps", "pipelines")]
print(json.dumps({"answers": answers, "ours": ours}))
"""


def answers_elsewhere(folder: Path, model: str, *asked: tuple[object, dict]) -> list[list[str]]:
    """Load a registered model in another process, in another folder, without this project; return its answers."""
    words = [json.dumps(part) for pair in asked for part in pair]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, os.environ["MLFLOW_TRACKING_URI"], model, *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ours"] == []
    return told["answers"]


def plain_answers(folder: Path, prompts: list[str], most: int) -> list[str]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    texts = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        output = model.generate(**inputs, do_sample=False, max_new_tokens=most)
        texts.append(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


@pytest.mark.slow
def test_a_fresh_process_loads_the_chat_model_and_answers_as_transformers_does(world, tmp_path):
    uri = register_model(settings(), **world)
    questions = ["What is the capital of France?", "Count to ten", "dog"]
    conversations = [[{"role": "user", "content": text}] for text in questions]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    one, many, prompts, short = answers_elsewhere(
        elsewhere, uri,
        ({"messages": conversations[0]}, {}),
        ([{"messages": messages} for messages in conversations], {}),
        ([{"prompt": text} for text in questions], {}),
        ({"messages": conversations[0]}, {"max_new_tokens": 3}),
    )  # fmt: skip
    rendered = [f"<|im_start|>user\n{text}<|im_end|><|im_start|>assistant\n" for text in questions]
    expected = plain_answers(world["tuned"], rendered, 8)
    assert many == prompts == expected
    assert one == expected[:1]
    assert short == plain_answers(world["tuned"], rendered[:1], 3)
    assert len(set(expected)) == 3


@pytest.mark.slow
def test_a_fresh_process_loads_the_text_model_from_the_runs_folder_and_answers_as_transformers_does(world, tmp_path):
    register_model(settings(task="text_generation"), **world)
    folder = str(world["registration"] / "mlflow_model")
    one, two = answers_elsewhere(tmp_path, folder, ("The quick", {}), (["The quick", "Count to"], {}))
    assert two == plain_answers(world["tuned"], ["The quick", "Count to"], 8)
    assert one == two[:1]


@pytest.mark.slow
def test_a_fresh_process_uses_the_prompt_form_of_the_training(world, tmp_path):
    given = settings(task="translation", prompt_form=("translate English to qaa: ", " ="))
    uri = register_model(given, **world)
    (answers,) = answers_elsewhere(tmp_path, uri, (["The quick", "Count to"], {}))
    prompts = [f"translate English to qaa: {text} =" for text in ("The quick", "Count to")]
    assert answers == plain_answers(world["tuned"], prompts, 8)
    assert answers != plain_answers(world["tuned"], ["The quick", "Count to"], 8)


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True], ids=["one label", "several"])
def test_a_fresh_process_loads_the_classifier_and_labels_as_transformers_does(world, tmp_path, several):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(
        world["base"], id2label={0: "bad", 1: "good", 2: "odd"},
        problem_type="multi_label_classification" if several else "single_label_classification",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(world["base"])
    model.save_pretrained(tmp_path / "labels")
    tokenizer.save_pretrained(tmp_path / "labels")
    tuned = as_artifact(tmp_path / "labels", tmp_path / "classifier")
    evaluation = write_evaluation(tmp_path / "measured", tuned, labels={"base": "Base is the most frequent class."})
    given = settings(task="text_classification", kind="sequence_classification", max_length=12, pairs=not several)
    uri = register_model(given, **{**world, "tuned": tuned, "evaluation": evaluation})
    texts = [("The quick", "brown"), ("Count to ten: 1 2 3 4 5 6 7 8 9 10", "fox"), ("Paris", "is the capital of")]
    asked = [first for first, _ in texts] if several else [{"sentence1": a, "sentence2": b} for a, b in texts]
    (answers,) = answers_elsewhere(tmp_path, uri, (asked, {}))
    for (first, second), answer in zip(texts, answers, strict=True):
        pair = (first,) if several else (first, second)
        ids = tokenizer(*pair, truncation=True, max_length=12, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model.eval()(ids).logits[0].double()
        if several:
            places = [place for place in range(3) if logits[place] > 0]
            assert answer["labels"] == [model.config.id2label[place] for place in places]
            assert answer["probabilities"] == pytest.approx(logits.sigmoid()[places].tolist(), abs=1e-5)
        else:
            assert answer["label"] == model.config.id2label[int(logits.argmax())]
            assert answer["probability"] == pytest.approx(float(logits.softmax(0).max()), abs=1e-5)
    card = (world["registration"] / "model_card.md").read_text()
    assert "most frequent class" in card
    assert ("sentence2" in card) is not several


@pytest.mark.slow
def test_the_printed_command_finishes_the_registration_without_loading_torch(world, monkeypatch, tmp_path):
    up = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(Outage) as error:
        register_model(settings(), **world)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", up)
    _, _, command = error.value.problems[0].fix.partition("python -m steps ")
    report = "import sys, runpy; sys.argv[1:] = sys.argv[1:]\ntry: runpy.run_module('steps', run_name='__main__')\n"
    report += "finally: print('heavy:', sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", report, *shlex.split(command)], capture_output=True, text=True, check=True
    )
    assert '"models:/normaliser@champion"' in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert content() == (1, 1, 1)
