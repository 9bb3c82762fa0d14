"""predict for a registered model that tags the words of a text.

Stored with the model beside pyfunc_model.py, which loads it, so it does not import the project that wrote it.
"""

from typing import Any

TEXTS_AT_ONCE = 32


class Model:
    """A tagger, loaded from a folder."""

    def __init__(self, folder: Any, reference: dict[str, Any]):
        import torch
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        self.longest = reference["max_length"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForTokenClassification.from_pretrained(
            folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        self.model = model.to(device).eval()

    def predict(self, model_input: Any, params: Any = None) -> Any:
        """Return a table with one row per text: its words and their tags. A text is split at whitespace.

        A text that is longer than max_length is tagged in pieces of at most this length.
        """
        import pandas as pd

        texts = read_words(model_input)
        pieces = [(row, piece) for row, words in enumerate(texts) for piece in self._pieces(words)]
        tags: list[list[str]] = [[] for _ in texts]
        for start in range(0, len(pieces), TEXTS_AT_ONCE):
            some = pieces[start : start + TEXTS_AT_ONCE]
            for (row, _), said in zip(some, self._tag([piece for _, piece in some]), strict=True):
                tags[row] += said
        return pd.DataFrame({"words": texts, "tags": tags})

    def _pieces(self, words: list[str]) -> list[list[str]]:
        room = self.longest - self.tokenizer.num_special_tokens_to_add(False)
        pieces: list[list[str]] = [[]]
        left = room
        for word in words:
            length = len(self.tokenizer([word], is_split_into_words=True, add_special_tokens=False)["input_ids"])
            if length > left and pieces[-1]:
                pieces.append([])
                left = room
            pieces[-1].append(word)
            left -= length
        return [piece for piece in pieces if piece]

    def _tag(self, texts: list[list[str]]) -> list[list[str]]:
        import torch

        encoded = self.tokenizer(
            texts,
            is_split_into_words=True,
            truncation=True,
            max_length=self.longest,
            padding=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        with torch.inference_mode():
            best = self.model(**encoded.to(self.model.device)).logits.argmax(dim=-1).tolist()
        tags = []
        for row, words in enumerate(texts):
            found: dict[int, str] = {}
            for place, word in enumerate(encoded.word_ids(row)):
                if word is not None and word not in found:
                    found[word] = self.model.config.id2label[best[row][place]]
            tags.append([found.get(word, "O") for word in range(len(words))])
        return tags


def read_words(model_input: Any) -> list[list[str]]:
    """Convert MLflow's input to lists of words; raises ValueError if a row has no word."""
    if isinstance(model_input, str):
        model_input = [model_input]
    columns = getattr(model_input, "columns", None)
    rows = list(model_input) if columns is None else list(model_input[columns[0]])
    texts = [row.split() if isinstance(row, str) else [str(word) for word in row] for row in rows]
    for number, words in enumerate(texts):
        if not words:
            raise ValueError(f"row {number}: found no word")
    return texts
