"""Where the rows come from, how they are split, and how they become tokens."""

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from steps.errors import Problem
from steps.params.group import Group

# The formats that come with us: steps/prepare_data/chat_templates/<name>.jinja. "keep" is the model's own.
CHAT_TEMPLATES = ("keep", "chat-ml", "mistral-with-system", "poro", "simplified-llama31")
TOKEN_IDS = re.compile(r"\s*\d+\s*(,\s*\d+\s*)*")


class DataSource(Group):
    """Which rows are learned from and which are held out."""

    train_file_path: str = ""
    """Training rows: jsonl, json, csv, tsv or parquet; a path or any fsspec URI."""

    validation_file_path: str = ""
    """Rows for evaluation during training; empty takes a share of the training rows."""

    test_file_path: str = ""
    """Rows for the final comparison of base and tuned model; empty takes a share of the training rows."""

    train_mltable_path: str = ""
    """Training rows as an MLTable folder; wins over train_file_path."""

    validation_mltable_path: str = ""
    """Validation rows as an MLTable folder; wins over validation_file_path."""

    test_mltable_path: str = ""
    """Test rows as an MLTable folder; wins over test_file_path."""

    split: Literal["shuffled", "positional"] = "shuffled"
    """How missing validation and test rows are taken from the training rows: shuffled with the seed, or by position."""

    min_train_rows: int = Field(10, ge=1)
    """The run is refused when fewer training rows are left after the split."""

    def conflicts(self) -> Iterator[Problem]:
        """Training rows are not optional."""
        if not (self.train_file_path or self.train_mltable_path):
            yield Problem("PARAM-E0203", "train_file_path", "nothing", "the training rows",
                          "set train_file_path to a jsonl, json, csv, tsv or parquet file")  # fmt: skip


class Preprocessing(Group):
    """How rows become tokens; done once, before any GPU is claimed."""

    batch_size: int = Field(1000, ge=1)
    """Rows handed to the tokenizer at a time."""

    max_seq_length: int = Field(-1, ge=-1)
    """Longest row in tokens; -1 takes the model's own limit (512 where the model names none)."""

    pad_to_max_length: bool = False
    """Pad every batch to max_seq_length instead of its longest row; slower, for kernels that want fixed shapes."""

    length_handling: Literal["truncate", "filter"] = "truncate"
    """What happens to rows longer than max_seq_length: cut at the end, or left out; both are counted."""

    packing: bool = False
    """Fill each training sequence with several short rows; positions and attention keep them apart."""

    train_on_completions_only: bool = False
    """Learn only the answers: assistant turns of a chat, or ground_truth_key of a text; the prompt carries no loss."""

    chat_template: str = Field("keep", min_length=1)
    """Jinja chat template: keep (the model's), chat-ml, mistral-with-system, poro, simplified-llama31, or a file."""

    response_template: str = ""
    """Marker before each answer: only what follows it, up to instruction_template or the row's end, is learned."""

    instruction_template: str = ""
    """Marker before each question; empty learns only what follows the last response_template of a row."""

    comma_separated_template: bool = False
    """The two markers are token ids with commas between them, not text: exact where a text has several spellings."""

    def conflicts(self) -> Iterator[Problem]:
        """Answers are told apart in one way only, and markers can be read."""
        if self.response_template and self.train_on_completions_only:
            yield Problem("PARAM-E0281", "response_template", "set beside train_on_completions_only=true",
                          "one way to tell answers apart", "leave one of the two out")  # fmt: skip
        if not self.response_template and (self.instruction_template or self.comma_separated_template):
            name = "instruction_template" if self.instruction_template else "comma_separated_template"
            yield Problem("PARAM-E0282", name, "set without response_template", "the marker before each answer",
                          "set response_template")  # fmt: skip
        for name in ("response_template", "instruction_template"):
            text = getattr(self, name)
            if self.comma_separated_template and text and not TOKEN_IDS.fullmatch(text):
                yield Problem("PARAM-E0283", name, repr(text[:60]), "token ids such as 128006,78191,128007",
                              "write ids with commas, or set comma_separated_template to false")  # fmt: skip


class TextColumns(Group):
    """Column names of plain text data."""

    text_key: str = Field("text", min_length=1)
    """Column with the text, or with the prompt when ground_truth_key is given."""

    ground_truth_key: str = ""
    """Column with the text that should follow text_key; empty when text_key holds the whole text."""

    text_separator: str = ""
    """Put between text_key and ground_truth_key, which are otherwise joined without any."""
