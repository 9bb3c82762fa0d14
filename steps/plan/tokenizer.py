"""Whether the tokenizer can be loaded where the steps run, and has the chat template that the rows need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec

from steps.errors import Problem
from steps.models.chat_templates import undecided
from steps.models.layout import VOCABULARIES
from steps.models.new_tokens import reads_tokenizer
from steps.models.tokenizer_files import TOKENIZER, unfit_files
from steps.params.data import DataSource
from steps.plan.row_counts import first_row
from steps.plan.seen import Seen
from steps.plan.sources import ModelFound
from steps.sources import data_sources
from steps.tasks import load_task

# Tokenizer classes of transformers that read a sentencepiece model even where tokenizer.json exists.
SLOW_CLASSES = {"BertGenerationTokenizer", "GPTSw3Tokenizer", "M2M100Tokenizer", "MarianTokenizer", "PLBartTokenizer"}
# The first line of a vocabulary of tiktoken: base64 and a number.
TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\s")
# Module → the package that has it.
SENTENCEPIECE = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}


def tokenizer_problems(seen: Seen) -> Iterator[Problem]:
    """Yield a problem if the tokenizer's files need a package that is not installed."""
    if seen.model:
        yield from package_problems_of(seen.model)


def package_problems_of(model: ModelFound) -> Iterator[Problem]:
    """Do the same for a model."""
    source, names = model.tokenizer
    config = model.layout.tokenizer_config
    slow = str(config.get("tokenizer_class") or "") in SLOW_CLASSES
    if TOKENIZER in names and not slow:
        return
    file = min((name for name in VOCABULARIES & set(names) if name.endswith((".model", ".spm"))), default="")
    file = file or min((name for name in names if name.endswith(".spm")), default="")
    if not file:
        return
    needed = SENTENCEPIECE
    if file == "tokenizer.model" and TIKTOKEN.match(source.read_start(names[file], 256)):
        needed = {"tiktoken": "tiktoken"}
    packages = [package for module, package in needed.items() if not _is_there(module)]
    if packages:
        instead = "" if slow else ", or write tokenizer.json where they are installed: " \
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"  # fmt: skip
        yield Problem("PLAN-E0362", source.parameter,
                      f"the tokenizer file {file}, but not the package {' and '.join(packages)}",
                      f"{' and '.join(packages)} installed" if slow else f"{TOKENIZER}, or the package installed",
                      f"pip install {' '.join(packages)} where the steps run{instead}")  # fmt: skip


def tokenizer_file_problems(seen: Seen) -> Iterator[Problem]:
    """Yield a problem if a JSON file of the tokenizer, where it is on this machine, is truncated or cannot be used."""
    if seen.model and not reads_tokenizer(seen.parameters):  # the look for new tokens has told it then
        yield from file_problems_of(seen.model)


def file_problems_of(model: ModelFound) -> Iterator[Problem]:
    """Do the same for a model."""
    source, names = model.tokenizer
    here = {name: path for name, path in names.items() if source.local(path)}
    yield from unfit_files(source.parameter, here, source.read)


def template_problems(seen: Seen) -> Iterator[Problem]:
    """Yield a problem if the rows are conversations and nothing says how they are written as text."""
    if not seen.model or seen.parameters.chat_template != "keep" or not _has_conversations(seen):
        return
    if problem := undecided(seen.template.own):
        yield problem


def _has_conversations(seen: Seen) -> bool:
    """Return whether the rows have conversations; rows of preferences may be plain texts, as their first row tells."""
    p = seen.parameters
    if p.task != "preference":
        return load_task(p.task).CONVERSATIONS
    found = seen.data.get("train")
    uri = data_sources.description("train", DataSource.of(p)) if found else ""
    row = first_row(uri) or {}
    return any(isinstance(value, list) and value and isinstance(value[0], dict) for value in row.values())


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False
