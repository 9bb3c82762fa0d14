"""predict for a registered encoder-decoder model: summaries or translations of texts.

Stored with the model beside pyfunc_model.py, which loads it, so it does not import the project that wrote it.
"""

import json
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

TEXTS_AT_ONCE = 16
OPENING = ("decoder_start_token_id", "forced_bos_token_id")  # tokens before an answer
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", *OPENING, "forced_eos_token_id")
NEVER_WRITTEN = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens")  # Marian models need these


class Model:
    """An encoder-decoder model; its tokenizer and generation settings define its languages."""

    def __init__(self, folder: Any, reference: dict[str, Any]):
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        self.reference = reference
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.tokenizer.truncation_side = "right"
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False,
            **generation_tokens(Path(folder)),
        )  # fmt: skip
        self.model = model.to(device).eval()

    def predict(self, model_input: Any, params: Any = None) -> list[str]:
        """Answer every text; one that is longer than max_length is truncated at its end."""
        before, after = self.reference["prompt_form"]
        texts = [f"{before}{text}{after}" for text in read_texts(model_input)]
        most = int((params or {}).get("max_new_tokens") or self.reference["max_new_tokens"])
        answers: list[str] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            answers += self._answer(texts[start : start + TEXTS_AT_ONCE], most)
        return answers

    def _answer(self, texts: list[str], most: int) -> list[str]:
        import torch
        from transformers import GenerationConfig

        encoded = self.tokenizer(
            texts,
            truncation=True,
            max_length=self.reference["max_length"],
            padding=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        positions = getattr(self.model.config, "max_position_embeddings", None)
        named = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
        # Other settings, for the first tokens of an answer, are taken from the model's own generation settings.
        how = GenerationConfig(
            do_sample=False,
            num_beams=self.reference["num_beams"],
            early_stopping=False,
            length_penalty=1.0,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            encoder_no_repeat_ngram_size=0,
            min_length=0,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            max_new_tokens=min(most, positions - 1) if positions else most,
            eos_token_id=sorted(ends) or None,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with torch.inference_mode():
            output = self.model.generate(**encoded.to(self.model.device), generation_config=how)
        opening = {getattr(self.model.generation_config, name) for name in OPENING} | {self.tokenizer.bos_token_id}
        return list(self.tokenizer.batch_decode([self._answered(row, ends, opening) for row in output.tolist()]))

    def _answered(self, row: list[int], ends: set[int], opening: set[int | None]) -> list[int]:
        """Return the tokens of an answer: only those before it, end and padding tokens are left out."""
        begun = dropwhile(lambda token: token in opening, row)
        answer = takewhile(lambda token: token not in ends, begun)
        return [token for token in answer if token != self.tokenizer.pad_token_id]


def generation_tokens(folder: Path) -> dict[str, Any]:
    """Return the generation settings to load a model with: its special tokens, as in its evaluation.

    transformers refuses to load settings that contradict each other, and generate() would add all others to ours.
    """
    from transformers import GenerationConfig

    file = folder / "generation_config.json"
    if not file.is_file():
        return {}
    told = json.loads(file.read_text(encoding="utf-8"))
    tokens = {name: told[name] for name in TOKENS if told.get(name) not in (None, -1)}
    never = {name: told[name] for name in NEVER_WRITTEN if told.get(name)}
    try:
        return {"generation_config": GenerationConfig(**tokens, **never)}
    except ValueError:  # tokens that are forced and forbidden
        return {"generation_config": GenerationConfig(**tokens)}


def read_texts(model_input: Any) -> list[str]:
    """Convert MLflow's input to texts; raises ValueError if a row is not a text."""
    if isinstance(model_input, str):
        return [model_input]
    columns = getattr(model_input, "columns", None)
    rows = list(model_input) if columns is None else list(model_input[columns[0]])
    for number, row in enumerate(rows):
        if not isinstance(row, str):
            raise ValueError(f"row {number}: found {row!r}, not a text")
    return rows
