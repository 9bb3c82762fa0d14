"""The plan of the pipeline of adapter tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steps.adapters.fitting import judge, not_an_adapter
from steps.adapters.folders import Folder, open_adapter, open_base
from steps.adapters.outlines import in_their_words, write_outline
from steps.adapters.training_hint import LARGEST, trained_whole
from steps.adapters.vllm import differences, rank_of, sort_out
from steps.adapters.vllm_rules import max_rank, rank_problems, vllm_problems
from steps.artifacts import MANIFEST, Manifest
from steps.errors import UserError
from steps.models.token_renaming import renamed
from steps.params.group import Group
from steps.params.pipelines.adapter_tools import AdapterToolsParameters
from steps.params.reading import Reading, read_parameters
from steps.params.settings import AdapterSettings, AdapterToolSettings
from steps.plan.deciding import Trouble, asked_for
from steps.plan.hardware import Hardware, import_hardware, instance_types
from steps.plan.need import Need
from steps.plan.needs import IMPORTING, copied, downloaded, fetched, merging, told
from steps.plan.requests import request_of, requested, small_machine_notes
from steps.plan.seen import runs_here
from steps.plan.sources import ModelFound, look_at_base
from steps.reports.formats import size
from steps.sources import storage
from steps.sources.model_files import ModelFiles, open_files

WHAT = {
    "merge": "merge the adapter into the base model",
    "vllm": "leave out tensors that vLLM does not load",
    "replace_tokens": "rename tokens, load and compare",
    "check": "compare names, shapes and vocabulary",
}


@dataclass(frozen=True)
class Decisions:
    """Everything that was read and decided."""

    reading: Reading
    model: ModelFound
    adapter: ModelFiles | None
    hardware: dict[str, Hardware]
    needs: dict[str, Need]
    """What each task needs, by its name."""
    compares: bool
    """Whether the adapter contains tensors to compare with the base's."""
    trained_whole: list[str]
    warnings: list[str]

    @property
    def parameters(self) -> AdapterToolsParameters:
        """The effective parameters."""
        return _parameters(self.reading)


def decide(pipeline: str, arguments: dict[str, Any]) -> Decisions:
    """Check everything that needs no weights, and the weights too if they are on this machine.

    Raises UserError with all problems that the user can fix; else the first refusal or outage.
    """
    reading = read_parameters(pipeline, asked_for(pipeline, arguments))
    p = _parameters(reading)
    trouble = Trouble()
    model = trouble.gather(lambda: look_at_base(p))
    path = p.adapter_path.strip()
    adapter = trouble.gather(lambda: open_files("adapter_path", "pytorch", path)) if path else None
    hardware = trouble.gather(lambda: import_hardware(p))
    expected = trouble.gather(lambda: _expected(p.training_config)) if p.training_config else []
    trouble.raise_if_any()
    assert model is not None
    assert hardware is not None
    compares, notes = _try(p, model, adapter)
    needs = _needs(p, model, adapter, compares)
    if not runs_here():
        notes += small_machine_notes(hardware, needs, instance_types(p))
    warnings = reading.warnings + notes
    return Decisions(reading, model, adapter, requested(hardware, needs), needs, compares, expected or [], warnings)


def _needs(p: AdapterToolsParameters, model: ModelFound, adapter: ModelFiles | None, compares: bool) -> dict[str, Need]:
    """Return what each task needs: files are copied, and tensors read one at a time."""
    own = sum(adapter.names.values()) if adapter else 0
    weights = 0 if _is_idle(p, compares) else model.bytes
    base = copied(model) - model.bytes + weights
    work, importing = merging(model), IMPORTING + downloaded(model)
    brought = base + fetched(model.files, model.layout.files)
    result = weights if p.action == "merge" else base if p.action == "replace_tokens" and not adapter else own
    return {
        "import_model": Need(importing, told(model), brought, least=importing, work=weights),
        "import_adapter": Need(IMPORTING, f"an adapter of {size(own)}" if adapter else "no adapter",
                               own + (fetched(adapter, {}) if adapter else 0), least=IMPORTING, work=own),
        "adapter_tool": Need(work, told(model), base + own + result, least=work, work=2 * weights),
    }  # fmt: skip


def settings_of(decisions: Decisions) -> dict[str, Group]:
    """Return one settings value for each later step, by the name of the plan's output."""
    p = decisions.parameters
    idle = _is_idle(p, decisions.compares)
    return {
        "model": decisions.model.settings.model_copy(update={"new_weights": idle}),
        "adapter": AdapterSettings(source=decisions.adapter.resolved if decisions.adapter else None),
        "tool": AdapterToolSettings(
            action=p.action,
            replacements=p.replacements,
            on_base=not p.adapter_path,
            compare_with_base=decisions.compares,
            trained_whole=decisions.trained_whole,
        ),
    }


def _is_idle(p: AdapterToolsParameters, compares: bool) -> bool:
    """Return whether the tool does not read the base's weights; copying them would take longer than the work."""
    return bool(p.action == "replace_tokens" and p.adapter_path) or (p.action == "vllm" and not compares)


def summary_of(decisions: Decisions) -> dict[str, Any]:
    """Return the plan as data, in the form of every pipeline's plan.json."""
    p = decisions.parameters
    source = decisions.model.settings.source
    sources = [{"what": "model", "uri": source.uri, "digest": source.digest, "bytes": decisions.model.bytes}]
    if found := decisions.adapter:
        sources.append({"what": "adapter", **found.resolved.model_dump(), "bytes": sum(found.names.values())})
    tasks = {
        "import_model": "check and copy the base model",
        "import_adapter": "check and copy the adapter" if found else "nothing to import",
        "adapter_tool": WHAT[p.action],
    }
    return {
        "pipeline": decisions.reading.pipeline,
        "task": p.action,
        "requested": decisions.reading.requested,
        "effective": p.model_dump(mode="json", exclude={"overrides"}),
        "translations": [vars(translation) for translation in decisions.reading.translations],
        "warnings": decisions.warnings,
        "tasks": [
            request_of(task, what, decisions.hardware, decisions.needs) for task, what in tasks.items()
        ],
        "arithmetic": [],
        "sources": sources,
        "reading": {},
        "memory": None,
        "tracking": "none: no model is trained",
    }  # fmt: skip


def _parameters(reading: Reading) -> AdapterToolsParameters:
    assert isinstance(reading.parameters, AdapterToolsParameters)
    return reading.parameters


def _expected(uri: str) -> list[str]:
    if problems := storage.check_uri("training_config", uri):
        raise UserError(problems)
    return trained_whole(uri, storage.read_bytes("training_config", uri, LARGEST + 1))


def _try(p: AdapterToolsParameters, model: ModelFound, adapter: ModelFiles | None) -> tuple[bool, list[str]]:
    """Run the tool's checks on outlines of the files; return (whether tensors are compared, notes)."""
    with TemporaryDirectory() as scratch:
        base_folder, adapter_folder = Path(scratch, "base"), Path(scratch, "adapter")
        folders = {model.files.uri: base_folder} | ({adapter.uri: adapter_folder} if adapter else {})
        try:
            whole = write_outline(model.files, _base_files(model), base_folder)
            if adapter:
                whole = write_outline(adapter, {name: name for name in adapter.names}, adapter_folder) and whole
            if p.action == "replace_tokens":
                renamed(adapter_folder if adapter else base_folder, p.replacements)
                return False, []
            base, tuned = open_base(base_folder), open_adapter(adapter_folder)
            if isinstance(tuned, Manifest):
                raise not_an_adapter(adapter.uri if adapter else "")
            return _judge(p, base, tuned, whole, model.settings.source.uri)
        except UserError as error:
            raise UserError(in_their_words(problem, folders) for problem in error.problems) from None


def _judge(p: AdapterToolsParameters, base: Folder, adapter: Folder, whole: bool, uri: str) -> tuple[bool, list[str]]:
    if p.action == "vllm":
        if problems := list(vllm_problems(adapter)):
            raise UserError(problems)
        parts = sort_out(adapter)
        # Values are compared here if they are on this machine; else the tool compares them.
        if whole and (problems := list(differences(adapter, parts, base))):
            raise UserError(problems)
        if problems := list(rank_problems(adapter.where, rank_of(adapter, parts))):
            raise UserError(problems)
        rank = max_rank(rank_of(adapter, parts))
        return bool(parts.left_out), [f"start vLLM with --max-lora-rank {rank}"] if rank > 16 else []
    fit = judge(base, adapter, with_values=whole, called=uri)
    if fit.problems:
        raise UserError(fit.problems)
    return False, fit.notes


def _base_files(model: ModelFound) -> dict[str, str]:
    """Files that import_model copies: name in the artifact → path inside the source."""
    files = dict(model.layout.files)
    if MANIFEST in model.files.names and set(files.values()) == set(model.files.names) - {MANIFEST}:
        files[MANIFEST] = MANIFEST  # the source is one of our artifacts: the imported model will have the same digest
    return files
