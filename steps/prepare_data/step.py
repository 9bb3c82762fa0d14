"""Turn the user's files into checked rows, and rows into tokens."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steps import data_sources
from steps.artifacts import MANIFEST, Draft, Manifest, new_artifact, read_manifest
from steps.errors import Problem, UserError
from steps.params.settings import DataSettings
from steps.prepare_data.checking import DataCheck, check_data
from steps.prepare_data.markers import read_markers
from steps.prepare_data.splits import Preparation, write_split
from steps.prepare_data.splitting import SPLITS
from steps.prepare_data.templates import (
    KEEP,
    check_chat_template,
    control_tokens,
    load_tokenizer,
    stop_is_learned,
    training_template,
)
from steps.tasks import load_task

log = logging.getLogger("finetune")


def prepare_data(settings: DataSettings, tokenizer: Path, data: Path, report: Path) -> Manifest:
    """Check, split, tokenise, label and pack the rows into the artifact `data`; describe them in `report` (HTML).

    `tokenizer` is a tokenizer artifact or any folder with tokenizer files.
    Raises UserError with every problem of every file, when a file changed since the plan, or when the tokenizer
    cannot write the rows; Outage when a file does not answer.
    """
    from steps.reports import write_data_report

    preparation = _prepare(settings, tokenizer)
    refuse_changed(settings)
    lineage = {"inputs": _inputs(settings, tokenizer), "settings": settings.model_dump(mode="json")}
    data.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=data.parent, prefix=".rows-") as scratch:
        columns = load_task(settings.task).Columns(**settings.columns)
        checked = check_data(settings.task, settings.data_source, columns, settings.seed, Path(scratch))
        with new_artifact(data, "data", lineage) as draft:
            draft.facts = _write(draft, preparation, checked)
    report.parent.mkdir(parents=True, exist_ok=True)
    write_data_report(data, report)
    log.info("prepared %s", ", ".join(f"{len(checked.rows[name])} rows for {name}" for name in SPLITS))
    return read_manifest(data)


def refuse_changed(settings: DataSettings) -> None:
    """Raise UserError when a file holds other bytes than the plan saw.

    Not an Outage: the same plan would be refused again, only a new one can help.
    """
    problems = []
    for name in SPLITS:
        source = getattr(settings, name)
        if source is None:
            continue
        found = data_sources.look(name, settings.data_source, lambda code, what: None)
        now = data_sources.digest(found)
        if now != source.digest:
            problems.append(
                Problem("DATA-E0111", found[0].parameter if found else name, f"content {now[:12]} at {source.uri}",
                        f"{source.digest[:12]}, as planned", "run again: the file changed after the plan looked at it")
            )  # fmt: skip
    if problems:
        raise UserError(problems)


def _prepare(settings: DataSettings, folder: Path) -> Preparation:
    """Load the tokenizer and choose the template. Raises UserError when they do not fit what is asked for."""
    preprocessing = settings.preprocessing
    tokenizer = load_tokenizer(folder, preprocessing.chat_template)
    markers = read_markers(preprocessing, tokenizer)
    preparation = Preparation(settings, load_task(settings.task), tokenizer, markers=markers)
    if settings.task != "chat_completion":
        _refuse_text_without_end(settings, tokenizer)
        return preparation
    check_chat_template(tokenizer)
    kept = preprocessing.chat_template == KEEP
    preparation.control_tokens = control_tokens(tokenizer)
    preparation.template_name = "the model's own" if kept else preprocessing.chat_template
    if preprocessing.train_on_completions_only:
        if not tokenizer.is_fast:
            raise UserError(
                Problem("DATA-E0809", "train_on_completions_only", "a tokenizer without tokenizer.json",
                        "a fast tokenizer, which knows where each character went",
                        "convert the tokenizer, or set train_on_completions_only to false")
            )  # fmt: skip
        preparation.template = training_template(tokenizer)
        if preparation.template:
            preparation.template_name += ", with TRL's marks around the answers"
        if not stop_is_learned(tokenizer, preparation.template):
            preparation.warn("DATA-W0801", "the chat template leaves the end of the assistant's turn out of the loss: "
                             "the model may not learn to stop")  # fmt: skip
    return preparation


def _refuse_text_without_end(settings: DataSettings, tokenizer: Any) -> None:
    if not tokenizer.eos_token:
        raise UserError(
            Problem("DATA-E0807", "tokenizer", "no end-of-text token", "eos_token in tokenizer_config.json",
                    "add it to the model's tokenizer files")
        )  # fmt: skip
    if settings.preprocessing.train_on_completions_only and not settings.columns.get("ground_truth_key"):
        raise UserError(
            Problem("PARAM-E0206", "train_on_completions_only", "true without ground_truth_key",
                    "a column with the text to learn", "set ground_truth_key")
        )  # fmt: skip


def _write(draft: Draft, preparation: Preparation, checked: DataCheck) -> dict[str, Any]:
    """Write every split and gather the facts. Raises UserError with the problems of all splits."""
    settings = preparation.settings
    splits = {name: write_split(draft, name, checked.rows[name], preparation) for name in SPLITS}
    preparation.refuse_if_problems(splits)
    if settings.preprocessing.chat_template != KEEP and settings.task == "chat_completion":
        (draft / "chat_template.jinja").write_text(preparation.tokenizer.chat_template, encoding="utf-8")
    return {
        "task": settings.task,
        "max_length": settings.max_length,
        "packing": settings.preprocessing.packing,
        "template": preparation.template_name,
        "splits": splits,
        "sources": checked.sources,
        "repairs": checked.repairs,
        "warnings": checked.warnings + preparation.warnings,
        "samples": preparation.samples,
    }


def _inputs(settings: DataSettings, tokenizer: Path) -> dict[str, str]:
    given = {name: source.digest for name in SPLITS if (source := getattr(settings, name))}
    whole = (tokenizer / MANIFEST).is_file()
    return {**given, "tokenizer": read_manifest(tokenizer).digest} if whole else given
