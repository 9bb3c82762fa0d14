"""Masked language modelling: masked tokens, training equal to transformers', metrics and the served model."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from classifiers import build_bert
from masked_rows import prepared, texts
from training_inputs import TRAINING, as_imported, train

from steps.artifacts import read_manifest
from steps.errors import UserError
from steps.evaluate.step import evaluate
from steps.params.settings import DataSettings, EvaluationSettings, FinetuneSettings, Resolved
from steps.params.training import TrainingParams

MASK, SPECIAL = 4, {0, 1, 2, 3, 4}


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    build_bert(tmp_path / "source")
    return as_imported(tmp_path / "source", tmp_path / "model")


def tokens(data: Path, split: str) -> dict[str, list]:
    return pq.read_table(data / f"tokens/{split}.parquet").to_pydict()


def test_training_rows_are_whole_and_other_rows_hide_what_their_labels_hold(base, tmp_path):
    from transformers import AutoTokenizer

    data = prepared(base, tmp_path / "a", probability=0.3)
    tokenizer = AutoTokenizer.from_pretrained(base)
    train, test = tokens(data, "train"), tokens(data, "test")
    assert list(train) == ["input_ids"]
    assert train["input_ids"] == tokenizer([row["text"] for row in texts(60)])["input_ids"]
    whole = tokenizer([row["text"] for row in texts(90)[75:]])["input_ids"]
    for ids, labels, right in zip(test["input_ids"], test["labels"], whole, strict=True):
        assert [label if label != -100 else token for token, label in zip(ids, labels, strict=True)] == right
        assert any(label != -100 for label in labels)
        assert not SPECIAL & {label for label in labels if label != -100}


def test_four_fifths_of_the_hidden_tokens_are_masks_and_a_tenth_are_other_tokens(base):
    from transformers import AutoTokenizer

    from steps.prepare_data.write.masked import Masked, hide

    settings = DataSettings(task="pretraining", train=Resolved(uri="", digest=""), columns={"mlm_probability": 0.2})
    tokenizer = AutoTokenizer.from_pretrained(base)
    preparation = Masked(settings, None, tokenizer, special=np.array(sorted(SPECIAL)))
    ids = np.tile(np.arange(5, len(tokenizer)), 5000)
    read, labels = hide(ids, preparation, np.random.default_rng(0))
    hidden = labels != -100
    assert hidden.mean() == pytest.approx(0.2, abs=0.01)
    assert (read[hidden] == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (read[hidden] == ids[hidden]).mean() == pytest.approx(0.1, abs=0.02)  # and some others by chance
    assert (read[~hidden] == ids[~hidden]).all()


def test_what_is_hidden_depends_on_the_seed_alone(base, tmp_path):
    first, again, other = (
        tokens(prepared(base, tmp_path / name, seed=seed), "test") for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first["labels"] != other["labels"]


def test_the_same_text_hides_other_tokens_for_validation_and_for_test(base, tmp_path):
    data = prepared(base, tmp_path / "a", probability=0.3, test=60)
    validation, test = (tokens(data, split)["labels"][:15] for split in ("validation", "test"))
    assert list(map(len, validation)) == list(map(len, test))
    assert validation != test


def test_packing_cuts_joined_texts_into_full_pieces_and_loses_nothing(base, tmp_path):
    from transformers import AutoTokenizer

    data = prepared(base, tmp_path / "a", length=13, packing=True)
    pieces = tokens(data, "train")["input_ids"]
    whole = AutoTokenizer.from_pretrained(base)([row["text"] for row in texts(60)])["input_ids"]
    assert [token for piece in pieces for token in piece] == [token for ids in whole for token in ids]
    assert {len(piece) for piece in pieces[:-1]} == {13}
    facts = read_manifest(data).facts["splits"]
    assert facts["train"]["sequences"] == len(pieces)
    assert facts["train"]["truncated"] == 0
    assert facts["test"]["rows"] == facts["test"]["sequences"] == 15


def test_long_rows_are_cut_and_told(base, tmp_path):
    from transformers import AutoTokenizer

    data = prepared(base, tmp_path / "a", length=9)
    facts = read_manifest(data).facts
    whole = AutoTokenizer.from_pretrained(base)([row["text"] for row in texts(60)])["input_ids"]
    assert facts["splits"]["train"]["truncated"] == sum(len(ids) > 9 for ids in whole) > 0
    assert max(map(len, tokens(data, "train")["input_ids"])) == 9
    assert any(warning["code"] == "DATA-W0804" and "packing=true" in warning["what"] for warning in facts["warnings"])


def test_rows_that_just_fit_are_not_long(base, tmp_path):
    splits = read_manifest(prepared(base, tmp_path / "a", length=64)).facts["splits"].values()
    longest = max(split["length"]["max"] for split in splits)
    facts = read_manifest(prepared(base, tmp_path / "b", length=longest)).facts
    assert [warning for warning in facts["warnings"] if warning["code"] == "DATA-W0804"] == []
    assert sum(split["truncated"] for split in facts["splits"].values()) == 0


def test_a_tokenizer_without_a_mask_is_refused(tiny_model, tmp_path):
    with pytest.raises(UserError, match="DATA-E0815 tokenizer: found no mask_token"):
        prepared(as_imported(tiny_model, tmp_path / "model"), tmp_path / "a")


def settings_with(training: dict | None = None, **changes) -> FinetuneSettings:
    made = TrainingParams(**{**TRAINING, **(training or {})})
    return FinetuneSettings(pipeline="pretraining", kind="masked_lm", training=made, max_length=16, **changes)


def bare_losses(base: Path, rows: list[dict], out: Path, lora: bool, whole: dict) -> list[float]:
    """Train the same texts with nothing but transformers and PEFT."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForMaskedLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    tokenizer = AutoTokenizer.from_pretrained(base)
    set_seed(42)
    model = AutoModelForMaskedLM.from_pretrained(base, **whole)
    if lora:
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=128, target_modules="all-linear"))
    learned = Dataset.from_list([{"input_ids": tokenizer(row["text"])["input_ids"]} for row in rows])
    arguments = TrainingArguments(
        output_dir=str(out), num_train_epochs=2, learning_rate=1e-3, per_device_train_batch_size=4,
        lr_scheduler_type="cosine", warmup_steps=2, weight_decay=0.01, optim="adamw_torch", logging_steps=1,
        save_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.2), learned)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_loss_trace_equals_a_bare_trainer(base, tmp_path, lora, peer):
    # The bare one draws the next batch's hidden tokens before dropout draws; so there must be no dropout to compare.
    whole = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    given = {"evaluation_strategy": "no", "model_args": whole}
    settings = settings_with(given, lora={"apply_lora": lora}, mlm_probability=0.2)
    ours = train(settings, base, prepared(base, tmp_path / "a"), tmp_path / "ours")
    theirs = peer(bare_losses, base, texts(60), tmp_path / "bare", lora, whole)
    assert len(theirs) == 30
    assert [point["loss"] for point in ours["points"]] == pytest.approx(theirs, abs=1e-6)


@pytest.mark.slow
def test_a_training_that_goes_on_hides_the_tokens_that_an_unbroken_one_does(base, tmp_path):
    import shutil

    data = prepared(base, tmp_path / "a")
    for out, resume in (("unbroken", "false"), ("resumed", "true")):
        if resume == "true":  # as if it had been killed behind its third step
            for checkpoint in (tmp_path / "root").glob("checkpoints/*/*/checkpoint-6"):
                shutil.rmtree(checkpoint)
        kept = {"save_steps": 3, "keep_checkpoints": "true", "resume_from_checkpoint": resume}
        settings = settings_with({"evaluation_strategy": "no", "max_steps": 6}, checkpoints=kept)
        history = train(settings, base, data, tmp_path / out)
        assert history["resumed_from"] == (3 if resume == "true" else None)
    first, second = ((tmp_path / out / "tuned/model.safetensors").read_bytes() for out in ("unbroken", "resumed"))
    assert first == second


@pytest.mark.slow
def test_evaluations_during_training_see_the_same_hidden_tokens(base, tmp_path):
    settings = settings_with({"evaluation_strategy": "steps", "eval_steps": 1, "max_steps": 3, "learning_rate": 1e-12})
    history = train(settings, base, prepared(base, tmp_path / "a"), tmp_path / "ours")
    losses = [evaluation["loss"] for evaluation in history["evaluations"]]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-6)


@pytest.mark.slow
def test_the_measured_loss_is_the_models_own_and_new_weights_are_held_against_a_guess(base, tmp_path):
    import torch
    from transformers import AutoModelForMaskedLM

    from steps.artifacts import new_artifact
    from steps.merge_adapter.step import merge_adapter

    data = prepared(base, tmp_path / "a")
    tuned = tmp_path / "ours/tuned"
    train(settings_with(new_weights=True), base, data, tmp_path / "ours")
    merge_adapter(base, tuned, tmp_path / "merged")
    with new_artifact(tmp_path / "empty", "model") as draft:
        draft.facts = {"weights": "new", "vocab_size": 18}
        (draft / "config.json").write_text((base / "config.json").read_text())
    for name, folder in (("stored", base), ("empty", tmp_path / "empty")):
        settings = EvaluationSettings(task="pretraining", kind="masked_lm", batch_size=4)
        evaluate(settings, folder, tuned, tmp_path / "merged", data, tmp_path / name, tmp_path / f"{name}.html")
    stored, empty = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("stored", "empty"))
    model = AutoModelForMaskedLM.from_pretrained(tuned).eval()
    rows = tokens(data, "test")
    losses, hits = [], []
    with torch.no_grad():
        for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
            chances = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            for place, label in enumerate(labels):
                if label != -100:
                    losses.append(-chances[place, label].item())
                    hits.append(chances[place].argmax().item() == label)
    assert stored["tuned"]["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert stored["tuned"]["masked_accuracy"] == pytest.approx(np.mean(hits))
    assert empty["base"]["perplexity"] == pytest.approx(18)
    assert stored["base"]["loss"] != pytest.approx(stored["tuned"]["loss"])


@pytest.mark.slow
def test_the_served_model_puts_words_in_place_of_masks(base, tmp_path):
    from steps.register_model.served_words import Model

    model = Model(base, {"max_length": 16})
    told = model.predict(["the [MASK] and a pear .", "[MASK] [MASK] ."])
    assert [len(words) for words in told["words"]] == [1, 2]
    assert told["text"][0] == f"the {told['words'][0][0]} and a pear."
    assert all(0 < chance <= 1 for chances in told["probabilities"] for chance in chances)
    with pytest.raises(ValueError, match=r"row 1: found no \[MASK\]"):
        model.predict(["a [MASK]", "nothing hidden"])
    with pytest.raises(ValueError, match="row 0: found 42 tokens"):
        model.predict(["[MASK] " + "the " * 39])
