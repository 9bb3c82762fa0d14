"""Answer every row of the data once, and write the answers; a run that was ended goes on where it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steps.artifacts import Manifest, new_artifact, read_manifest
from steps.errors import Preempted, Problem
from steps.generate.answering import Inputs, answer, opened
from steps.generate.asking import Asking
from steps.generate.journal import ENGINE, Journal
from steps.generate.places import journal_for
from steps.generate.processes import answer_in_processes, devices_of_processes
from steps.generate.progress import Progress
from steps.generate.rows import InputRows
from steps.generate.survey import Survey, survey
from steps.generate.uploading import upload
from steps.generate.writing import write_answers
from steps.launch.devices import refuse_missing_gpus
from steps.models.identity import checked
from steps.params.settings import GenerateSettings
from steps.redaction import masked
from steps.stopping import Stopped

log = logging.getLogger("finetune")


def generate(
    settings: GenerateSettings,
    model: Path | None,
    data: Path,
    generations: Path,
    report: Path | None = None,
    adapter: Path | None = None,
) -> Manifest:
    """Answer the rows of `data` (kind data) with `model`, and write `generations` and, if wanted, an HTML `report`.

    `model` is None for an endpoint; `adapter` is served beside the model. Answers are kept as they come, so that a run
    that was killed or stopped goes on when it is started again with the same inputs and settings.

    Raises UserError without rows, for a conversation that the chat template refuses, and for a request that the engine
    refuses; Outage if an input is missing or a server does not answer; OutOfResources without memory or without
    requested GPUs; Preempted if stopped from outside.
    """
    refuse_missing_gpus(settings.gpus)
    digests = _digests(model, data, adapter)
    inputs = Inputs(settings, model, adapter, data)
    rows = InputRows(data, settings)
    with journal_for(settings, digests, generations) as journal:
        seen = survey(rows, Asking(settings.decoding, model, data), journal)
        progress = _progress(rows, journal, settings.decoding.num_return_sequences)
        with _told_when_stopped(journal, progress):
            facts = _answer_all(inputs, journal, progress)
            _write(generations, inputs, digests, rows, journal, seen, facts)
            if settings.upload_dir:
                upload(generations, settings.upload_dir)
        if report:
            from steps.reports import write_generations_report  # imports jinja2, which only a report needs

            write_generations_report(generations, report)
    return read_manifest(generations)


def _digests(model: Path | None, data: Path, adapter: Path | None) -> dict[str, str]:
    """Check the inputs; return the digests of those that are given."""
    digests = {"data": read_manifest(data, "data").digest}
    if model is not None:
        digests["model"] = checked(model)
    if adapter is not None:
        digests["adapter"] = read_manifest(adapter, "adapter").digest
    return digests


def _progress(rows: InputRows, journal: Journal, samples: int) -> Progress:
    before = sum(len(journal.places(segment)) for segment in range(rows.segments))
    return Progress(rows.count, samples, before)


def _answer_all(inputs: Inputs, journal: Journal, progress: Progress) -> dict[str, Any]:
    """Ask for the answers that the journal lacks; return facts about how they were made."""
    before, left = progress.before, progress.rows * progress.samples - progress.before
    devices = devices_of_processes(inputs) if left else [None]
    if len(devices) > 1:
        answer_in_processes(inputs, journal, progress, devices)
    elif left:
        with opened(inputs, journal) as engine:
            progress.begin()
            answer(inputs, engine, journal, progress)
    if left:
        log.info("%s", progress.line())
    return {
        "engine": journal.kept(ENGINE) or {},
        "processes": len(devices),
        "answers_before": before,
        "seconds": round(progress.seconds, 3),
        "tokens_per_second": round(progress.tokens_per_second, 1),
    }


def _write(
    generations: Path,
    inputs: Inputs,
    digests: dict[str, str],
    rows: InputRows,
    journal: Journal,
    seen: Survey,
    facts: dict[str, Any],
) -> None:
    settings = inputs.settings
    lineage = {"inputs": digests, "settings": masked(settings.model_dump(mode="json"))}
    with new_artifact(generations, "generations", lineage) as draft:
        tally = write_answers(draft, inputs, rows, journal, seen)
        draft.facts = {**tally.facts(), "samples": settings.decoding.num_return_sequences, **facts}
    log.info("wrote %s answers to %s rows", f"{tally.answers:,}", f"{tally.rows:,}")


@contextmanager
def _told_when_stopped(journal: Journal, progress: Progress) -> Iterator[None]:
    """Say how many rows are answered when the run is stopped from outside."""
    try:
        yield
    except Stopped:
        raise stopped(journal, progress) from None


def stopped(journal: Journal, progress: Progress) -> Preempted:
    """Return the error of a run that was stopped from outside; its answers are kept."""
    return Preempted(
        Problem("GEN-E1431", f"after {progress.rows_done:,} of {progress.rows:,} rows", "a request to stop",
                "answers to all rows", "run again with the same inputs and settings: it goes on there"),
        resume_from=journal.place,
    )  # fmt: skip
