"""Plan a merge: the change of each tensor in each shard, from names and shapes, before any weight is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from steps.adapters.folders import Folder, tensors_in
from steps.adapters.kinds import Combined, Folding, Scaling
from steps.adapters.low_rank import LowRank
from steps.adapters.new_head import BODIES, NewHead, head_problems, is_new, with_prefix
from steps.adapters.settings import LoraSettings, bound, read_settings
from steps.adapters.tying import is_tied, tying_problems, without_twins
from steps.errors import Problem, UserError, nearest
from steps.kinds import load
from steps.kinds.adapters import FOLDED_KINDS, IN_PEFT
from steps.models.layout import CONV1D_MODELS
from steps.models.weights import FLOATS, Stored, find, header_of

PREFIX = "base_model.model."  # PEFT's prefix of every module name
FOLDED = [IN_PEFT[name] for name in FOLDED_KINDS]
# The names of LoRA's tensors end in `.weight`, those of other kinds do not.
FACTOR = re.compile(rf"(?P<module>.+)\.(?P<part>{'|'.join(kind.tensors for kind in FOLDED)})(?:\.weight)?")
ROWS = ".token_adapter.trainable_tokens_delta"  # suffix for a module of which single rows were trained
# Decides the orientation of square matrices.
CONV1D_LAYERS = {"c_attn", "c_fc", "c_proj", "q_attn"}


@dataclass(frozen=True)
class Rows:
    """Single rows that are replaced by the adapter's: those of new tokens."""

    stored: Stored
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """The change of one tensor of the base."""

    target: Stored
    replacement: Stored | None = None
    """The adapter's tensor that replaces it: modules_to_save, biases, embeddings that PEFT saved too."""
    low_rank: LowRank | None = None
    other: Scaling | Combined | None = None
    """The change by an adapter of another kind than LoRA."""
    rows: Rows | None = None

    @property
    def adapted(self) -> bool:
        """Whether the adapter changes it in addition to a replacement."""
        return bool(self.low_rank or self.other)

    def __str__(self) -> str:
        parts = [self.target.name, f"{self.target.dtype}{list(self.target.shape)}"]
        if self.replacement:
            parts.append(f"= {self.replacement.name}")
        if self.low_rank:
            parts.append(str(self.low_rank))
        if self.other:
            parts.append(str(self.other))
        if self.rows:
            parts.append(f"rows {', '.join(map(str, self.rows.numbers))} = {self.rows.stored.name}")
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Shard:
    """One weight file of the base and its changes in file order."""

    tensors: tuple[Stored, ...]
    changes: tuple[Change, ...]
    header: bytes = b""
    """Its header if it differs from the base's: the shard then consists of `kept`, followed by `added`."""
    kept: tuple[Stored, ...] = ()
    added: tuple[Stored, ...] = ()

    @property
    def name(self) -> str:
        """File name, the same for base and result."""
        return self.tensors[0].file.name


@dataclass(frozen=True)
class MergePlan:
    """All changes of a merge."""

    shards: tuple[Shard, ...]
    head: NewHead | None = None
    """The head that the base does not have."""

    @property
    def changes(self) -> list[Change]:
        """All changes."""
        return [change for shard in self.shards for change in shard.changes]

    @property
    def merged_modules(self) -> dict[str, int]:
        """Number of modules that the adapter changes, by the last part of their name."""
        weights = [change.target for change in self.changes if change.adapted and len(change.target.shape) > 1]
        names = [target.name.split(".")[-2] for target in weights]
        return dict(sorted(Counter(names).items()))

    @property
    def work_size(self) -> int:
        """Number of elements of the largest B @ A: the float32 workspace of the merge."""
        return max((change.low_rank.size for change in self.changes if change.low_rank), default=0)

    def __str__(self) -> str:
        return "\n".join(
            f"{shard.name}: {len(shard.changes)} of {len(shard.tensors)} tensors change"
            + "".join(f"\n  {change}" for change in shard.changes)
            + "".join(f"\n  new: {tensor.name} {tensor.dtype}{list(tensor.shape)}" for tensor in shard.added)
            for shard in self.shards
        )


def plan_merge(base: Folder, adapter: Folder) -> MergePlan:
    """Find the base's tensor for every tensor of the adapter.

    Raises UserError with every problem: settings that cannot be merged, tensors that the base does not have, shapes
    that differ, an adapter that was trained on another base.
    """
    settings = read_settings(adapter)
    refuse_base(base, adapter)
    shards = [tensors_in(base, name) for name in base.weights]
    tensors = {name: tensor for shard in shards for name, tensor in shard.items()}
    changes, head, problems = _changes(base, adapter, tensors, settings)
    if problems:
        raise UserError(problems)
    planned = [
        Shard(tuple(shard.values()), tuple(changes[name] for name in shard if name in changes))
        for shard in shards
        if shard
    ]
    if head.tensors:
        return MergePlan(tuple(_with_head(planned, head)), head)
    return MergePlan(tuple(planned))


def _with_head(shards: list[Shard], head: NewHead) -> Iterator[Shard]:
    """Yield the shards with new headers, with the head appended to the last shard."""
    for shard in shards:
        kept = tuple(tensor for tensor in shard.tensors if tensor.name not in head.replaced)
        added = head.tensors if shard is shards[-1] else {}
        named = [(head.name_of(tensor.name), tensor) for tensor in kept]
        header = header_of([*named, *added.items()])
        yield replace(shard, header=header, kept=kept, added=tuple(added.values()))


def refuse_base(base: Folder, adapter: Folder) -> None:
    """Raise UserError if the base is quantised, or is not the one that the adapter was trained on."""
    if "quantization_config" in base.config:
        raise UserError(
            Problem("MERGE-E0110", f"{base.where} quantization_config", "quantised weights",
                    "weights in bf16, fp16 or fp32", "merge into the model before quantisation")
        )  # fmt: skip
    trained_on = (adapter.manifest.lineage.get("inputs") or {}).get("model") if adapter.manifest else None
    if trained_on and base.manifest and trained_on != base.manifest.digest:
        raise UserError(
            Problem("MERGE-E0201", adapter.where, f"an adapter of the base {trained_on[:12]}",
                    f"one of {base.manifest.digest[:12]}, as in {base.path}", "pass the model that finetune was given")
        )  # fmt: skip


def _changes(
    base: Folder, adapter: Folder, tensors: dict[str, Stored], settings: LoraSettings
) -> tuple[dict[str, Change], NewHead, list[Problem]]:
    factors, replacements, problems = _sorted_out(adapter)
    settings = bound(settings, adapter.where, factors)
    rows = {name.removesuffix(ROWS): replacements.pop(name) for name in list(replacements) if name.endswith(ROWS)}
    if is_tied(base, tensors):
        problems += tying_problems(adapter, settings, factors, replacements)
        replacements = without_twins(tensors, replacements)
    changes: dict[str, Change] = {}
    new: dict[str, Stored] = {}
    found_as: dict[str, str] = {}
    for name, stored in replacements.items():
        target = _place(tensors, name)
        if (target is None or target.shape != stored.shape) and is_new(settings, name):
            new[name] = stored
        elif target:
            found_as[name] = target.name
            changes[target.name] = Change(target, replacement=stored)
            problems += _misfit(adapter, stored, "of that shape", stored.shape == target.shape)
            problems += _not_float(adapter, stored, target)
        else:
            problems.append(_homeless(adapter, stored, name, tensors))
    for module, parts in factors.items():
        target = _place(tensors, f"{module}.weight")
        if target is None:
            problems.append(_homeless(adapter, next(iter(parts.values())), module, tensors))
        elif found := list(_factor_problems(adapter, module, parts, target, settings)):
            problems += found
        else:
            found_as[f"{module}.weight"] = target.name
            for tensor, change in _changes_of(base, module, parts, target, settings, tensors):
                known = changes.get(tensor.name, Change(tensor))
                what = {"low_rank": change} if isinstance(change, LowRank) else {"other": change}
                changes[tensor.name] = replace(known, **what)
    problems += _change_rows(adapter, rows, tensors, settings, changes)
    if new:
        problems += head_problems(adapter)
    gone = frozenset(target.name for name in new if (target := find(tensors, name)))
    return changes, with_prefix(NewHead(new, gone), found_as), _together(problems)


def _change_rows(
    adapter: Folder,
    rows: dict[str, Stored],
    tensors: dict[str, Stored],
    settings: LoraSettings,
    changes: dict[str, Change],
) -> Iterator[Problem]:
    """Add the changes of single rows, and yield the problems."""
    for module, stored in rows.items():
        target = _place(tensors, f"{module}.weight")
        if target is None:
            yield _homeless(adapter, stored, module, tensors)
        elif found := list(_row_problems(adapter, stored, target, settings.rows_of(module), target.name in changes)):
            yield from found
        else:
            changes[target.name] = Change(target, rows=Rows(stored, tuple(settings.rows_of(module))))


def _place(tensors: dict[str, Stored], name: str) -> Stored | None:
    """Find the base's tensor for a name of the tuned model."""
    if found := find(tensors, name):
        return found
    for theirs, ours in BODIES.items():
        if name.startswith(ours):
            return find(tensors, theirs + name.removeprefix(ours))
    return None


def _sorted_out(adapter: Folder) -> tuple[dict[str, dict[str, Stored]], dict[str, Stored], list[Problem]]:
    """Split the adapter's tensors: {module: {part: tensor}}, {tensor of the base: its replacement}, and problems."""
    factors: dict[str, dict[str, Stored]] = {}
    replacements = {}
    problems = []
    for key, stored in tensors_in(adapter, adapter.weights[0]).items():
        name = key.removeprefix(PREFIX)
        factor = FACTOR.fullmatch(name)
        if key == name or (any(kind.tensors_begin in name for kind in FOLDED) and not factor):
            problems.append(
                Problem("MERGE-E0202", adapter.where, f"the tensor {key}", f"names such as {PREFIX}….lora_A.weight",
                        "save the adapter with PEFT's save_pretrained")
            )  # fmt: skip
        elif factor:
            factors.setdefault(factor["module"], {})[factor["part"].replace("embedding_", "")] = stored
        else:
            replacements[name.replace(".base_layer.", ".")] = stored
    if not factors and not replacements and not problems:
        problems.append(
            Problem("MERGE-E0202", adapter.where, "no tensors", "a trained adapter", "save the adapter again")
        )
    return factors, replacements, problems


def _factor_problems(
    adapter: Folder, module: str, parts: dict[str, Stored], target: Stored, settings: LoraSettings
) -> Iterator[Problem]:
    folding: Folding = load(settings.kind.folded_by)
    wanted = folding.wanted(parts.keys(), settings.dora)
    if set(parts) != wanted:
        yield Problem("MERGE-E0204", adapter.where, f"{module} with {', '.join(sorted(parts))}",
                      ", ".join(sorted(wanted)), "save the adapter again; this file is incomplete")  # fmt: skip
        return
    if not settings.targets_module(module):
        yield Problem("MERGE-E0206", adapter.where, f"weights for {module}",
                      f"modules that target_modules names ({str(settings.targets)[:80]})",
                      "use adapter_config.json and adapter_model.safetensors of the same adapter")  # fmt: skip
    for stored, expected in folding.misfits(module, parts, target, settings.rank_of(module)):
        yield from _misfit(adapter, stored, expected, False)
    for stored in parts.values():
        yield from _not_float(adapter, stored, target)


def _changes_of(
    base: Folder,
    module: str,
    parts: dict[str, Stored],
    target: Stored,
    settings: LoraSettings,
    tensors: dict[str, Stored],
) -> Iterator[tuple[Stored, LowRank | Scaling | Combined]]:
    """Yield the changes by the adapter of one module: that of its weight and, with some kinds, that of its bias."""
    folding: Folding = load(settings.kind.folded_by)
    bias = _place(tensors, f"{module}.bias")
    yield from folding.changes(parts, target, bias, settings.scaling_of(module), _is_conv1d(base, module))


def _is_conv1d(base: Folder, module: str) -> bool:
    return base.config.get("model_type") in CONV1D_MODELS and module.split(".")[-1] in CONV1D_LAYERS


def _row_problems(
    adapter: Folder, stored: Stored, target: Stored, numbers: list[int], changed: bool
) -> Iterator[Problem]:
    fits = stored.shape == (len(numbers), *target.shape[1:]) and all(0 <= row < target.rows for row in numbers)
    yield from _misfit(adapter, stored, f"{len(numbers)} of the {target.rows} rows of {target.name}, as in "
                       "adapter_config.json", fits)  # fmt: skip
    yield from _not_float(adapter, stored, target)
    if changed:
        yield Problem("MERGE-E0209", adapter.where, f"single rows of {target.name}, which has another change too",
                      "one change per tensor", "train without the embedding in target_modules and modules_to_save"
                      )  # fmt: skip


def _homeless(adapter: Folder, stored: Stored, name: str, tensors: dict[str, Stored]) -> Problem:
    close = nearest(name, {known.removesuffix(".weight") for known in tensors})
    return Problem("MERGE-E0203", adapter.where, f"weights for {name}, which the base does not have",
                   "modules of the base model", close or "pass the base that the adapter was trained on")  # fmt: skip


def _misfit(adapter: Folder, stored: Stored, expected: str, fits: bool) -> Iterator[Problem]:
    if not fits:
        yield Problem("MERGE-E0205", adapter.where, f"{stored.name} with shape {list(stored.shape)}", expected,
                      "pass the base that the adapter was trained on, with its vocabulary")  # fmt: skip


def _not_float(adapter: Folder, stored: Stored, target: Stored) -> Iterator[Problem]:
    for tensor, role in ((stored, "adapter"), (target, "base")):
        if tensor.dtype not in FLOATS:
            yield Problem("MERGE-E0207", adapter.where, f"{tensor.name} as {tensor.dtype} in the {role}",
                          " or ".join(FLOATS), f"save the {role} in one of these types")  # fmt: skip


def _together(problems: list[Problem]) -> list[Problem]:
    """Combine equal problems, because a wrong base has the same problem in every layer."""
    first: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        key = (problem.code, problem.expected)
        known = first.get(key)
        first[key] = replace(known, count=known.count + 1) if known else problem
    return list(first.values())
