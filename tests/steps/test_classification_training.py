"""A classifier's training equals that of transformers' Trainer exactly."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from classifiers import BUILDERS, build_bert, data_settings, label_rows
from training_inputs import TRAINING, as_imported, train

from steps.artifacts import read_manifest
from steps.errors import UserError
from steps.params.lora import LoraParams
from steps.params.settings import FinetuneSettings
from steps.params.training import CheckpointParams, TrainingParams
from steps.prepare_data.step import prepare_data

pytestmark = pytest.mark.usefixtures("local_root")

NAMES = ["colour", "fruit", "metal"]


def made(folder: Path, kind: str, rows: list[dict], **changes) -> tuple[Path, Path]:
    """Import a base and prepare rows for it."""
    BUILDERS[kind](folder / "source")
    model = as_imported(folder / "source", folder / "model")
    prepare_data(data_settings(folder, rows, **changes), model, folder / "data", folder / "data.html")
    return model, folder / "data"


def settings_with(training: dict | None = None, **changes) -> FinetuneSettings:
    training = TrainingParams(**{**TRAINING, **(training or {})})
    return FinetuneSettings(
        pipeline="text_classification", kind="sequence_classification", training=training, max_length=32, **changes
    )


def bare_losses(settings: FinetuneSettings, model: Path, out: Path) -> list[float]:
    """Train the same rows with nothing but transformers and PEFT, from raw texts."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    tokenizer = AutoTokenizer.from_pretrained(model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    set_seed(settings.training.seed)
    classifier = AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=3, pad_token_id=tokenizer.pad_token_id
    )
    if settings.lora.apply_lora:
        new = ["bert.pooler"] if "bert" in classifier.config.model_type else None
        classifier = get_peft_model(
            classifier,
            LoraConfig(
                r=8,
                lora_alpha=128,
                target_modules="all-linear",
                task_type="SEQ_CLS",
                modules_to_save=new,
                exclude_modules=["bert.pooler.dense"],
            ),
        )
    rows = [{**tokenizer(row["text"]), "labels": NAMES.index(row["kind"])} for row in label_rows(60)]
    train, validation = Dataset.from_list(rows[:36]), Dataset.from_list(rows[36:48])
    t = settings.training
    arguments = TrainingArguments(
        output_dir=str(out), num_train_epochs=t.num_train_epochs, learning_rate=t.learning_rate,
        per_device_train_batch_size=t.per_device_train_batch_size, lr_scheduler_type=t.lr_scheduler_type,
        warmup_steps=t.warmup_steps, weight_decay=t.weight_decay, optim="adamw_torch", logging_steps=1,
        eval_strategy="epoch", save_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(classifier, arguments, DataCollatorWithPadding(tokenizer), train, validation)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2 backbone"])
def test_the_loss_trace_equals_a_bare_trainer(tmp_path, kind, lora, peer):
    model, data = made(tmp_path, kind, label_rows(60))
    settings = settings_with(lora=LoraParams(apply_lora=lora))
    ours = [point["loss"] for point in train(settings, model, data, tmp_path / "ours")["points"]]
    bare = peer(bare_losses, settings, model, tmp_path / "bare")
    assert len(ours) == len(bare) == 18
    assert ours == pytest.approx(bare, abs=1e-6)


@pytest.mark.slow
def test_accumulated_batches_are_one_large_batch(tmp_path):
    model, data = made(tmp_path, "llama", label_rows(60))
    whole, parts = (
        train(
            settings_with({"max_steps": 3, "per_device_train_batch_size": batch, "gradient_accumulation_steps": each}),
            model, data, tmp_path / str(batch),
        )["points"]
        for batch, each in ((8, 1), (2, 4))
    )  # fmt: skip
    for name in ("loss", "grad_norm"):
        assert [point[name] for point in parts] == pytest.approx([point[name] for point in whole], rel=1e-4)


@pytest.mark.slow
def test_the_best_checkpoint_by_highest_accuracy_is_the_result(tmp_path):
    model, data = made(tmp_path, "bert", label_rows(72))
    kept = CheckpointParams(keep_checkpoints="true")
    given = {"num_train_epochs": 6, "learning_rate": 3e-3, "metric_for_best_model": "accuracy"}
    settings = settings_with(given, checkpoints=kept)
    history = train(settings, model, data, tmp_path / "out")
    values = [evaluation["accuracy"] for evaluation in history["evaluations"]]
    assert min(values) < max(values)
    first = next(evaluation for evaluation in history["evaluations"] if evaluation["accuracy"] == max(values))
    assert history["best"] == {"step": first["step"], "metric": "validation accuracy", "value": max(values)}
    checkpoint = next((tmp_path / "root").glob(f"checkpoints/*/*/checkpoint-{first['step']}"))
    assert (checkpoint / "model.safetensors").read_bytes() == (tmp_path / "out/tuned/model.safetensors").read_bytes()
    assert history["tokens_per_second"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_checkpoint_resumes_bit_for_bit(tmp_path, local_root, lora):
    model, data = made(tmp_path, "bert", label_rows(60))
    kept = {"save_steps": 3, "keep_checkpoints": "true"}
    given = {"lora": LoraParams(apply_lora=lora)}
    train(settings_with(checkpoints=CheckpointParams(**kept), **given), model, data, tmp_path / "unbroken")
    (folder,) = (local_root / "checkpoints" / "text_classification").iterdir()
    (folder / "finished.json").unlink()
    for checkpoint in folder.glob("checkpoint-*"):
        if int(checkpoint.name.rsplit("-", 1)[-1]) > 6:
            shutil.rmtree(checkpoint)
    again = CheckpointParams(**kept, resume_from_checkpoint="true")
    history = train(settings_with(checkpoints=again, **given), model, data, tmp_path / "broken")
    assert history["resumed_from"] == 6
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    one, two = ((tmp_path / out / "tuned" / name).read_bytes() for out in ("unbroken", "broken"))
    assert one == two


@pytest.mark.slow
def test_the_tuned_model_knows_its_classes_and_its_padding(tmp_path):
    from transformers import AutoModelForSequenceClassification

    model, data = made(tmp_path, "gpt2 backbone", label_rows(60))
    train(settings_with({"max_steps": 2}), model, data, tmp_path / "out")
    tuned, found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out/tuned", output_loading_info=True)
    assert not found["missing_keys"]
    assert tuned.config.id2label == dict(enumerate(NAMES))
    assert tuned.config.problem_type == "single_label_classification"
    assert tuned.config.pad_token_id is not None


@pytest.mark.slow
def test_several_labels_are_learned_independently(tmp_path):
    model, data = made(tmp_path, "bert", label_rows(60, several=True), columns={"multilabel": True})
    history = train(settings_with({"metric_for_best_model": "f1_macro"}), model, data, tmp_path / "out")
    config = json.loads((tmp_path / "out/tuned/config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert history["points"][-1]["loss"] < history["points"][0]["loss"]


def test_an_adapter_of_a_bert_saves_every_layer_that_the_base_does_not_have(tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from steps.finetune.heads import load_with_head

    build_bert(tmp_path)
    model = load_with_head(
        AutoModelForSequenceClassification, tmp_path, settings_with(lora=LoraParams(apply_lora=True)),
        AutoTokenizer.from_pretrained(tmp_path), num_labels=3,
    )  # fmt: skip
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".modules_to_save")[0] for name in trained if "modules_to_save" in name} == {
        "base_model.model.bert.pooler", "base_model.model.classifier",
    }  # fmt: skip
    assert not any("pooler" in name and "lora_" in name for name in trained)


def test_a_model_without_such_a_head_is_refused_by_name(tmp_path):
    from transformers import AutoModelForSequenceClassification, WhisperConfig

    from steps.finetune.heads import load_with_head

    WhisperConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "vits"}))
    with pytest.raises(UserError, match=r"TRAIN-E0202 model: found a model of the type vits"):
        load_with_head(AutoModelForSequenceClassification, tmp_path, settings_with(), None, num_labels=3)


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several"])
def test_metrics_during_training_are_scikit_learns(several):
    from types import SimpleNamespace

    from sklearn import metrics

    from steps.finetune.trainers.classification import measure_labels

    chance = np.random.default_rng(0)
    logits = chance.normal(size=(50, 4))
    truth = chance.integers(0, 2, (50, 4)).astype(np.float32) if several else chance.integers(0, 4, 50)
    said = logits > 0 if several else logits.argmax(axis=1)
    told = measure_labels(SimpleNamespace(predictions=logits, label_ids=truth))
    assert told["accuracy"] == metrics.accuracy_score(truth, said)
    assert told["f1_macro"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    assert told["precision_macro"] == pytest.approx(metrics.precision_score(truth, said, average="macro"))
    assert told["recall_macro"] == pytest.approx(metrics.recall_score(truth, said, average="macro"))
    assert several or told["mcc"] == pytest.approx(metrics.matthews_corrcoef(truth, said))


@pytest.mark.slow
def test_the_adapter_goes_into_the_base_with_its_head(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    from steps.merge_adapter.step import merge_adapter

    model, data = made(tmp_path, "bert", label_rows(60))
    train(settings_with(lora=LoraParams(apply_lora=True)), model, data, tmp_path / "out")
    merge_adapter(model, tmp_path / "out/tuned", tmp_path / "merged")
    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=3)
    expected = PeftModel.from_pretrained(base, tmp_path / "out/tuned").merge_and_unload().state_dict()
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == dict(enumerate(NAMES))
    assert {n for n, t in merged.state_dict().items() if not t.equal(expected[n])} == set()
    assert read_manifest(tmp_path / "merged").facts["architecture"] == "BertForSequenceClassification"
