"""Token classification: labels at first tokens, training equal to transformers', metrics equal to seqeval's."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tagged_rows import prepared, sentences
from training_inputs import TRAINING, train

from steps.artifacts import read_manifest
from steps.errors import UserError
from steps.evaluate.step import evaluate
from steps.merge_adapter.step import merge_adapter
from steps.params.evaluation import EvaluationParams
from steps.params.settings import EvaluationSettings, FinetuneSettings
from steps.params.training import TrainingParams

NAMES = ["B-FRUIT", "B-METAL", "I-FRUIT", "I-METAL", "O"]


def settings_with(training: dict | None = None, **changes) -> FinetuneSettings:
    made = TrainingParams(**{**TRAINING, **(training or {})})
    return FinetuneSettings(
        pipeline="token_classification", kind="token_classification", training=made, max_length=32, **changes
    )


def by_hand(tokenizer, row: dict) -> tuple[list[int], list[int]]:
    """Encode a sentence word by word, without is_split_into_words; the tag stands at the first token of its word."""
    start, end = ([tokenizer.cls_token_id], [tokenizer.sep_token_id]) if tokenizer.cls_token else ([], [])
    ids, labels = list(start), [-100] * len(start)
    for word, tag in zip(row["tokens"], row["tags"], strict=True):
        pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
        ids += pieces
        labels += [NAMES.index(tag)] + [-100] * (len(pieces) - 1)
    return ids + list(end), labels + [-100] * len(end)


def test_a_tag_stands_at_the_first_token_of_its_word(base, tmp_path):
    from transformers import AutoTokenizer

    data = prepared(base, tmp_path / "a")
    facts = read_manifest(data).facts
    assert facts["class_names"] == NAMES
    tokens = pq.read_table(data / "tokens/train.parquet").to_pydict()
    tokenizer = AutoTokenizer.from_pretrained(base)
    expected = [by_hand(tokenizer, row) for row in sentences(60)]
    assert tokens["input_ids"] == [ids for ids, _ in expected]
    assert tokens["labels"] == [labels for _, labels in expected]
    assert tokens["words"] == [list(range(len(row["tokens"]))) for row in sentences(60)]
    train = facts["splits"]["train"]
    assert train["words_without_label"] == 0
    assert sum(train["classes"].values()) == train["words"] == sum(len(row["tokens"]) for row in sentences(60))


def test_truncated_words_and_words_without_tokens_are_counted_and_reported(bert, tmp_path):
    rows = sentences(84)
    rows[0] = {"tokens": ["the", "\u0300", "apple"], "tags": ["O", "O", "B-FRUIT"]}  # an accent alone becomes nothing
    data = prepared(bert, tmp_path / "a", rows, length=6)
    tokens = pq.read_table(data / "tokens/train.parquet").to_pydict()
    assert tokens["words"][0] == [0, 2]
    assert [label for label in tokens["labels"][0] if label != -100] == [NAMES.index("O"), NAMES.index("B-FRUIT")]
    facts = read_manifest(data).facts
    train = facts["splits"]["train"]
    assert train["truncated"] > 0
    assert train["words_without_label"] == train["words"] - sum(map(len, tokens["words"])) > 1
    assert {"DATA-W0804", "DATA-W0805"} <= {warning["code"] for warning in facts["warnings"]}


def test_a_length_limit_without_space_for_a_word_is_refused(bert, tmp_path):
    with pytest.raises(UserError, match="DATA-E0814 max_seq_length"):
        prepared(bert, tmp_path / "a", length=2)


def bare_losses(base: Path, rows: list[dict], out: Path, lora: bool) -> list[float]:
    """Train the same sentences with nothing but transformers and PEFT."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    tokenizer = AutoTokenizer.from_pretrained(base)
    set_seed(42)
    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=5)
    if lora:
        head = "classifier" if "bert" in model.config.model_type else "score"
        config = LoraConfig(
            r=8, lora_alpha=128, target_modules="all-linear", task_type="TOKEN_CLS", exclude_modules=[head]
        )  # fmt: skip
        model = get_peft_model(model, config)
    encoded = [by_hand(tokenizer, row) for row in rows]
    learned = Dataset.from_list([{"input_ids": ids, "labels": labels} for ids, labels in encoded])
    arguments = TrainingArguments(
        output_dir=str(out), num_train_epochs=2, learning_rate=1e-3, per_device_train_batch_size=4,
        lr_scheduler_type="cosine", warmup_steps=2, weight_decay=0.01, optim="adamw_torch", logging_steps=1,
        save_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, DataCollatorForTokenClassification(tokenizer), learned)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_loss_trace_equals_a_bare_trainer(base, tmp_path, lora, peer):
    settings = settings_with({"evaluation_strategy": "no"}, lora={"apply_lora": lora})
    ours = train(settings, base, prepared(base, tmp_path / "a"), tmp_path / "ours")
    theirs = peer(bare_losses, base, sentences(60), tmp_path / "bare", lora)
    assert len(theirs) == 30
    assert [point["loss"] for point in ours["points"]] == pytest.approx(theirs, abs=1e-6)


@pytest.mark.slow
def test_accumulated_batches_are_one_large_batch(base, tmp_path):
    rows = [row for row in sentences(160) if len(row["tokens"]) == 5][:84]  # batches of equally many words
    data = prepared(base, tmp_path / "a", rows)
    whole, parts = (
        train(
            settings_with({"max_steps": 3, "per_device_train_batch_size": batch, "gradient_accumulation_steps": each}),
            base, data, tmp_path / str(batch),
        )["points"]
        for batch, each in ((8, 1), (2, 4))
    )  # fmt: skip
    dropped = "bert" in (base / "config.json").read_text()  # a BERT drops other units in other batches
    for name in () if dropped else ("loss", "grad_norm"):
        assert [point[name] for point in parts] == pytest.approx([point[name] for point in whole], rel=1e-4)
    if dropped:
        assert parts[0]["grad_norm"] == pytest.approx(whole[0]["grad_norm"], rel=0.3)


def said_by(folder: Path, data: Path) -> list[list[str]]:
    """Tag the test rows with plain transformers, one at a time."""
    import torch
    from transformers import AutoModelForTokenClassification

    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    rows = pq.read_table(data / "tokens/test.parquet").to_pydict()
    said = []
    with torch.no_grad():
        for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
            best = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
            said.append([model.config.id2label[best[place]] for place, label in enumerate(labels) if label != -100])
    return said


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_numbers_are_seqevals_on_what_transformers_says(base, tmp_path, lora):
    from seqeval.metrics import f1_score

    data = prepared(base, tmp_path / "a")
    tuned, merged = tmp_path / "ours/tuned", tmp_path / "merged"
    given = {"num_train_epochs": 4, "learning_rate": 5e-3, "metric_for_best_model": "f1"}
    history = train(settings_with(given, lora={"apply_lora": lora}), base, data, tmp_path / "ours")
    assert history["best"]["metric"] == "validation f1"
    merge_adapter(base, tuned, merged)
    settings = EvaluationSettings(
        task="token_classification", kind="token_classification", batch_size=4,
        evaluation=EvaluationParams(gate_metric="f1"),
    )  # fmt: skip
    evaluate(settings, base, tuned, merged, data, tmp_path / "evaluation", tmp_path / "report.html")
    measured = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    truth = [row["tags"] for row in sentences(84)[72:]]
    said = said_by(merged if lora else tuned, data)
    assert measured["tuned"]["f1"] == pytest.approx(f1_score(truth, said))
    assert measured["tuned"]["accuracy"] == pytest.approx(
        np.mean([a == b for right, one in zip(truth, said, strict=True) for a, b in zip(right, one, strict=True)])
    )
    rows = pq.read_table(tmp_path / "evaluation/predictions.parquet").to_pylist()
    assert [row["predicted"] for row in rows] == said
    assert "the most frequent tag of each word in the training rows" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_words_behind_the_cut_count_as_outside(bert, tmp_path):
    data = prepared(bert, tmp_path / "a", length=5)
    train(settings_with(), bert, data, tmp_path / "ours")
    merge_adapter(bert, tmp_path / "ours/tuned", tmp_path / "merged")
    settings = EvaluationSettings(task="token_classification", kind="token_classification", batch_size=4)
    evaluate(settings, bert, tmp_path / "ours/tuned", tmp_path / "merged", data, tmp_path / "e", tmp_path / "r.html")
    rows = pq.read_table(tmp_path / "e/predictions.parquet").to_pylist()
    assert all(len(row["predicted"]) == len(row["tags"]) for row in rows)
    assert all(row["predicted"][3:] == ["O"] * len(row["tags"][3:]) for row in rows)


@pytest.mark.slow
def test_the_served_model_tags_texts_of_any_length(base, tmp_path):
    from steps.register_model.served_tags import Model

    data = prepared(base, tmp_path / "a")
    train(settings_with({"num_train_epochs": 1}), base, data, tmp_path / "ours")
    model = Model(tmp_path / "ours/tuned", {"max_length": 32})
    test = sentences(84)[72:]
    told = model.predict([row["tokens"] for row in test])
    assert told["tags"].tolist() == said_by(tmp_path / "ours/tuned", data)
    assert model.predict([" ".join(test[0]["tokens"])])["words"][0] == test[0]["tokens"]
    long = test[0]["tokens"] * 20
    assert len(model.predict([long])["tags"][0]) == len(long)
    with pytest.raises(ValueError, match="row 0: found no word"):
        model.predict([" "])
