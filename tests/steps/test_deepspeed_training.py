"""Training with DeepSpeed in one process equals the same training without it, and can be resumed."""

import os
import subprocess
import sys
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import pytest
from classifiers import build_bert, data_settings, label_rows
from training_inputs import TRAINING, as_imported, settings_with, train

from steps.errors import NumericError, UserError
from steps.finetune.checkpoints import folder_for
from steps.launch.deepspeed_config import BUILT_IN
from steps.params.lora import LoraParams
from steps.params.settings import FinetuneSettings
from steps.params.training import CheckpointParams, TrainingParams

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("deepspeed"), reason="needs deepspeed"),
    pytest.mark.usefixtures("local_root"),
]


def config(stage: str, **changes) -> dict:
    """Give a built-in configuration as the plan hands it on."""
    return {**deepcopy(BUILT_IN[stage]), "zero_force_ds_cpu_optimizer": False, **changes}


def weights(out: Path) -> dict:
    from safetensors.numpy import load_file

    return load_file(next((out / "tuned").glob("*.safetensors")))


def assert_same(plain: dict, ours: dict, plain_out: Path, out: Path, within: float = 1e-5) -> None:
    """Both histories tell the same losses, and both models hold the same tensors."""
    for what in ("points", "evaluations"):
        assert [one["loss"] for one in ours[what]] == pytest.approx([one["loss"] for one in plain[what]], abs=within)
    assert ours["parameters"] == plain["parameters"]
    theirs, mine = weights(plain_out), weights(out)
    assert mine.keys() == theirs.keys()
    assert all(mine[name] == pytest.approx(theirs[name], abs=within) for name in theirs)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_losses_and_weights_are_those_of_a_training_without_deepspeed(model, data, tmp_path, lora):
    same = {"lora": LoraParams(apply_lora=lora)}
    accumulated = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    plain = train(settings_with(accumulated, **same), model, data, tmp_path / "plain")
    before = dict(os.environ)
    for stage in BUILT_IN:
        out = tmp_path / f"zero{stage}"
        ours = train(settings_with(accumulated, deepspeed=config(stage), **same), model, data, out)
        assert len(ours["points"]) >= 20
        assert_same(plain, ours, tmp_path / "plain", out)
    assert dict(os.environ) == before


@pytest.mark.parametrize("stage", ["2", "3"])
def test_sixteen_bits_train_and_come_out_whole(model, data, tmp_path, stage):
    half = {"precision": "16", "gradient_checkpointing": "true"}
    plain = train(settings_with(half), model, data, tmp_path / "plain")
    ours = train(settings_with(half, deepspeed=config(stage)), model, data, tmp_path / "ours")
    # DeepSpeed keeps weights in bfloat16 too, where the plain training keeps 32 bits: three digits agree.
    losses = [point["loss"] for point in plain["points"]]
    assert [point["loss"] for point in ours["points"]] == pytest.approx(losses, abs=0.01)
    assert {name: tensor.dtype for name, tensor in weights(tmp_path / "ours").items()} == {
        name: tensor.dtype for name, tensor in weights(tmp_path / "plain").items()
    }


@pytest.mark.parametrize("stage", ["2", "3"])
def test_a_resumed_training_ends_as_an_unbroken_one(model, data, tmp_path, monkeypatch, stage):
    settings = settings_with(
        deepspeed=config(stage), checkpoints=CheckpointParams(save_steps=4, keep_checkpoints="true")
    )
    unbroken = train(settings, model, data, tmp_path / "unbroken")
    folder = folder_for(settings, _inputs(model, data), tmp_path / "none")
    for checkpoint in folder.path.glob("checkpoint-*"):
        if int(checkpoint.name.rsplit("-", 1)[-1]) > 8:
            import shutil

            shutil.rmtree(checkpoint)
    assert (folder.path / "checkpoint-8/latest").read_text() == "global_step8"
    resumed = settings.model_copy(update={"checkpoints": CheckpointParams(save_steps=4, resume_from_checkpoint="true")})
    history = train(resumed, model, data, tmp_path / "resumed")
    assert history["resumed_from"] == 8
    assert_same(unbroken, history, tmp_path / "unbroken", tmp_path / "resumed", within=1e-6)


def _inputs(model: Path, data: Path) -> dict[str, str]:
    from steps.artifacts import read_manifest

    return {"model": read_manifest(model).digest, "data": read_manifest(data).digest}


def test_zero_3_saves_a_new_head_and_the_names_of_the_base(tmp_path, monkeypatch):
    from steps.prepare_data.step import prepare_data

    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    build_bert(tmp_path / "source")
    base = as_imported(tmp_path / "source", tmp_path / "model")
    data = tmp_path / "data"
    prepare_data(data_settings(tmp_path / "rows", label_rows(60)), base, data, tmp_path / "data.html")
    training = TrainingParams(**{**TRAINING, "max_steps": 6})
    settings = FinetuneSettings(
        pipeline="text_classification", kind="sequence_classification", training=training, max_length=32
    )
    plain = train(settings, base, data, tmp_path / "plain")
    ours = train(settings.model_copy(update={"deepspeed": config("3")}), base, data, tmp_path / "ours")
    assert_same(plain, ours, tmp_path / "plain", tmp_path / "ours")


def test_zero_3_refuses_to_replace_a_last_layer_of_other_classes(tmp_path, monkeypatch):
    from transformers import AutoModelForSequenceClassification

    from steps.prepare_data.step import prepare_data

    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    build_bert(tmp_path / "source")
    five = AutoModelForSequenceClassification.from_pretrained(tmp_path / "source", num_labels=5)
    five.save_pretrained(tmp_path / "source")
    base = as_imported(tmp_path / "source", tmp_path / "model")
    data = tmp_path / "data"
    prepare_data(data_settings(tmp_path / "rows", label_rows(60)), base, data, tmp_path / "data.html")
    settings = FinetuneSettings(
        pipeline="text_classification", kind="sequence_classification", max_length=32, deepspeed=config("3"),
        training=TrainingParams(**{**TRAINING, "max_steps": 2}),
    )  # fmt: skip
    with pytest.raises(UserError, match="set deepspeed_stage=2"):
        train(settings, base, data, tmp_path / "out")


def test_a_diverging_training_stops_with_deepspeed_too(model, data, tmp_path):
    settings = settings_with({"learning_rate": 1e30, "max_grad_norm": 0.0}, deepspeed=config("2"))
    with pytest.raises(NumericError):
        train(settings, model, data, tmp_path / "out")


def test_what_this_machine_cannot_do_is_refused_before_the_model_is_loaded(model, data, tmp_path, monkeypatch):
    import torch

    if not torch.cuda.is_available():
        on_gpu = config("2", fp16={"enabled": True}, bf16={"enabled": False})
        with pytest.raises(UserError, match="true without a GPU"):
            train(settings_with({"precision": "16"}, deepspeed=on_gpu), model, data, tmp_path / "out")
    monkeypatch.setattr("steps.finetune.packages.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install deepspeed"):
        train(settings_with(deepspeed=config("2")), model, data, tmp_path / "out")


def test_deepspeed_is_imported_only_for_a_training_that_uses_it(model, data, tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom steps.finetune.step import finetune\n"
        "from training_inputs import settings_with\n"
        "where = [Path(word) for word in sys.argv[1:]]\n"
        "finetune(settings_with({'max_steps': 1}), *where)\n"
        "assert 'deepspeed' not in sys.modules"
    )
    words = [str(path) for path in (model, data, tmp_path / "tuned", tmp_path / "checkpoints", tmp_path / "r.html")]
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), *sys.path])
    subprocess.run([sys.executable, "-c", script, *words], check=True, env={**os.environ, "PYTHONPATH": path})
