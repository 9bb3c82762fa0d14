"""Continued training of adapters on models with a task head, and on models that are not causal language models."""

import json
import shutil
from pathlib import Path

import pytest
from classifiers import build_bert, data_settings, label_rows
from input_adapters import import_settings, make_adapter
from training_inputs import TRAINING

from steps.errors import UserError
from steps.evaluate.step import evaluate
from steps.finetune.step import finetune
from steps.import_model.step import import_model
from steps.merge_adapter.step import merge_adapter
from steps.params.evaluation import EvaluationParams
from steps.params.settings import EvaluationSettings, FinetuneSettings
from steps.params.training import TrainingParams
from steps.prepare_data.step import prepare_data

pytestmark = pytest.mark.slow

NAMES = ["colour", "fruit", "metal"]
LAYERS = {"target_modules": ["query", "value"]}


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    build_bert(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def classifier(base, tmp_path) -> Path:
    head = {"num_labels": 3, "id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    how = {"task_type": "SEQ_CLS", "modules_to_save": ["bert.pooler"], "head": head, **LAYERS}
    return make_adapter(base, tmp_path / "adapter", "AutoModelForSequenceClassification", **how)


def imported(base: Path, adapter: Path, out: Path) -> tuple[Path, Path]:
    import_model(import_settings(base, adapter, "continue"), out / "model", out / "tokenizer")
    prepare_data(data_settings(out / "rows", label_rows(60)), out / "tokenizer", out / "data", out / "data.html")
    return out / "model", out / "data"


def train(model: Path, data: Path, out: Path, kind: str = "sequence_classification") -> list[float]:
    training = TrainingParams(**{**TRAINING, "num_train_epochs": 1})
    lora = {"apply_lora": True, "lora_r": 4, "lora_alpha": 8, "lora_target_modules": "query,value"}
    settings = FinetuneSettings(pipeline="any", kind=kind, training=training, max_length=32, lora=lora)
    finetune(settings, model, data, out / "tuned", out / "checkpoints", out / "report.html")
    return [point["loss"] for point in json.loads((out / "tuned/history.json").read_text())["points"]]


def bare_losses(tuned, base: Path, out: Path) -> list[float]:
    """Train the same rows with nothing but transformers, from raw texts."""
    from datasets import Dataset
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [{**tokenizer(row["text"]), "labels": NAMES.index(row["kind"])} for row in label_rows(60)]
    arguments = TrainingArguments(
        output_dir=str(out), num_train_epochs=1, learning_rate=1e-3, per_device_train_batch_size=4,
        lr_scheduler_type="cosine", warmup_steps=2, weight_decay=0.01, optim="adamw_torch", logging_steps=1,
        save_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(tuned, arguments, DataCollatorWithPadding(tokenizer), Dataset.from_list(rows[:36]))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_classifier_goes_on_with_its_last_layer_as_a_bare_trainer(base, classifier, tmp_path, peer):
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForSequenceClassification

    model, data = imported(base, classifier, tmp_path / "in")
    ours = train(model, data, tmp_path / "ours")
    config = AutoConfig.from_pretrained(classifier)
    plain = AutoModelForSequenceClassification.from_pretrained(base, config=config)
    tuned = PeftModel.from_pretrained(plain, classifier, is_trainable=True)
    theirs = peer(bare_losses, tuned, base, tmp_path / "bare")
    assert len(ours) == 9
    assert ours == pytest.approx(theirs, abs=1e-5)
    before, after = (load_file(f / "adapter_model.safetensors") for f in (classifier, tmp_path / "ours/tuned"))
    assert before.keys() == after.keys()
    assert not before["base_model.model.classifier.weight"].equal(after["base_model.model.classifier.weight"])


def test_it_is_compared_with_the_imported_classifier(base, classifier, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    model, data = imported(base, classifier, tmp_path / "in")
    ours = tmp_path / "ours"
    train(model, data, ours)
    merge_adapter(model, ours / "tuned", ours / "merged")
    settings = EvaluationSettings(
        task="text_classification", kind="sequence_classification", batch_size=4,
        evaluation=EvaluationParams(gate_metric="accuracy"), columns={"sentence1_key": "text", "label_key": "kind"},
    )  # fmt: skip
    evaluate(settings, model, ours / "tuned", ours / "merged", data, ours / "evaluation", ours / "evaluation.html")
    told = json.loads((ours / "evaluation/metrics.json").read_text())
    plain = AutoModelForSequenceClassification.from_pretrained(base, config=AutoConfig.from_pretrained(classifier))
    before = PeftModel.from_pretrained(plain, classifier).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    losses = []
    for row in label_rows(60)[48:]:
        with torch.no_grad():
            chances = before(**tokenizer(row["text"], return_tensors="pt")).logits[0].log_softmax(-1)
        losses.append(-chances[NAMES.index(row["kind"])].item())
    assert told["base"]["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert told["labels"]["base"] == "The base model is a classifier of these classes."


def test_rows_of_other_classes_are_refused(base, classifier, tmp_path):
    config = json.loads((classifier / "config.json").read_text())
    config["id2label"]["0"] = "taste"
    (classifier / "config.json").write_text(json.dumps(config))
    model, data = imported(base, classifier, tmp_path / "in")
    with pytest.raises(UserError, match="an adapter for the classes taste, fruit, metal"):
        train(model, data, tmp_path / "ours")


def test_a_masked_model_goes_on_with_its_adapter(base, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForMaskedLM

    from steps.finetune.masked_model import load_masked_model

    adapter = make_adapter(base, tmp_path / "adapter", "AutoModelForMaskedLM", task_type=None, **LAYERS)
    import_model(import_settings(base, adapter, "continue"), tmp_path / "in/model", tmp_path / "in/tokenizer")
    settings = FinetuneSettings(pipeline="any", kind="masked_lm", training=TrainingParams(), lora={"apply_lora": True})
    ours = load_masked_model(tmp_path / "in/model", settings)
    theirs = PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(base), adapter, is_trainable=True)
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys()
    assert all(mine[name].equal(other[name]) for name in other)
    trainable = [[name for name, one in model.named_parameters() if one.requires_grad] for model in (ours, theirs)]
    assert trainable[0] == trainable[1] != []


def test_a_folder_of_a_classifiers_adapter_is_no_model(base, classifier, tmp_path):
    """It has a config.json and safetensors, and was once taken for a whole model."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, classifier)
    with pytest.raises(UserError, match="an adapter, not a model"):
        import_model(import_settings(classifier), tmp_path / "model", tmp_path / "tokenizer")


def test_an_encoder_with_a_decoder_goes_on_with_its_adapter(tmp_path, monkeypatch):
    from encoder_decoders import build_t5
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM

    from steps.finetune.loading import load_adapted

    build_t5(tmp_path / "base")
    how = {"task_type": "SEQ_2_SEQ_LM", "target_modules": ["q", "v"]}
    adapter = make_adapter(tmp_path / "base", tmp_path / "adapter", "AutoModelForSeq2SeqLM", **how)
    import_model(import_settings(tmp_path / "base", adapter, "continue"), tmp_path / "model", tmp_path / "tokenizer")
    settings = FinetuneSettings(pipeline="any", kind="seq2seq_lm", lora={"apply_lora": True})
    ours = load_adapted(AutoModelForSeq2SeqLM, tmp_path / "model", settings)
    theirs = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base"), adapter)
    other = theirs.state_dict()
    assert all(tensor.equal(other[name]) for name, tensor in ours.state_dict().items())
    assert any(one.requires_grad for one in ours.parameters())


def test_beside_a_base_in_16_bits_an_adapter_is_trained_in_32(tiny_model, tmp_path):
    import torch

    from steps.finetune.loading import load_model

    adapter = make_adapter(tiny_model, tmp_path / "adapter")
    import_model(import_settings(tiny_model, adapter, "continue"), tmp_path / "model", tmp_path / "tokenizer")
    training = TrainingParams(precision="16", gradient_checkpointing="true")
    settings = FinetuneSettings(pipeline="any", training=training, lora={"apply_lora": True})
    model = load_model(tmp_path / "model", settings)
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    assert {one.dtype for one in model.parameters() if not one.requires_grad} == {torch.bfloat16}
