"""A small training of every trainer, with numbers of rows that no batch size divides, and without dropout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import masked_rows
import question_rows
import tagged_rows
from classifiers import build_bert, label_rows
from classifiers import data_settings as label_settings
from conftest import build_model, chat_rows
from encoder_decoders import build_t5, pairs
from encoder_decoders import data_settings as pair_settings
from preferences import data_settings as preference_settings
from preferences import pair_rows, rated_rows
from training_inputs import TRAINING, as_imported, write_tokens

from steps.params.distributed import Processes
from steps.params.settings import FinetuneSettings
from steps.params.training import TrainingParams
from steps.prepare_data.step import prepare_data

STEADY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
COMMON = {"num_train_epochs": 2, "per_device_eval_batch_size": 5}  # of which one process is left without rows
# A batch size that divides the rows: alone, transformers counts a smaller last batch of this kind as a whole one.
WHOLE_BATCHES = {"model_args": {"dropout_rate": 0.0}, "per_device_eval_batch_size": 4}


@dataclass(frozen=True)
class Kind:
    """Inputs of a training."""

    model: Path
    data: Path
    settings: Callable[[dict[str, Any], Processes], FinetuneSettings]
    whole_evaluations: bool = False
    """Whether a loss on validation rows depends on the batch of all processes, as KTO's estimate of KL does."""

    def with_processes(self, batch: int, processes: Processes | None = None, **training: Any) -> FinetuneSettings:
        """Give the settings of a training; `batch` is that of all processes in one forward pass."""
        asked = processes or Processes()
        sizes = {"per_device_train_batch_size": batch // asked.count}
        if self.whole_evaluations:
            sizes["per_device_eval_batch_size"] = batch // asked.count
        return self.settings({**sizes, **training}, asked)


def _settings(base: dict[str, Any], **own: Any) -> Callable[[dict[str, Any], Processes], FinetuneSettings]:
    def made(training: dict[str, Any], processes: Processes) -> FinetuneSettings:
        params = TrainingParams(**{**TRAINING, **COMMON, **base, **training})
        return FinetuneSettings(**{"pipeline": "chat_completion", "max_length": 64, **own}, training=params,
                                processes=processes)  # fmt: skip

    return made


def _imported(folder: Path, build: Callable[[Path], None]) -> Path:
    build(folder / "source")
    return as_imported(folder / "source", folder / "model")


def _chat(folder: Path, packing: bool) -> Kind:
    from transformers import AutoTokenizer

    model = _imported(folder, build_model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    data = write_tokens(folder / "data", tokenizer, chat_rows(40 + 11 if packing else 33 + 18), packing=packing)
    return Kind(model, data, _settings({}, packing=packing))


def _preference(folder: Path, method: str) -> Kind:
    model = _imported(folder, build_model)
    rows = (rated_rows if method == "kto" else pair_rows)(24 + 19)
    prepare_data(preference_settings(folder / "rows", rows), model, folder / "data", folder / "data.html")
    settings = _settings({}, pipeline="preference", preference={"method": method})
    return Kind(model, folder / "data", settings, whole_evaluations=method == "kto")


def _classes(folder: Path, several: bool = False) -> Kind:
    model = _imported(folder, build_bert)
    asked = label_settings(folder / "rows", label_rows(24 + 29, several=several), columns={"multilabel": several})
    prepare_data(asked, model, folder / "data", folder / "data.html")
    return Kind(
        model, folder / "data", _settings({"model_args": STEADY}, kind="sequence_classification", max_length=32)
    )


def _tags(folder: Path) -> Kind:
    model = _imported(folder, build_bert)
    data = tagged_rows.prepared(model, folder / "rows", tagged_rows.sentences(83))
    return Kind(model, data, _settings({"model_args": STEADY}, kind="token_classification", max_length=32))


def _answers(folder: Path) -> Kind:
    model = _imported(folder, build_bert)
    data = question_rows.prepared(model, folder / "rows")
    return Kind(model, data, _settings({"model_args": STEADY}, kind="question_answering", max_length=24))


def _masked(folder: Path) -> Kind:
    model = _imported(folder, build_bert)
    data = masked_rows.prepared(model, folder / "rows")
    return Kind(model, data, _settings({"model_args": STEADY}, kind="masked_lm", max_length=16))


def _texts(folder: Path) -> Kind:
    model = _imported(folder, build_t5)
    prepare_data(
        pair_settings(folder / "rows", pairs(24 + 29, "t5"), "t5"), model, folder / "data", folder / "data.html"
    )
    return Kind(model, folder / "data", _settings(WHOLE_BATCHES, kind="seq2seq_lm", max_length=32))


KINDS: dict[str, Callable[[Path], Kind]] = {
    "sft": lambda folder: _chat(folder, packing=False),
    "packed": lambda folder: _chat(folder, packing=True),
    "dpo": lambda folder: _preference(folder, "dpo"),
    "kto": lambda folder: _preference(folder, "kto"),
    "orpo": lambda folder: _preference(folder, "orpo"),
    "classification": _classes,
    "several labels": lambda folder: _classes(folder, several=True),
    "tagging": _tags,
    "answering": _answers,
    "masked": _masked,
    "seq2seq": _texts,
}
