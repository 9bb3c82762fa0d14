"""predict for a registered masked language model: "The sky is [MASK]." → "The sky is blue."

Stored with the model beside pyfunc_model.py, which loads it, so it does not import the project that wrote it.
"""

from typing import Any

TEXTS_AT_ONCE = 32


class Model:
    """A masked language model, loaded from a folder."""

    def __init__(self, folder: Any, reference: dict[str, Any]):
        import torch
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        self.longest = reference["max_length"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForMaskedLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        self.model = model.to(device).eval()

    def predict(self, model_input: Any, params: Any = None) -> Any:
        """Return a table with one row per text: the text with masks filled, the words filled in, their probabilities.

        Raises ValueError for a text without a mask, or longer than max_length.
        """
        import pandas as pd

        texts = read_texts(model_input)
        for number, text in enumerate(texts):
            if self.tokenizer.mask_token not in text:
                raise ValueError(f"row {number}: found no {self.tokenizer.mask_token} in {text[:80]!r}")
        told = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            told += self._fill(texts[start : start + TEXTS_AT_ONCE], start)
        return pd.DataFrame(told)

    def _fill(self, texts: list[str], first: int) -> list[dict[str, Any]]:
        import torch

        encoded = self.tokenizer(texts, padding=True, return_token_type_ids=False, return_tensors="pt")
        lengths = encoded["attention_mask"].sum(dim=1).tolist()
        for number, length in enumerate(lengths, first):
            if self.longest and length > self.longest:
                raise ValueError(f"row {number}: found {length} tokens, more than {self.longest}; shorten the text")
        encoded = encoded.to(self.model.device)
        with torch.inference_mode():
            chances = torch.softmax(self.model(**encoded).logits.float(), dim=-1)
        lines = []
        for row, ids in enumerate(encoded["input_ids"]):
            places = (ids == self.tokenizer.mask_token_id).nonzero()[:, 0].tolist()
            best = chances[row, places].max(dim=-1)
            filled = ids.clone()
            filled[places] = best.indices
            lines.append(
                {
                    "text": self.tokenizer.decode(filled, skip_special_tokens=True),
                    "words": [str(self.tokenizer.decode([token])).strip() for token in best.indices.tolist()],
                    "probabilities": best.values.tolist(),
                }
            )
        return lines


def read_texts(model_input: Any) -> list[str]:
    """Convert MLflow's input to texts; raises ValueError if a row is not a text."""
    if isinstance(model_input, str):
        return [model_input]
    columns = getattr(model_input, "columns", None)
    texts = list(model_input) if columns is None else list(model_input[columns[0]])
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"row {number}: found {text!r}, not text")
    return texts
