"""Prompts to answer: the rows as they are, without tokens, and the chat template of the conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.artifacts import Draft
from steps.errors import UserError
from steps.models.chat_templates import set_at_the_server
from steps.models.layout import VOCABULARIES
from steps.params.settings import DataSettings
from steps.prepare_data.check.checking import DataCheck
from steps.prepare_data.check.rows import Rows, read_back
from steps.prepare_data.write.questions import render_questions
from steps.prepare_data.write.settling import settle, settle_clock, store_templates
from steps.prepare_data.write.splits import Preparation, note_forged_turns
from steps.prepare_data.write.templates import KEEP, end_of_turn, load_tokenizer
from steps.prepare_data.write.tokenising import RefusedRows
from steps.prepare_data.write.writing import write_rows
from steps.tasks import load_task


def prepare(settings: DataSettings, folder: Path) -> Preparation:
    """Load the tokenizer with its chat template; a folder without a tokenizer is that of a server, which has its own.

    Raises UserError if the template does not exist or does not fit the tokenizer.
    """
    known = any((folder / name).is_file() for name in VOCABULARIES)
    chosen = settings.preprocessing.chat_template
    if not known and chosen != KEEP:
        raise UserError(set_at_the_server(chosen))
    return Preparation(settings, load_task(settings.task), load_tokenizer(folder, chosen) if known else None)


def write(draft: Draft, preparation: Preparation, checked: DataCheck) -> dict[str, Any]:
    """Write every split and return the facts. Raises UserError with the problems of all splits."""
    talks = {name: _conversations(rows) for name, rows in checked.rows.items()}
    renders = any(talks.values()) and preparation.tokenizer is not None
    if renders:
        settle(preparation)
        settle_clock(preparation)
    splits = {name: _write_split(draft, name, rows, preparation) for name, rows in checked.rows.items()}
    preparation.judge_forged_turns()
    if preparation.problems:
        raise UserError(preparation.problems)
    if renders:
        store_templates(draft, preparation)
    return {
        "task": preparation.settings.task,
        "template": preparation.template_name if renders else "",
        "end_of_turn": end_of_turn(preparation.tokenizer) if renders else "",
        "splits": {name: {**facts, "conversations": talks[name], "texts": facts["rows"] - talks[name]}
                   for name, facts in splits.items()},
        "sources": checked.sources,
        "repairs": checked.repairs,
        "warnings": checked.warnings + preparation.warnings,
    }  # fmt: skip


def _conversations(rows: Rows) -> int:
    """Return how many rows are conversations."""
    size = 8192
    tables = (rows.table(start, start + size) for start in range(0, len(rows), size))
    return sum(len(table) - table["prompt"].null_count for table in tables)


def _write_split(draft: Draft, name: str, rows: Rows, preparation: Preparation) -> dict[str, Any]:
    """Write rows/<name>.parquet, and look for conversations that the chat template refuses."""
    write_rows(draft / f"rows/{name}.parquet", rows)
    size = preparation.settings.preprocessing.batch_size
    columns = preparation.task.Columns(**preparation.settings.columns)
    references = 0
    refusals: dict[int, str] = {}
    for start in range(0, len(rows), size):
        batch = read_back(rows.table(start, start + size))
        references += sum(row["reference"] is not None for row in batch)
        asked = [preparation.task.training_row(row, columns) for row in batch]
        if preparation.tokenizer is None:
            continue
        note_forged_turns(rows, start, asked, preparation)
        talks = [number for number, row in enumerate(asked) if "messages" in row]
        try:
            render_questions(preparation.tokenizer, [asked[number] for number in talks])
        except RefusedRows as refused:
            for position, why in refused.refusals.items():
                refusals[start + talks[position]] = why
    preparation.refuse_rows(rows, refusals)
    return {"source": rows.source, "rows": len(rows), "references": references}
