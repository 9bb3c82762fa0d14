"""Extractive question answering: windows, positions of answers, training, SQuAD metrics, and the served model."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from question_rows import columns, prepared, questions
from training_inputs import TRAINING, train

from steps.artifacts import read_manifest
from steps.errors import UserError
from steps.evaluate.step import evaluate
from steps.merge_adapter.step import merge_adapter
from steps.params.evaluation import EvaluationParams
from steps.params.settings import EvaluationSettings, FinetuneSettings
from steps.params.training import TrainingParams
from steps.scoring.answer_metrics import score_answers


def settings_with(training: dict | None = None, **changes) -> FinetuneSettings:
    made = TrainingParams(**{**TRAINING, **(training or {})})
    return FinetuneSettings(
        pipeline="question_answering", kind="question_answering", training=made, max_length=24, **changes
    )


def test_a_window_begins_where_the_one_before_ends_but_for_the_stride(bert, tmp_path):
    from transformers import AutoTokenizer

    data = prepared(bert, tmp_path / "a", length=16)
    windows = pq.read_table(data / "tokens/train.parquet").to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(bert)
    question = tokenizer("the red", add_special_tokens=False)["input_ids"]
    for row, given in enumerate(questions(40)):
        context = tokenizer(given["context"], add_special_tokens=False)["input_ids"]
        room = 16 - 3 - len(question)
        pieces = [context[start : start + room] for start in range(0, max(len(context) - 4, 1), room - 4)]
        expected = [[2, *question, 3, *piece, 3] for piece in pieces]
        assert [window["input_ids"] for window in windows if window["row"] == row] == expected


@pytest.mark.parametrize("length", [20, 24])
def test_exactly_the_windows_with_positions_contain_the_answer(base, tmp_path, length):
    data = prepared(base, tmp_path / "a", length=length, stride=7)
    rows = pq.read_table(data / "rows/test.parquet").to_pylist()
    windows = pq.read_table(data / "tokens/test.parquet").to_pylist()
    found, whole = set(), set()
    for window in windows:
        row = rows[window["row"]]
        inside = [place for place, first in enumerate(window["first"]) if first >= 0]
        seen = row["context"][window["first"][inside[0]] : window["end"][inside[-1]]]
        if row["answers"] and row["answers"][0]["text"] in seen:
            whole.add(window["row"])
        if window["start_positions"] == 0:
            assert window["end_positions"] == 0
            assert not row["answers"] or row["answers"][0]["text"] not in seen
            continue
        text = row["context"][window["first"][window["start_positions"]] : window["end"][window["end_positions"]]]
        assert text.strip() == row["answers"][0]["text"]
        found.add(window["row"])
    assert found == whole
    assert len(found) >= 6
    facts = read_manifest(data).facts["splits"]["test"]
    assert (facts["rows"], facts["sequences"]) == (len(rows), len(windows))
    assert facts["windows_with_answer"] == sum(window["start_positions"] > 0 for window in windows)


def test_questions_that_are_too_long_are_left_out_and_reported(bert, tmp_path):
    rows = questions(60)
    rows[0]["question"] = "the red " * 10
    data = prepared(bert, tmp_path / "a", rows)
    facts = read_manifest(data).facts
    assert facts["splits"]["train"]["left_out"] == 1
    assert pq.read_table(data / "rows/train.parquet").num_rows == 39
    assert {row["row"] for row in pq.read_table(data / "tokens/train.parquet").to_pylist()} == set(range(39))
    assert [warning["code"] for warning in facts["warnings"]] == ["DATA-W0806"]


def test_windows_that_do_not_advance_are_refused(bert, tmp_path):
    with pytest.raises(UserError, match="DATA-E0817 doc_stride: found 20 with windows of 24 tokens"):
        prepared(bert, tmp_path / "a", stride=20)


def bare_losses(base: Path, windows: list[dict], out: Path, lora: bool) -> list[float]:
    """Train the same windows with nothing but transformers and PEFT."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    tokenizer = AutoTokenizer.from_pretrained(base)
    set_seed(42)
    decoder = "llama" in (base / "config.json").read_text()
    mapping = {r"^model\.": "transformer."} if decoder else None  # or no weight but the head's would be the base's
    model = AutoModelForQuestionAnswering.from_pretrained(base, key_mapping=mapping)
    if lora:
        config = LoraConfig(
            r=8, lora_alpha=128, target_modules="all-linear", task_type="QUESTION_ANS", exclude_modules=["qa_outputs"]
        )  # fmt: skip
        model = get_peft_model(model, config)
    arguments = TrainingArguments(
        output_dir=str(out), max_steps=12, learning_rate=1e-3, per_device_train_batch_size=4,
        lr_scheduler_type="cosine", warmup_steps=2, weight_decay=0.01, optim="adamw_torch", logging_steps=1,
        save_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, DataCollatorWithPadding(tokenizer), Dataset.from_list(windows))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_loss_trace_equals_a_bare_trainer(base, tmp_path, lora, peer):
    settings = settings_with({"evaluation_strategy": "no", "max_steps": 12}, lora={"apply_lora": lora})
    data = prepared(base, tmp_path / "a")
    ours = train(settings, base, data, tmp_path / "ours")
    windows = pq.read_table(data / "tokens/train.parquet").drop_columns(["row"])
    theirs = peer(bare_losses, base, windows.to_pylist(), tmp_path / "bare", lora)
    assert len(theirs) == 12
    assert [point["loss"] for point in ours["points"]] == pytest.approx(theirs, abs=1e-6)


@pytest.mark.slow
def test_accumulated_batches_are_one_large_batch(model, tmp_path, local_root):
    base = model
    data = prepared(base, tmp_path / "a")
    whole, parts = (
        train(
            settings_with(
                {"max_steps": 3, "per_device_train_batch_size": batch, "gradient_accumulation_steps": each},
                pad_to_max_length=True,  # padding takes part in the loss of this head
            ),
            base, data, tmp_path / str(batch),
        )["points"]
        for batch, each in ((8, 1), (2, 4))
    )  # fmt: skip
    for name in ("loss", "grad_norm"):
        assert [point[name] for point in parts] == pytest.approx([point[name] for point in whole], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_numbers_predictions_and_the_served_model_agree(base, tmp_path, lora):
    import pandas as pd

    from steps.register_model.served_answers import Model

    data = prepared(base, tmp_path / "a")
    tuned, merged = tmp_path / "ours/tuned", tmp_path / "merged"
    given = {"num_train_epochs": 3, "learning_rate": 5e-3, "metric_for_best_model": "f1"}
    history = train(settings_with(given, lora={"apply_lora": lora}), base, data, tmp_path / "ours")
    assert history["best"]["metric"] == "validation f1"
    merge_adapter(base, tuned, merged)
    settings = EvaluationSettings(
        task="question_answering", kind="question_answering", columns=columns(), batch_size=4,
        evaluation=EvaluationParams(gate_metric="f1"),
    )  # fmt: skip
    evaluate(settings, base, tuned, merged, data, tmp_path / "evaluation", tmp_path / "report.html")
    measured = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    rows = pq.read_table(tmp_path / "evaluation/predictions.parquet").to_pylist()
    references = [row["answers"]["text"] for row in questions(60)[50:]]
    values = score_answers([row["predicted"] for row in rows], references)
    assert {name: measured["tuned"][name] for name in values} == pytest.approx(values)
    assert (measured["base"]["HasAns_f1"], measured["base"]["NoAns_f1"]) == (0.0, 100.0)
    served = Model(merged if lora else tuned, {"max_length": 24, "columns": columns()})
    told = served.predict(pd.DataFrame(questions(60)[50:])[["question", "context"]])
    assert told["answer"].tolist() == [row["predicted"] for row in rows]
    for line, row in zip(told.to_dict("records"), rows, strict=True):
        assert row["context"][line["start"] :].startswith(line["answer"]) if line["answer"] else line["start"] == -1
    with pytest.raises(ValueError, match="row 0: found a question of"):
        served.predict(pd.DataFrame({"question": ["the red " * 12], "context": ["the"]}))
    assert "a baseline that always predicts no answer" in (tmp_path / "report.html").read_text()
