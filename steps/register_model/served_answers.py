"""predict for a registered model for extractive question answering.

Stored with the model beside pyfunc_model.py, which loads it, so it does not import the project that wrote it.
"""

from typing import Any

import numpy as np

QUESTIONS_AT_ONCE = 16


class Model:
    """A model for start and end of answers, loaded from a folder."""

    def __init__(self, folder: Any, reference: dict[str, Any]):
        import torch
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer

        self.longest = reference["max_length"]
        self.how = reference["columns"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="right")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForQuestionAnswering.from_pretrained(
            folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        self.model = model.to(device).eval()
        self.with_types = getattr(self.model.config, "type_vocab_size", 0) > 1

    def predict(self, model_input: Any, params: Any = None) -> Any:
        """Return a table with one row per question: answer (empty for no answer), its character offset or -1, score.

        The score is that of the best span minus that of "no answer"; above 0 means an answer. Raises ValueError for a
        question that is too long to leave space for its context.
        """
        import pandas as pd

        rows = read_questions(model_input)
        told = []
        for start in range(0, len(rows), QUESTIONS_AT_ONCE):
            told += self._answer(rows[start : start + QUESTIONS_AT_ONCE], start)
        return pd.DataFrame(told)

    def _answer(self, rows: list[tuple[str, str]], number: int) -> list[dict[str, Any]]:
        import torch

        stride = self.how["doc_stride"]
        room = self.longest - self.tokenizer.num_special_tokens_to_add(True) - stride - 1
        for place, (question, _) in enumerate(rows, number):
            length = len(self.tokenizer(question, add_special_tokens=False)["input_ids"])
            if length > room:
                raise ValueError(f"row {place}: found a question of {length} tokens, more than {room}")
        encoded = self.tokenizer(
            *map(list, zip(*rows, strict=True)),
            truncation="only_second",
            max_length=self.longest,
            stride=stride,
            padding=True,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=self.with_types,
            return_tensors="pt",
        )
        offsets, owners = encoded.pop("offset_mapping").numpy(), encoded.pop("overflow_to_sample_mapping").tolist()
        inside = np.array([[which == 1 for which in encoded.sequence_ids(window)] for window in range(len(owners))])
        with torch.inference_mode():
            said = self.model(**encoded.to(self.model.device))
        starts, ends = (logits.double().cpu().numpy() for logits in (said.start_logits, said.end_logits))
        told = []
        for place, (_, context) in enumerate(rows):
            windows = [(starts[w], ends[w], offsets[w], inside[w]) for w, owner in enumerate(owners) if owner == place]
            told.append(self._best(context, windows))
        return told

    def _best(
        self, context: str, windows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    ) -> dict[str, Any]:
        """Select the best span of all windows as SQuAD does: the n best starts are combined with the n best ends."""
        count, longest = self.how["n_best_size"], self.how["max_answer_length_in_tokens"]
        best, nothing = (-np.inf, -1, -1), np.inf
        for start, end, offsets, inside in windows:
            nothing = min(nothing, float(start[0] + end[0]))
            ends = np.argsort(-end, kind="stable")[:count]
            for first in np.argsort(-start, kind="stable")[:count]:
                for last in ends:
                    if not (inside[first] and inside[last] and first <= last < first + longest):
                        continue
                    begin, after = int(offsets[first][0]), int(offsets[last][1])
                    if begin < after and start[first] + end[last] > best[0]:
                        best = (float(start[first] + end[last]), begin, after)
        score = best[0] - nothing
        none = best[1] < 0 or (self.how["allow_no_answer"] and -score > self.how["null_score_diff_threshold"])
        if none:
            return {"answer": "", "start": -1, "score": float(score) if np.isfinite(score) else 0.0}
        return {"answer": context[best[1] : best[2]], "start": best[1], "score": float(score)}


def read_questions(model_input: Any) -> list[tuple[str, str]]:
    """Convert MLflow's input to questions with contexts; raises ValueError if a column or a text is missing."""
    columns = getattr(model_input, "columns", None)
    if columns is None or not {"question", "context"} <= set(columns):
        raise ValueError("found no columns question and context; pass a table or a list of rows with both")
    rows = list(model_input[["question", "context"]].itertuples(index=False, name=None))
    for number, row in enumerate(rows):
        if not all(isinstance(text, str) and text.strip() for text in row):
            raise ValueError(f"row {number}: found {row!r}, not a question and a context")
    return rows
