"""Where the rows come from, how they are split, and how they become tokens."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from steps.errors import Problem
from steps.params.group import Group, Renamed
from steps.params.mixture import read_mixture

# The formats that come with us (steps/prepare_data/write/chat_templates/<name>.jinja) → the tokens that turns are
# made of.
TEMPLATE_TOKENS: dict[str, tuple[str, ...]] = {
    "chat-ml": ("<|im_start|>", "<|im_end|>"),
    "mistral-with-system": (),
    "poro": ("<|user|>", "<|assistant|>"),  # <|system|> was never a token of its own there
    "simplified-llama31": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
CHAT_TEMPLATES = ("keep", *TEMPLATE_TOKENS)  # "keep" is the model's own
TOKEN_IDS = re.compile(r"\s*\d+\s*(,\s*\d+\s*)*")


class DataSource(Group):
    """Which rows are learned from and which are held out."""

    train_file_path: str = ""
    """Training rows: jsonl, json, csv, tsv, parquet or .gz; files, folders, patterns or URIs, separated by commas."""

    validation_file_path: str = ""
    """Rows for evaluation during training, given in the same ways; empty takes a share of the training rows."""

    test_file_path: str = ""
    """Rows for the final comparison of base and tuned model; empty takes a share of the training rows."""

    train_mltable_path: str = ""
    """Training rows as an MLTable folder; wins over train_file_path."""

    validation_mltable_path: str = ""
    """Validation rows as an MLTable folder; wins over validation_file_path."""

    test_mltable_path: str = ""
    """Test rows as an MLTable folder; wins over test_file_path."""

    dataset_name: str = ""
    """Data set on the Hugging Face Hub, or a folder that load_dataset or load_from_disk reads; files win over it."""

    dataset_config: str = Field("default", min_length=1)
    """Configuration of the data set, where it has several."""

    dataset_revision: str = ""
    """Branch, tag or commit of the data set; empty takes the newest, which the plan pins to its commit."""

    dataset_split: str = Field("train", min_length=1)
    """Split of the data set that is learned from."""

    dataset_validation_split: str = ""
    """Split of the data set for evaluation during training; empty takes a share of the training rows."""

    dataset_test_split: str = ""
    """Split of the data set for the final comparison; empty takes a share of the training rows."""

    training_data: str = ""
    """Several weighted sources: JSON [{"path": …, "sampling_weight": 1.0}, …]; all 1.0 take turns, 0 drops one."""

    mixing_seed: int = 19851243
    """Seed of the draws between the sources of training_data; another one gives another order."""

    processing_function: str = ""
    """Function of yours that changes, multiplies or drops rows before they are checked: file.py:function."""

    delimiter: str = ""
    """Character between the columns of csv and tsv files, or tab; empty takes a comma for .csv and a tab for .tsv."""

    escapechar: str = Field("", max_length=1)
    """Character before a quote that belongs to the text of a csv or tsv cell; empty knows doubled quotes only."""

    json_field: str = ""
    """Key under which a .json file that is an object holds its list of rows; empty expects the list itself."""

    max_files: int = Field(10_000, ge=1)
    """Most files of one split; a folder with more is refused instead of being read for hours."""

    max_row_mib: int = Field(64, ge=1)
    """Largest row in MiB; a longer one is refused before it fills the memory."""

    max_nesting: int = Field(64, ge=1, le=900)
    """Deepest nesting of lists and objects in a row."""

    max_expand: int = Field(100, ge=1)
    """Most that a .gz or parquet file may grow when unpacked, as a multiple of its size; the first 64 MiB are free."""

    split: Literal["shuffled", "positional"] = "shuffled"
    """How missing validation and test rows are taken from the training rows: shuffled with the seed, or by position."""

    auto_split: bool = True
    """Take missing validation and test rows from the training rows; false refuses a run that does not name them."""

    dedup: bool = False
    """Drop training rows that are the same as an earlier one; they are counted as repaired."""

    min_train_rows: int = Field(10, ge=1)
    """The run is refused when fewer training rows are left after the split."""

    @field_validator("training_data", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """A configuration file may hold the list itself."""
        return json.dumps(value) if isinstance(value, list | dict) and value else value

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
        """Training rows are not optional, and come from one kind of source."""
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
        if self.escapechar and self.escapechar == self.delimiter:
            yield Problem("PARAM-E0235", "escapechar", repr(self.escapechar), "another character than delimiter",
                          "change one of them")  # fmt: skip


class Preprocessing(Group):
    """How rows become tokens; done once, before any GPU is claimed."""

    batch_size: int = Field(1000, ge=1)
    """Rows handed to the tokenizer at a time."""

    max_seq_length: Annotated[int, Renamed(names=("max_length",))] = Field(-1, ge=-1)
    """Longest row in tokens; -1 takes the model's own limit (512 where the model names none)."""

    pad_to_max_length: bool = False
    """Pad every batch to max_seq_length instead of its longest row; slower, for kernels that want fixed shapes."""

    length_handling: Literal["truncate", "filter"] = "truncate"
    """What happens to rows longer than max_seq_length: cut at the end, or left out; both are counted."""

    packing: bool = False
    """Fill each training sequence with several short rows; positions and attention keep them apart."""

    train_on_completions_only: bool = False
    """Learn only the answers: assistant turns of a chat, or ground_truth_key of a text; the prompt carries no loss."""

    chat_template: Annotated[str, Renamed(names=("chat_template_name",), values={"keep-original": "keep"})] = Field(
        "keep", min_length=1
    )
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

    strict: bool = False
    """Refuse texts that hold U+0000 instead of warning of them."""
