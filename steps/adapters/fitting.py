"""Check whether an adapter fits a base, by names, shapes and settings; weights are read only on request."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from steps.adapters.folders import Folder, tensors_in
from steps.adapters.planning import MergePlan, plan_merge
from steps.adapters.sameness import is_zero
from steps.artifacts import Manifest
from steps.errors import Problem, UserError
from steps.models.embeddings import EMBEDDINGS, HEADS
from steps.models.token_files import TOKENIZER, known_tokens
from steps.models.weights import FLOATS, Stored

# Problems of the settings or of the whole base: the merge stops at them, before it checks the tensors.
EARLY = {"MERGE-E0107", "MERGE-E0108", "MERGE-E0109", "MERGE-E0110", "MERGE-E0201"}


@dataclass(frozen=True)
class Fit:
    """The result of the comparison."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Remarks that do not prevent the use of the adapter."""
    modules: dict[str, int] = field(default_factory=dict)
    """Number of modules with an adapter, by the last part of their name."""
    replaced: list[str] = field(default_factory=list)
    """Tensors that the adapter contains as a whole."""
    same_base: bool | None = None
    """Whether the base has the digest of the model that the adapter was trained on; None if a digest is missing."""


def judge(base: Folder, adapter: Folder, with_values: bool = True, called: str = "") -> Fit:
    """Compare an adapter with a base; with_values also checks whether the adapter was trained.

    called is the source of the base, for a folder that does not record it.
    """
    plan, problems = _planned(base, adapter)
    problems += _vocabulary_problems(base, adapter)
    trained_on, this = trained_on_digest(adapter), base.manifest.digest if base.manifest else ""
    same = trained_on == this if trained_on and this else None
    notes = []
    if same is None and (name := _other_name(base, adapter, called)):
        notes.append(name)
    if plan and with_values and _is_untrained(adapter):
        notes.append("every lora_B is zero: the adapter was never trained and changes nothing")
    if plan is None:
        return Fit(problems, notes, same_base=same)
    whole = [change.target.name for change in plan.changes if change.replacement]
    new = list(plan.head.tensors) if plan.head else []
    return Fit(problems, notes, plan.merged_modules, whole + new, same)


def trained_on_digest(adapter: Folder) -> str:
    """Return the digest of the model that the adapter was trained on; empty if it is not recorded."""
    inputs = adapter.manifest.lineage.get("inputs") if adapter.manifest else None
    return str((inputs or {}).get("model") or "")


def _planned(base: Folder, adapter: Folder) -> tuple[MergePlan | None, list[Problem]]:
    """Plan the merge; if it stops at an early problem, plan it again without this problem, to check the tensors too."""
    try:
        return plan_merge(base, adapter), []
    except UserError as error:
        problems = list(error.problems)
    if {problem.code for problem in problems} <= EARLY and adapter.config.get("peft_type") == "LORA":
        spoken_of = {problem.where.rsplit(" ", 1)[-1] for problem in problems}
        settings = {name: value for name, value in adapter.config.items() if name not in spoken_of}
        config = {name: value for name, value in base.config.items() if name != "quantization_config"}
        try:
            plan_merge(replace(base, config=config), replace(adapter, config=settings, manifest=_nameless(adapter)))
        except UserError as error:
            told = {problem.code for problem in problems}
            problems += [problem for problem in error.problems if problem.code not in told]
    return None, problems


def _nameless(adapter: Folder) -> Manifest | None:
    """Return the manifest without the base's digest, whose mismatch is already reported."""
    return replace(adapter.manifest, lineage={}) if adapter.manifest else None


def _vocabulary_problems(base: Folder, adapter: Folder) -> list[Problem]:
    """Refuse an adapter's tokenizer whose ids exceed the rows of the embeddings."""
    if TOKENIZER not in adapter.others:
        return []
    ids = known_tokens(adapter.path)
    rows = max((_rows_of_embeddings(folder) for folder in (base, adapter)), default=0)
    last = max(ids, key=lambda token: ids[token], default="")
    if not rows or not ids or ids[last] < rows:
        return []
    beyond = sum(place >= rows for place in ids.values())
    return [
        Problem("ADAPTER-E0103", f"{adapter.where} {TOKENIZER}", f"the token {last!r} with the id {ids[last]}",
                f"ids below {rows}, the number of rows of the embeddings", "pass the base that the adapter was trained "
                "on, with its vocabulary", count=beyond)
    ]  # fmt: skip


def _rows_of_embeddings(folder: Folder) -> int:
    inputs = EMBEDDINGS - HEADS
    stored = [tensor for name in folder.weights for tensor in tensors_in(folder, name).values()]
    return max((one.rows for one in stored if one.name.split(".")[-2:-1] in [[name] for name in inputs]), default=0)


def _other_name(base: Folder, adapter: Folder, called: str) -> str:
    """Compare names if a digest is missing; the result is only a note, because a copy of the base may have any name."""
    said = str(adapter.config.get("base_model_name_or_path") or "").rstrip("/")
    source = called or (str(base.manifest.lineage.get("source", "")) if base.manifest else "")
    names = {source or str(base.path.absolute()), str(base.config.get("_name_or_path") or "")} - {""}
    if not said:
        return "the adapter does not name the base it was trained on: only names and shapes were compared"
    if any(name.rstrip("/").rsplit("/", 1)[-1] == said.rsplit("/", 1)[-1] for name in names):
        return ""
    return (
        f"the adapter names {said} as its base, but this base is {source or base.path}: names and shapes were "
        "compared, weights were not"
    )


def _is_untrained(adapter: Folder) -> bool:
    stored: dict[str, Stored] = {}
    for name in adapter.weights:
        stored |= {key: one for key, one in tensors_in(adapter, name).items() if one.dtype in FLOATS}
    second = [one for key, one in stored.items() if ".lora_B" in key or ".lora_embedding_B" in key]
    return bool(second) and len(second) * 2 == len(stored) and all(map(is_zero, second))


def described(adapter: Folder) -> str:
    """Describe an adapter by kind, rank and alpha."""
    config: dict[str, Any] = adapter.config
    kind = f"{config.get('peft_type', 'unknown kind')}{' (DoRA)' if config.get('use_dora') else ''}"
    return f"{kind}, rank {config['r']}, alpha {config.get('lora_alpha')}" if config.get("r") else kind


def not_an_adapter(uri: str) -> UserError:
    """Return the error for a fully tuned model in place of an adapter."""
    return UserError(
        Problem("ADAPTER-E0205", "adapter_path", f"{uri}, a fully tuned model", "an adapter",
                "use it as it is: it needs no base")
    )  # fmt: skip
