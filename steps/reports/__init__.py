"""HTML reports, written from the facts that the steps stored on disk.

A page is one file that needs no script and loads no other file, so it can be mailed, printed and shown inside the
sandboxed frame of the KFP interface. It consists of sections; a section is one module with a function
`section(folder)`, which reads an artifact, and one template. Facts are computed by the steps, not here.

    sections/    one module per section
    verdict.py   the head of the run report          charts.py   SVG charts
    formats.py   formats of numbers and long texts   page.py     sections → file
    label_facts.py   the evaluation of a classifier (also tag_facts, answer_facts, preference_facts,
                     reward_facts); reward_training.py: curves and completions of a training with rewards
    sweep_facts.py, sweep_charts.py, scales.py   the report of a sweep
    facts.py     the JSON files that sections read   step.py     the step that writes the run report

To add a section: a module in `sections/` with `READS` and `section(folder)`, a template, and a test.
"""

from __future__ import annotations

from pathlib import Path


def write_plan_report(plan: Path, file: Path) -> None:
    """Write the report of a plan: tasks, sources and settings; `plan` is the folder with plan.json."""
    _write(file, "Plan", plan=plan)


def write_data_report(data: Path, file: Path) -> None:
    """Write the report of the prepared data; `data` is a data artifact."""
    _write(file, "Data", data=data)


def write_training_report(tuned: Path, file: Path) -> None:
    """Write the report of the training; `tuned` is the artifact with history.json."""
    _write(file, "Training", training=tuned)


def write_evaluation_report(evaluation: Path, file: Path) -> None:
    """Write the comparison of base and tuned model; `evaluation` is an evaluation artifact."""
    _write(file, "Evaluation", evaluation=evaluation)


def write_generations_report(generations: Path, file: Path, scores: Path | None = None) -> None:
    """Write the report of batch inference, with the scores of the answers if there are any."""
    _write(file, "Generations", None, generations=generations, **({"scores": scores} if scores else {}))


def write_run_report(plan: Path, evaluation: Path, file: Path) -> None:
    """Write the report of a whole run on one page, with the verdict first."""
    from steps.reports.verdict import verdict

    head = verdict(plan, evaluation)
    _write(file, "Run", head, evaluation=evaluation, training=evaluation, data=evaluation, plan=plan)


def write_sweep_report(sweep: Path, file: Path) -> None:
    """Write the report of a sweep, also while it runs; `sweep` is the folder with sweep.json."""
    _write(file, "Sweep", sweep=sweep)


def _write(file: Path, title: str, head: dict | None = None, **folders: Path) -> None:
    from steps.artifacts import has_manifest, read_manifest
    from steps.reports.page import Section, write_page  # imports jinja2 and matplotlib, which only a report needs
    from steps.reports.sections import sections_of

    sections: list[Section] = []
    digests: dict[str, str] = {}
    for name, folder in folders.items():
        manifest = read_manifest(folder) if has_manifest(folder) else None
        sections += [section(folder) for section in sections_of(name)]
        if manifest:
            read_from = manifest.lineage.get("inputs", {}) if manifest.kind == "evaluation" else {}
            digests |= {**read_from, folder.name: manifest.digest}
    write_page(file, title, sections, digests, head)
