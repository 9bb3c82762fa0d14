"""A model that MLflow knows is one to start from: found by name, pinned by the plan, imported as it was registered."""

import json
import os
import shutil
from pathlib import Path

import pytest
from grids import long_but
from registering import client, flip_bit, registered, settings

from steps.artifacts import read_manifest
from steps.errors import Outage, SecurityRefusal, StepError, UserError
from steps.import_model.step import import_model
from steps.models.identity import model_digest
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.pipelines.chat_completion import ChatCompletionParameters
from steps.plan.sources import ModelFound, look_at_base, look_at_model
from steps.register_model.step import register_model

pytestmark = pytest.mark.slow
COPYING = {"registration": {"registered_model_name": "normaliser", "copy_weights_to_mlflow": True}}


def look(uri: str, **more) -> ModelFound:
    return look_at_model(ChatCompletionParameters(mlflow_model_path=uri, **more))


def imported(found: ModelFound, out: Path) -> str:
    """Import what the plan found; give the digest of the model that arrived."""
    import_model(found.settings, out / "imported", out / "tokenizer")
    return model_digest(out / "imported", read_manifest(out / "imported", "model").files)


def digest(world: dict[str, Path]) -> str:
    return model_digest(world["tuned"], read_manifest(world["tuned"]).files)


def name_of(world: dict[str, Path], form: str) -> str:
    run = client().get_model_version("normaliser", "1")
    forms = {
        "alias": "models:/normaliser@champion",
        "version": "models:/normaliser/1",
        "latest": "models:/normaliser/latest",
        "run": f"runs:/{run.run_id}/{run.source.rsplit('/', 1)[-1]}",
        "folder": str(world["registration"] / "mlflow_model"),
    }
    return forms[form]


@pytest.mark.parametrize("form", ["alias", "version", "latest", "run", "folder"])
def test_a_version_is_its_weights_pinned_to_what_was_registered(world, tmp_path, form):
    register_model(settings(), **world)
    found = look(name_of(world, form))
    assert found.settings.source.uri == str(world["tuned"])
    assert found.settings.registered == (
        "models:/normaliser/1" if form in ("alias", "latest") else name_of(world, form)
    )
    assert imported(found, tmp_path) == digest(world)
    assert read_manifest(tmp_path / "imported").lineage["registered"] == found.settings.registered


KEPT = [(form, copied) for form in ("alias", "version", "run") for copied in (False, True)]


@pytest.mark.parametrize(("form", "copied"), long_but([("alias", True)], KEPT))
def test_a_server_that_keeps_the_artifacts_itself_gives_the_same(
    world, tmp_path, mlflow_server, monkeypatch, form, copied
):
    register_model(settings(), **world) if not copied else None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    register_model(settings(**(COPYING if copied else {})), **world)
    expected, name = digest(world), name_of(world, form)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    if copied:
        shutil.rmtree(world["tuned"])
    found = look(name, mlflow_server_uri=mlflow_server)
    assert imported(found, tmp_path) == expected
    if copied:
        assert found.settings.mlflow_server_uri == mlflow_server
        header = found.files.read_start(found.layout.weights["model.safetensors"], 8)
        assert int.from_bytes(header, "little") > 100


def test_a_version_of_somebody_else_is_imported_as_a_folder_is(world, models, tmp_path, mlflow_server, monkeypatch):
    """The transformers flavour, as mlflow.transformers.log_model writes it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    package = tmp_path / "package"
    shutil.copytree(models["tuned"], package / "model")
    shutil.copytree(models["tuned"], package / "components/tokenizer")
    (package / "MLmodel").write_text("flavors:\n  transformers:\n    framework: pt\n")
    run = client().create_run("0")
    client().log_artifacts(run.info.run_id, str(package), "theirs")
    client().create_registered_model("theirs")
    client().create_model_version("theirs", f"{run.info.artifact_uri}/theirs", run.info.run_id)
    found = look("models:/theirs/1")
    assert found.settings.kind == "mlflow"
    assert found.settings.source.uri == "models:/theirs/1"
    assert imported(found, tmp_path) == digest(world)


def test_every_pipeline_that_takes_a_model_takes_a_registered_one(world):
    register_model(settings(), **world)
    for name, parameters in PARAMETER_MODELS.items():
        given = {"mlflow_model_path": "models:/normaliser@champion"}
        found = look_at_base(parameters.model_construct(**{**_defaults(parameters), **given}))
        assert found.settings.registered == "models:/normaliser/1", name


def _defaults(parameters: type) -> dict:
    return {name: field.get_default(call_default_factory=True) for name, field in parameters.model_fields.items()}


# What is asked for → what the message names.
ABSENT = {
    "models:/normaliser@nobody": r"no alias nobody .*models:/normaliser@champion, models:/normaliser/1",
    "models:/normaliser/7": r"no version 7 .*models:/normaliser/1",
    "models:/normaliser/one": r"no version one .*models:/normaliser/1",
    "models:/normaliser": r"no version or alias .*models:/normaliser@champion",
    "models:/normalizer/1": r"no model 'normalizer' .*normaliser.*did you mean normaliser\?",
    "models:/": r"no model ''.*normaliser",
    "runs:/0123/model": r"no run '0123'.*the newest are ",
    "models:/m-0123": r"m-0123",
}


@pytest.mark.parametrize("uri", ABSENT)
def test_what_does_not_exist_is_refused_with_what_does(world, uri):
    register_model(settings(), **world)
    with pytest.raises(UserError, match=ABSENT[uri]):
        look(uri)


def test_a_path_of_a_run_that_holds_no_model_is_refused_with_what_it_holds(world):
    register_model(settings(), **world)
    run_id = registered(world)["run_id"]
    with pytest.raises(UserError, match=r"no file MLmodel .*model-"):
        look(f"runs:/{run_id}")
    with pytest.raises(UserError, match=r"no file MLmodel .*nothing"):
        look(f"runs:/{run_id}/elsewhere")


def test_other_parameters_say_where_a_registered_model_belongs(world, tmp_path):
    with pytest.raises(UserError, match="mlflow_model_path=models:/normaliser@champion"):
        look_at_model(ChatCompletionParameters(pytorch_model_path="models:/normaliser@champion"))


# How the weights changed after the registration → what the plan says.
CHANGED = {
    "deleted": (shutil.rmtree, "does not exist any more"),
    "a file less": (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing"),
    "shorter": (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "another size"),
    "another bit": (flip_bit, "changed after the registration"),
}


@pytest.mark.parametrize("how", CHANGED)
@pytest.mark.parametrize("form", ["alias", "folder"])
def test_weights_that_are_not_those_that_were_registered_are_refused_by_the_plan(world, how, form):
    register_model(settings(), **world)
    change, said = CHANGED[how]
    change(world["tuned"])
    with pytest.raises(UserError, match=rf"{said}.*copy_weights_to_mlflow"):
        look(name_of(world, form))


def test_weights_that_change_between_plan_and_import_are_refused(world, tmp_path):
    register_model(settings(), **world)
    found = look("models:/normaliser@champion")
    flip_bit(world["tuned"])
    with pytest.raises(UserError, match="changed after the plan"):
        imported(found, tmp_path)


def test_a_version_that_moves_on_does_not_change_what_was_planned(world, tmp_path):
    register_model(settings(), **world)
    found = look("models:/normaliser@champion")
    register_model(settings(max_new_tokens=9), **world)
    assert imported(found, tmp_path) == digest(world)


def test_pickled_weights_are_refused_in_the_registry_too(world, models, tmp_path):
    package = tmp_path / "package"
    (package / "model").mkdir(parents=True)
    for file in models["tuned"].iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, package / "model")
    (package / "model/pytorch_model.bin").write_bytes(b"x")
    (package / "MLmodel").write_text("flavors:\n  transformers: {}\n")
    client().create_registered_model("theirs")
    client().create_model_version("theirs", str(package))
    with pytest.raises(SecurityRefusal, match="pickled"):
        look("models:/theirs/1")


@pytest.mark.parametrize(
    ("server", "error", "said"),
    [
        ("http://127.0.0.1:9", Outage, "an answer"),
        ("sqlite:////nowhere/mlflow.db", UserError, "no database"),
        ("s3://bucket/store", StepError, "s3"),
        ("", UserError, "no MLflow server to look in"),
    ],
)
def test_a_store_that_does_not_answer_is_an_outage_and_one_that_does_not_exist_is_not(monkeypatch, server, error, said):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(error, match=said) as raised:
        look("models:/normaliser@champion", mlflow_server_uri=server)
    assert raised.value.exit_code == (4 if error is Outage else 2)


def test_a_local_run_looks_into_its_own_store(world, tmp_path, monkeypatch):
    register_model(settings(), **world)
    root = Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("FINETUNE_ROOT", str(root))
    assert look("models:/normaliser@champion").settings.registered == "models:/normaliser/1"


def test_the_lineage_names_the_registered_model(world, chat_file):
    from steps.plan.deciding import decide
    from steps.plan.settings import settings_of

    register_model(settings(), **world)
    given = {"mlflow_model_path": "models:/normaliser@champion", "train_file_path": str(chat_file),
             "number_of_gpu_to_use_finetuning": 0, "mlflow_server_uri": os.environ["MLFLOW_TRACKING_URI"]}  # fmt: skip
    made = settings_of(decide("chat_completion", given))["registration"]
    assert json.loads(made.model_dump_json())["lineage"]["model"]["uri"] == "models:/normaliser/1"
