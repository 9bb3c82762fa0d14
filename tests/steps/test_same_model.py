"""The same model is one version, wherever its files are and whatever is told about it; another model is another one."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from grids import long_but
from registering import as_artifact, client, content, flip_bit, registered, settings, write_evaluation
from safetensors.torch import load_file, save_file

from steps.models.identity import model_digest
from steps.models.layout import INDEX
from steps.register_model.step import register_model
from steps.register_model.verifying import verify_model
from steps.tracking import UNSENT
from steps.tracking.records import TrackedRun, write_unsent

pytestmark = pytest.mark.slow


def write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def change(file: Path, **keys) -> None:
    write(file, json.dumps({**json.loads(file.read_text()), **keys}, indent=3))


def shard(folder: Path) -> None:
    """Write the weights as three files with an index, as save_pretrained does for large models."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"part-{number % 3}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / file, {"format": "pt"})
    write(folder / INDEX, json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))


def rewrite(folder: Path) -> None:
    """Write the same tensors in another order with other metadata."""
    tensors = load_file(folder / "model.safetensors")
    save_file(dict(reversed(tensors.items())), folder / "model.safetensors", {"format": "pt", "by": "another tool"})


def halve(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in tensors.items()}, folder / "model.safetensors")


def rename(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    first, second = sorted(name for name in tensors if "q_proj" in name)[:2]
    tensors[first], tensors[second] = tensors[second], tensors[first]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


HISTORY = {"steps": 7, "seconds": 2.5, "parameters": {"total": 99, "trainable": 9}}
SAME = {
    "another folder": lambda folder: None,
    "three shards": shard,
    "other metadata": rewrite,
    "another file name": lambda folder: (folder / "model.safetensors").rename(folder / "weights.safetensors"),
    "another history": lambda folder: write(folder / "history.json", json.dumps(HISTORY)),
    "another card": lambda folder: write(folder / "README.md", "# better"),
    "a licence": lambda folder: write(folder / "LICENSE", "as is"),
    "metrics that were not sent": lambda folder: write_unsent(
        folder / UNSENT, TrackedRun("p finetune", "default"), [{"metrics": {"loss": 1.0}, "step": 1, "time": 1}]
    ),
    "saved by another version": lambda folder: change(folder / "config.json", transformers_version="4.0.0"),
    "another origin": lambda folder: change(folder / "config.json", _name_or_path="/elsewhere"),
}
OTHER = {
    "one bit": flip_bit,
    "another type": halve,
    "two tensors exchanged": rename,
    "another tokenizer": lambda folder: write(folder / "tokenizer.json", (folder / "tokenizer.json").read_text() + " "),
    "another template": lambda folder: write(folder / "chat_template.jinja", "{{ messages }}"),
    "another setting": lambda folder: change(folder / "config.json", rms_norm_eps=1e-3),
    "another end": lambda folder: change(folder / "generation_config.json", eos_token_id=7),
    "another limit of the tokenizer": lambda folder: change(folder / "tokenizer_config.json", model_max_length=9),
}


@pytest.fixture
def variant(models, tmp_path):
    """Make an artifact of the tuned model with a change, and what measures it."""

    def made(change, name: str) -> dict[str, Path]:
        plain = Path(shutil.copytree(models["tuned"], tmp_path / f"plain-{name}"))
        change(plain)
        tuned = as_artifact(plain, tmp_path / f"tuned-{name}")
        evaluation = write_evaluation(tmp_path / f"evaluation-{name}", tuned)
        return {"tuned": tuned, "evaluation": evaluation, "registration": tmp_path / f"registration-{name}"}

    return made


@pytest.mark.parametrize("how", SAME)
def test_the_same_model_is_the_same_version(world, variant, how):
    first = register_model(settings(), **world)
    again = {**world, **variant(SAME[how], "again")}
    assert register_model(settings(), **again) == first
    assert content()[1] == 1
    assert registered(again)["version"] == "1"


def test_what_is_told_about_a_run_is_no_other_model(world):
    """Three of the ways in which one training became three versions."""
    register_model(settings(), **world)
    for told in (
        {"pipeline": "text_generation"},
        {"tracking": {"experiment_name": "another"}},
        {"lineage": {"data": {"train": {"uri": "s3://elsewhere/train.jsonl", "digest": "abc"}}}},
    ):
        register_model(settings(**told), **world)
    assert content()[1] == 1


@pytest.mark.parametrize("how", OTHER)
def test_another_model_is_another_version(world, variant, how):
    register_model(settings(), **world)
    other = {**world, **variant(OTHER[how], "other")}
    register_model(settings(), **other)
    assert content()[1] == 2
    assert registered(other)["version"] == "2"


def test_the_digest_reads_only_what_a_model_is_loaded_from(models, tmp_path):
    folder = Path(shutil.copytree(models["tuned"], tmp_path / "model"))
    names = [file.name for file in folder.iterdir()]
    before = model_digest(folder, names)
    (folder / "optimizer.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert model_digest(folder, [*names, "optimizer.safetensors"]) == before


def test_another_alias_is_set_on_the_version_that_exists(world):
    register_model(settings(), **world)
    both = settings(registration={"registered_model_name": "normaliser", "registered_model_alias": "candidate"})
    assert register_model(both, **world) == "models:/normaliser@candidate"
    aliases = client().get_registered_model("normaliser").aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": "1", "candidate": "1"}
    assert content()[1] == 1


def test_the_same_model_registered_at_once_from_several_folders_is_one_version(
    world, variant, mlflow_server, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    given = [{**world, **variant(lambda folder: None, str(number))} for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        uris = list(pool.map(lambda one: register_model(settings(), **one), given))
    assert {registered(one)["version"] for one in given} == {registered(given[0])["version"]}
    assert set(uris) == {"models:/normaliser@champion"}
    assert content()[:2] == (1, 1)
    runs = client().search_runs(["0", *(one.experiment_id for one in client().search_experiments())])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert verify_model("normaliser")["verdict"] == "as registered"  # no file is another one's, also through a server


COPYING = {"registration": {"registered_model_name": "normaliser", "copy_weights_to_mlflow": True}}


@pytest.mark.parametrize("when", long_but(["later, in other files"], ["at once", "later", "later, in other files"]))
def test_a_version_with_a_copy_of_the_weights_loads_without_the_folder(
    world, variant, mlflow_server, monkeypatch, when
):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    if when != "at once":
        register_model(settings(), **world)
    given = {**world, **variant(shard, "sharded")} if "other files" in when else world
    register_model(settings(**COPYING), **given)
    assert content()[1] == 1
    shutil.rmtree(world["tuned"])
    shutil.rmtree(given["tuned"], ignore_errors=True)
    model = mlflow.pyfunc.load_model("models:/normaliser@champion")
    assert len(model.predict([{"prompt": "hi"}])) == 1


def test_a_version_whose_folder_is_gone_says_so_and_is_not_used_again(world, variant, caplog):
    import mlflow

    register_model(settings(), **world)
    folder = world["tuned"]
    again = {**world, **variant(lambda folder: None, "again")}
    shutil.rmtree(folder)
    with pytest.raises(OSError, match=f"gone: {folder} does not exist any more"):
        mlflow.pyfunc.load_model("models:/normaliser/1")
    with caplog.at_level("WARNING", "finetune"):
        register_model(settings(), **again)
    assert registered(again)["version"] == "2"
    assert (
        f"version 1 of normaliser is this model too, but cannot be loaded any more: nothing at {folder}" in caplog.text
    )
