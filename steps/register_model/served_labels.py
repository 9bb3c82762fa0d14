"""predict for a registered classifier of texts or pairs of texts, with one or several labels.

Stored with the model beside pyfunc_model.py, which loads it, so it does not import the project that wrote it.
"""

from collections.abc import Sequence
from typing import Any

TEXTS_AT_ONCE = 32


class Model:
    """A classifier, loaded from a folder."""

    def __init__(self, folder: Any, reference: dict[str, Any]):
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.reference = reference
        self.texts = reference.get("texts", ("sentence1", "sentence2"))
        self.scored = reference.get("scored")
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        self.model = model.to(device).eval()
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.names = [self.model.config.id2label[number] for number in range(self.model.config.num_labels)]
        self.several = self.model.config.problem_type == "multi_label_classification"
        self.with_types = getattr(self.model.config, "type_vocab_size", 0) > 1

    def predict(self, model_input: Any, params: Any = None) -> Any:
        """Return a table with one row per text: label and probability, or the lists labels and probabilities.

        `score`, for tasks that have one, is the probability of one class, whichever label is predicted.
        """
        import pandas as pd

        rows = read_texts(model_input, self.texts)
        told = []
        for start in range(0, len(rows), TEXTS_AT_ONCE):
            told += self._classify(rows[start : start + TEXTS_AT_ONCE])
        return pd.DataFrame(told)

    def _classify(self, rows: list[tuple[str, ...]]) -> list[dict[str, Any]]:
        import torch

        encoded = self.tokenizer(
            *map(list, zip(*rows, strict=True)),
            truncation=True,
            max_length=self.reference["max_length"],
            padding=True,
            return_token_type_ids=self.with_types,
            return_tensors="pt",
        ).to(self.model.device)
        with torch.inference_mode():
            logits = self.model(**encoded).logits.double().cpu()
        if self.several:
            lines = torch.sigmoid(logits).tolist()
            chosen = [[place for place, value in enumerate(line) if value > 0.5] for line in lines]
            return [{"labels": [self.names[place] for place in places], "probabilities": [line[p] for p in places]}
                    for line, places in zip(lines, chosen, strict=True)]  # fmt: skip
        likely = torch.softmax(logits, dim=1)
        best = likely.max(dim=1)
        told = [{"label": self.names[place], "probability": value}
                for place, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]  # fmt: skip
        if self.scored is not None:
            scores = likely[:, self.names.index(self.scored)].tolist()
            told = [{**one, "score": score} for one, score in zip(told, scores, strict=True)]
        return told


def read_texts(model_input: Any, names: Sequence[str] = ("sentence1", "sentence2")) -> list[tuple[str, ...]]:
    """Convert MLflow's input to texts or pairs of texts; raises ValueError if there are none."""
    if isinstance(model_input, str):
        return [(model_input,)]
    columns = getattr(model_input, "columns", None)
    if columns is None:
        return [(text,) for text in model_input]
    given = [name for name in names if name in columns] or list(columns)[:1]
    if not given or given == [names[1]]:
        raise ValueError(f"found no text; pass a list of texts, or the columns {' and '.join(names)}")
    rows = list(model_input[given].itertuples(index=False, name=None))
    for number, row in enumerate(rows):
        if not all(isinstance(text, str) for text in row):
            raise ValueError(f"row {number}: found {row!r}, not {' and '.join(map(str, given))}")
    return rows
