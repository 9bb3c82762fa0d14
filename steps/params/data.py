"""Data sources, held-out splits and tokenisation."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from steps.errors import Problem
from steps.params.group import Group, Renamed
from steps.params.mixture import read_mixture
from steps.params.several import JSON, LINES

# Built-in chat templates (steps/prepare_data/write/chat_templates/<name>.jinja) → their control tokens.
TEMPLATE_TOKENS: dict[str, tuple[str, ...]] = {
    "chat-ml": ("<|im_start|>", "<|im_end|>"),
    "mistral-with-system": (),
    "poro": ("<|user|>", "<|assistant|>"),  # <|system|> is not a single token there
    "simplified-llama31": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
CHAT_TEMPLATES = ("keep", *TEMPLATE_TOKENS)  # "keep": the model's own template
TOKEN_IDS = re.compile(r"\s*\d+\s*(,\s*\d+\s*)*")


class FilePaths(Group):
    """Files with training rows and held-out rows."""

    train_file_path: Annotated[str, LINES] = ""
    """Training rows in jsonl, json, csv, tsv, parquet or .gz: files, folders, patterns or URIs, separated by commas."""

    validation_file_path: Annotated[str, LINES] = ""
    """Rows for evaluation during training, in the same formats; empty splits them off the training rows."""

    test_file_path: Annotated[str, LINES] = ""
    """Rows for the final comparison of base and tuned model; empty splits them off the training rows."""

    train_mltable_path: str = ""
    """Training rows as an MLTable folder; overrides train_file_path."""

    validation_mltable_path: str = ""
    """Validation rows as an MLTable folder; overrides validation_file_path."""

    test_mltable_path: str = ""
    """Test rows as an MLTable folder; overrides test_file_path."""


class HubDataset(Group):
    """A data set of the Hugging Face Hub."""

    dataset_name: str = ""
    """Data set on the Hugging Face Hub, or a folder for load_dataset or load_from_disk; file paths override it."""

    dataset_config: str = Field("default", min_length=1)
    """Configuration of the data set, if it has several."""

    dataset_revision: str = ""
    """Branch, tag or commit of the data set; empty uses the newest commit, which the plan pins."""


class DatasetSplits(Group):
    """Splits of a data set, and mixtures of sources."""

    dataset_split: str = Field("train", min_length=1)
    """Split of the data set used for training."""

    dataset_validation_split: str = ""
    """Split of the data set for evaluation during training; empty splits rows off the training rows."""

    dataset_test_split: str = ""
    """Split of the data set for the final comparison; empty splits rows off the training rows."""

    training_data: Annotated[str, JSON] = ""
    """Weighted sources, as JSON: [{"path": …, "sampling_weight": 1.0}, …]; all 1.0 alternates, 0 leaves one out."""

    mixing_seed: int = 19851243
    """Seed for sampling from the sources of training_data; changes the row order."""


class RowReading(Group):
    """How files of rows are read."""

    processing_function: str = ""
    """Your function that changes, multiplies or drops rows before they are checked, as file.py:function."""

    delimiter: str = ""
    """Column separator of csv and tsv files, one character or tab; empty uses a comma for .csv and a tab for .tsv."""

    escapechar: str = Field("", max_length=1)
    """Escape character before a quote inside a csv or tsv cell; empty accepts only doubled quotes."""

    json_field: str = ""
    """Key of the list of rows in a .json file that contains an object; empty expects a file that is the list."""

    max_files: int = Field(10_000, ge=1)
    """Maximum number of files per split; a folder with more is refused, as reading it would take hours."""

    max_row_mib: int = Field(64, ge=1)
    """Maximum size of a row in MiB; a larger one is refused before it exhausts memory."""

    max_nesting: int = Field(64, ge=1, le=900)
    """Maximum nesting depth of lists and objects in a row."""

    max_expand: int = Field(100, ge=1)
    """Maximum ratio of unpacked to packed size of a .gz or parquet file; the first 64 MiB are not counted."""

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str) -> str:
        value = {"tab": "\t", "\\t": "\t"}.get(value, value)
        if len(value) > 1 or value in ('"', "\n", "\r"):
            raise ValueError("one character other than a quote or a line end, or tab")
        return value

    @field_validator("escapechar")
    @classmethod
    def _escapes(cls, value: str) -> str:
        if value and value in '"\n\r':
            raise ValueError("one character other than a quote or a line end")
        return value

    def conflicts(self) -> Iterator[Problem]:
        """Refuse one character with two meanings."""
        if self.escapechar and self.escapechar == self.delimiter:
            yield Problem("PARAM-E0235", "escapechar", repr(self.escapechar), "a character other than delimiter",
                          "change one of them")  # fmt: skip


class Splitting(Group):
    """Held-out splits."""

    split: Literal["shuffled", "positional"] = "shuffled"
    """How held-out rows are split off the training rows: shuffled with the seed, or by position."""

    auto_split: bool = True
    """Split missing validation and test rows off the training rows; false refuses a run without them."""

    dedup: bool = False
    """Drop training rows that repeat an earlier one; they are counted as repaired."""

    min_train_rows: int = Field(10, ge=1)
    """Minimum number of training rows after the split; with fewer, the run is refused."""


class DataSource(Splitting, RowReading, DatasetSplits, HubDataset, FilePaths):
    """Training rows and held-out rows."""

    def conflicts(self) -> Iterator[Problem]:
        """Require training rows from exactly one kind of source."""
        files = self.train_file_path or self.train_mltable_path
        if not (files or self.training_data or self.dataset_name):
            yield Problem("PARAM-E0203", "train_file_path", "nothing", "the training rows",
                          "set train_file_path to a jsonl, json, csv, tsv or parquet file")  # fmt: skip
        if self.training_data and (files or self.dataset_name):
            other = next(name for name in ("train_mltable_path", "train_file_path", "dataset_name")
                         if getattr(self, name))  # fmt: skip
            yield Problem("PARAM-E0230", "training_data", f"{other} as well", "one of them",
                          f"name the rows of {other} in training_data too, or leave one out")  # fmt: skip
        if self.training_data:
            _, problems = read_mixture(self.training_data)
            yield from problems
        if not self.auto_split:
            for name in ("validation", "test"):
                if not any(getattr(self, f"{name}_{kind}_path") for kind in ("file", "mltable")) and not (
                    self.dataset_name and getattr(self, f"dataset_{name}_split")
                ):
                    yield Problem("PARAM-E0236", f"{name}_file_path", "nothing, and auto_split=false",
                                  f"rows for {name}", f"set {name}_file_path, or auto_split=true")  # fmt: skip


class Tokenisation(Group):
    """Tokens of rows."""

    batch_size: int = Field(1000, ge=1)
    """Rows per tokenizer call."""

    max_seq_length: Annotated[int, Renamed(names=("max_length", "seq_length"))] = Field(-1, ge=-1)
    """Maximum length of a row in tokens; -1 uses the model's limit (512 if it has none)."""

    pad_to_max_length: bool = False
    """Pad every batch to max_seq_length instead of its longest row; slower, for kernels that need fixed shapes."""

    length_handling: Literal["truncate", "filter"] = "truncate"
    """What to do with rows longer than max_seq_length: truncate the end, or leave out (filter); both are counted."""

    packing: bool = False
    """Pack several short rows into each training sequence; positions and attention keep the rows separate."""

    train_on_completions_only: bool = False
    """Compute loss only on answers (assistant turns of a chat, ground_truth_key of a text), not on the prompt."""


class ChatTemplate(Group):
    """How conversations become text."""

    chat_template: Annotated[str, Renamed(names=("chat_template_name",), values={"keep-original": "keep"})] = Field(
        "keep", min_length=1
    )
    """Chat template: keep, a name of the model's, chat-ml, mistral-with-system, poro, simplified-llama31, or a file."""


class AnswerMarkers(Group):
    """Answers found by the text before them."""

    response_template: str = ""
    """Marker before each answer: loss only on the text after it, up to instruction_template or the end of the row."""

    instruction_template: str = ""
    """Marker before each question; empty: loss only on the text after the last response_template of a row."""

    comma_separated_template: bool = False
    """Read both markers as comma-separated token ids, not text; exact if a text can be tokenised in several ways."""


class Preprocessing(AnswerMarkers, ChatTemplate, Tokenisation):
    """Tokenisation; done once, before a GPU is requested."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse two ways to select the answers, and markers that cannot be parsed."""
        if self.response_template and self.train_on_completions_only:
            yield Problem("PARAM-E0281", "response_template", "set with train_on_completions_only=true",
                          "one way to select the answers", "leave one of the two out")  # fmt: skip
        if not self.response_template and (self.instruction_template or self.comma_separated_template):
            name = "instruction_template" if self.instruction_template else "comma_separated_template"
            yield Problem("PARAM-E0282", name, "set without response_template", "the marker before each answer",
                          "set response_template")  # fmt: skip
        for name in ("response_template", "instruction_template"):
            text = getattr(self, name)
            if self.comma_separated_template and text and not TOKEN_IDS.fullmatch(text):
                yield Problem("PARAM-E0283", name, repr(text[:60]), "token ids such as 128006,78191,128007",
                              "write ids separated by commas, or set comma_separated_template to false")  # fmt: skip


class TextColumns(Group):
    """Column names of plain text data."""

    text_key: str = Field("text", min_length=1)
    """Column with the text, or with the prompt if ground_truth_key is set."""

    ground_truth_key: str = ""
    """Column with the text that should follow text_key; empty if text_key holds the whole text."""

    text_separator: str = ""
    """Text between text_key and ground_truth_key; empty joins them directly."""

    strict: bool = False
    """Refuse texts that contain U+0000; false only warns."""
