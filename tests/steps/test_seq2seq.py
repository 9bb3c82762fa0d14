"""Encoder-decoder models of all kinds: tokens, training and answers equal transformers'."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from encoder_decoders import BUILDERS, LANGUAGES, build_t5, data_settings, pairs
from grids import long_but
from training_inputs import TRAINING, as_imported, train

from steps.artifacts import read_manifest
from steps.errors import UserError
from steps.evaluate.step import evaluate
from steps.merge_adapter.step import merge_adapter
from steps.params.data import Preprocessing
from steps.params.evaluation import EvaluationParams
from steps.params.settings import EvaluationSettings, FinetuneSettings
from steps.params.training import TrainingParams
from steps.prepare_data.step import prepare_data


@pytest.fixture(params=BUILDERS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def base(kind, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    BUILDERS[kind](tmp_path / "source")
    return as_imported(tmp_path / "source", tmp_path / "model")


@pytest.fixture
def t5(tmp_path) -> Path:
    build_t5(tmp_path / "t5")
    return tmp_path / "t5"


def prepared(base: Path, folder: Path, kind: str = "t5", rows: list[dict] | None = None, **changes) -> Path:
    settings = data_settings(folder, rows or pairs(84, kind), kind, **changes)
    prepare_data(settings, base, folder / "data", folder / "data.html")
    return folder / "data"


def settings_with(training: dict | None = None, **changes) -> FinetuneSettings:
    made = TrainingParams(**{**TRAINING, **(training or {})})
    return FinetuneSettings(pipeline="translation", kind="seq2seq_lm", training=made, max_length=32, **changes)


def codes(kind: str) -> dict[str, str]:
    """The languages as the tokenizer is told them."""
    found = {"mbart": ("en_XX", "de_DE"), "m2m_100": ("eng_Latn", "deu_Latn")}.get(kind)
    return {"src_lang": found[0], "tgt_lang": found[1]} if found else {}


def encoded(base: Path, kind: str, rows: list[dict]) -> tuple[list[list[int]], list[list[int]]]:
    """Encode pairs with plain transformers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, **codes(kind))
    source, target = LANGUAGES[kind]
    before = "translate English to German: " if kind == "t5" else ""
    made = tokenizer([before + row[source] for row in rows], text_target=[row[target] for row in rows])
    return made["input_ids"], made["labels"]


def test_texts_and_answers_are_the_tokenizers_own(base, kind, tmp_path):
    data = prepared(base, tmp_path / "a", kind)
    tokens = pq.read_table(data / "tokens/train.parquet").to_pydict()
    assert (tokens["input_ids"], tokens["labels"]) == encoded(base, kind, pairs(84, kind)[:60])
    facts = read_manifest(data).facts
    assert list(facts["languages"].values()) == list(codes(kind).values())
    opening = {"mbart": "decoder_start_token_id", "m2m_100": "forced_bos_token_id"}.get(kind)
    assert list(facts["opening"]) == ([opening] if opening else [])
    train = facts["splits"]["train"]
    assert train["supervised_tokens"] == sum(map(len, tokens["labels"]))
    assert (train["truncated"], train["targets_truncated"], train["left_out"]) == (0, 0, 0)


def test_a_cut_keeps_the_prefix_and_the_end_and_both_sides_are_counted(t5, tmp_path):
    from transformers import AutoTokenizer

    rows = pairs(84)
    rows[0] = {"en": "red fox " * 20, "de": "foku rema " * 20}
    data = prepared(t5, tmp_path / "a", rows=rows)
    tokens = pq.read_table(data / "tokens/train.parquet").to_pydict()
    tokenizer = AutoTokenizer.from_pretrained(t5)
    assert len(tokens["input_ids"][0]) == 32
    assert tokenizer.decode(tokens["input_ids"][0]).startswith("translate English to German: red fox")
    assert (len(tokens["labels"][0]), tokens["labels"][0][-1]) == (16, tokenizer.eos_token_id)
    facts = read_manifest(data).facts
    train = facts["splits"]["train"]
    assert (train["truncated"], train["targets_truncated"]) == (1, 1)
    assert train["target_length"]["max"] == 41
    assert {"DATA-W0804", "DATA-W0808"} <= {warning["code"] for warning in facts["warnings"]}
    left = prepared(t5, tmp_path / "b", rows=rows, preprocessing=Preprocessing(length_handling="filter"))
    assert read_manifest(left).facts["splits"]["train"]["rows"] == 59


def test_limits_without_room_and_unknown_languages_are_refused(t5, tmp_path):
    with pytest.raises(UserError) as caught:
        prepared(t5, tmp_path / "a", max_length=5, max_target_length=1)
    assert [(p.code, p.where) for p in caught.value.problems] == [
        ("DATA-E0814", "max_seq_length"), ("DATA-E0814", "max_target_length"),
    ]  # fmt: skip
    BUILDERS["mbart"](tmp_path / "mbart")
    columns = {"source_lang": "en", "target_lang": "qaa", "prompt_prefix": "", "text_separator": ""}
    with pytest.raises(UserError, match="DATA-E0819 target_lang: found qaa"):
        prepared(tmp_path / "mbart", tmp_path / "b", columns=columns)


def bare_losses(base: Path, kind: str, rows: list[dict], out: Path, lora: bool) -> list[float]:
    """Train the same pairs with nothing but transformers and PEFT."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        set_seed,
    )

    set_seed(42)
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForSeq2SeqLM.from_pretrained(base)
    if lora:
        model = get_peft_model(
            model, LoraConfig(r=8, lora_alpha=128, target_modules="all-linear", task_type="SEQ_2_SEQ_LM")
        )
    ids, labels = encoded(base, kind, rows)
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(out), num_train_epochs=2, learning_rate=1e-3, per_device_train_batch_size=4,
        lr_scheduler_type="cosine", warmup_steps=2, weight_decay=0.01, optim="adamw_torch", logging_steps=1,
        save_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    encoded_rows = Dataset.from_dict({"input_ids": ids, "labels": labels})
    trainer = Seq2SeqTrainer(model, arguments, DataCollatorForSeq2Seq(tokenizer, model), encoded_rows)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_loss_trace_equals_a_bare_trainer(base, kind, tmp_path, lora, peer):
    settings = settings_with({"evaluation_strategy": "no"}, lora={"apply_lora": lora})
    ours = train(settings, base, prepared(base, tmp_path / "a", kind), tmp_path / "ours")
    theirs = peer(bare_losses, base, kind, pairs(84, kind)[:60], tmp_path / "bare", lora)
    assert len(theirs) == 30
    assert [point["loss"] for point in ours["points"]] == pytest.approx(theirs, abs=1e-6)


@pytest.mark.slow
def test_accumulated_batches_are_one_large_batch(base, kind, tmp_path):
    lengths = [len(labels) for labels in encoded(base, kind, pairs(216, kind))[1]]
    usual = max(lengths, key=lengths.count)  # answers of unequal length would weigh differently in other batches
    rows = [row for row, length in zip(pairs(216, kind), lengths, strict=True) if length == usual] * 8
    data = prepared(base, tmp_path / "a", kind, rows[:84])
    whole, parts = (
        train(
            settings_with({"max_steps": 3, "per_device_train_batch_size": batch, "gradient_accumulation_steps": each}),
            base, data, tmp_path / str(batch),
        )["points"]
        for batch, each in ((8, 1), (2, 4))
    )  # fmt: skip
    for name in ("loss", "grad_norm"):
        assert [point[name] for point in parts] == pytest.approx([point[name] for point in whole], rel=1e-4)


def said_by(folder: Path, data: Path, facts: dict) -> tuple[list[str], float]:
    """Answer the test rows with plain transformers, one at a time, and give the mean loss of a token."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = pq.read_table(data / "tokens/test.parquet").to_pydict()
    said, losses, count = [], 0.0, 0
    with torch.no_grad():
        for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
            made = model.generate(torch.tensor([ids]), max_new_tokens=12, num_beams=1, do_sample=False, **facts)
            first, *more = made[0].tolist()
            opening = {first, *facts.values(), model.generation_config.forced_bos_token_id, tokenizer.bos_token_id}
            while more and more[0] in opening:
                more = more[1:]
            more = more[: more.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in more else more
            said.append(tokenizer.decode([token for token in more if token != tokenizer.pad_token_id]))
            losses += float(model(torch.tensor([ids]), labels=torch.tensor([labels])).loss) * len(labels)
            count += len(labels)
    return said, losses / count


@pytest.mark.slow
@pytest.mark.parametrize("lora", long_but([True], [False, True]), ids=["full", "lora"])
def test_losses_and_answers_are_those_of_plain_transformers(base, kind, tmp_path, lora):
    from steps.register_model.served_texts import Model

    rows = pairs(84, kind)
    data = prepared(base, tmp_path / "a", kind, rows)
    tuned, merged = tmp_path / "ours/tuned", tmp_path / "merged"
    given = {
        "num_train_epochs": 4,
        "learning_rate": 5e-3,
        "metric_for_best_model": "bleu",
        "gradient_checkpointing": "true",
    }
    history = train(settings_with(given, lora={"apply_lora": lora}, max_new_tokens=12), base, data, tmp_path / "ours")
    assert history["best"]["metric"] == "validation bleu"
    merge_adapter(base, tuned, merged)
    settings = EvaluationSettings(
        task="translation", kind="seq2seq_lm", batch_size=4, columns=data_settings(tmp_path / "c", rows, kind).columns,
        evaluation=EvaluationParams(evaluation_max_new_tokens=12),
    )  # fmt: skip
    evaluate(settings, base, tuned, merged, data, tmp_path / "evaluation", tmp_path / "report.html")
    measured = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    folder = merged if lora else tuned
    said, loss = said_by(folder, data, {})  # the tuned model's own files say how an answer begins
    predictions = pq.read_table(tmp_path / "evaluation/predictions.parquet").to_pydict()
    assert predictions["tuned"] == said
    assert measured["tuned"]["loss"] == pytest.approx(loss, rel=1e-5)
    before, was = said_by(base, data, read_manifest(data).facts["opening"])
    assert predictions["base"] == before
    assert measured["base"]["loss"] == pytest.approx(was, rel=1e-5)
    source, target = LANGUAGES[kind]
    assert predictions["reference"] == [row[target] for row in rows[-12:]]
    form = ("translate English to German: ", "") if kind == "t5" else ("", "")
    served = Model(folder, {"prompt_form": form, "max_length": 32, "max_new_tokens": 12, "num_beams": 1})
    assert served.predict([row[source] for row in rows[-12:]]) == said


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_merged_adapter_is_what_peft_merges(tmp_path, monkeypatch, tied):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForSeq2SeqLM

    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    build_t5(tmp_path / "source", tied)
    base = as_imported(tmp_path / "source", tmp_path / "model")
    data = prepared(base, tmp_path / "a")
    train(settings_with({"max_steps": 4}, lora={"apply_lora": True}), base, data, tmp_path / "ours")
    merge_adapter(base, tmp_path / "ours/tuned", tmp_path / "merged")
    theirs = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), tmp_path / "ours/tuned")
    expected = theirs.merge_and_unload().state_dict()
    merged = load_file(tmp_path / "merged/model.safetensors")
    assert any(not torch.equal(merged[name], tensor) for name, tensor in load_file(base / "model.safetensors").items())
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
