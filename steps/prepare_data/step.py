"""Check the user's files and convert their rows to tokens."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from steps.artifacts import Manifest, has_manifest, new_artifact, read_manifest
from steps.errors import Problem, UserError
from steps.kinds import load
from steps.params.data import DataSource
from steps.params.settings import DataSettings
from steps.params.wording import in_words
from steps.prepare_data.check.checking import check_data
from steps.prepare_data.check.splitting import SPLITS
from steps.prepare_data.findings import forms_told, most_frequent
from steps.prepare_data.write.special_tokens import in_texts
from steps.prepare_data.write.token_range import refuse_roles_beyond, refuse_tokens_beyond
from steps.sources import data_sources
from steps.tasks import learns, load_task
from steps.tasks.rules.json_text import as_json

log = logging.getLogger("finetune")
WARNINGS_SHOWN = 5


def prepare_data(settings: DataSettings, tokenizer: Path, data: Path, report: Path) -> Manifest:
    """Check, split, tokenise, label and pack the rows into the artifact `data`; describe them in `report` (HTML).

    `tokenizer` is a tokenizer artifact or any folder with tokenizer files.
    Raises UserError with every problem of every file, if a file changed since the plan, or if the tokenizer cannot
    encode the rows; Outage if a source does not answer.
    """
    from steps.reports import write_data_report

    task = load_task(settings.task)
    writer = load(getattr(task, "WRITER", settings.recipe.writer))
    inputs = _inputs(settings, tokenizer)
    preparation = writer.prepare(settings, tokenizer)
    refuse_roles_beyond(preparation.tokenizer, tokenizer)
    refuse_changed(settings)
    lineage = {"inputs": inputs, "settings": settings.model_dump(mode="json")}
    data.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=data.parent, prefix=".rows-") as scratch:
        source = _with_asked(settings, Path(scratch))
        checked = check_data(settings.task, source, task.Columns(**settings.columns), settings.seed, Path(scratch))
        for line in forms_told(checked.repairs):
            log.info(line)
        ends, told = settings.recipe.kind.goes_on and learns(settings.task), preparation.control_tokens
        if preparation.tokenizer:
            checked.warnings += in_texts(checked.rows, preparation.tokenizer, ends, told)
        with new_artifact(data, "data", lineage) as draft:
            draft.facts = writer.write(draft, preparation, checked)
            for warning in draft.facts["warnings"]:
                warning["what"] = in_words(warning["what"], settings.names_told)
            if learns(settings.task):
                with_labels = settings.recipe.kind.has_encoder
                refuse_tokens_beyond(preparation.tokenizer, tokenizer, draft.path, with_labels)
    report.parent.mkdir(parents=True, exist_ok=True)
    write_data_report(data, report)
    log.info("prepared %s", ", ".join(f"{len(rows)} rows for {name}" for name, rows in checked.rows.items()))
    manifest = read_manifest(data)
    for line in most_frequent(manifest.facts["warnings"], WARNINGS_SHOWN):
        log.warning(line)
    return manifest


def _with_asked(settings: DataSettings, scratch: Path) -> DataSource:
    """Return the data parameters; prompts that are a parameter themselves become a file."""
    if not settings.asked:
        return settings.data_source
    key = load_task(settings.task).columns_of(load_task(settings.task).Columns(**settings.columns))[0]
    file = scratch / "prompt_conf.jsonl"
    file.write_text("".join(as_json({key: text}) + "\n" for text in settings.asked), encoding="utf-8")
    return settings.data_source.model_copy(update={"test_file_path": str(file)})


def refuse_changed(settings: DataSettings) -> None:
    """Raise UserError if the content of a file changed since the plan.

    This is not an Outage, because a retry with the same plan would fail again.
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
                        f"{source.digest[:12]}, as planned", "run again: the file changed after the plan")
            )  # fmt: skip
    if problems:
        raise UserError(problems)


def _inputs(settings: DataSettings, tokenizer: Path) -> dict[str, str]:
    given = {name: source.digest for name in SPLITS if (source := getattr(settings, name))}
    whole = has_manifest(tokenizer)
    return {**given, "tokenizer": read_manifest(tokenizer).digest} if whole else given
