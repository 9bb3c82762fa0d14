"""Read adapter_config.json, and refuse adapters with unsupported settings.

Checked against peft 0.21.2. A setting that is not in `understood` of the kind's record is refused too, because it may
change what the adapter computes, and a wrong merge cannot be recognised afterwards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from steps.adapters.folders import ADAPTER_CONFIG, Folder
from steps.errors import Problem, UserError, shown
from steps.kinds.adapter_kind import AdapterKind
from steps.kinds.adapters import FOLDED_KINDS, IN_PEFT
from steps.params.patterns import SECONDS, at_end, fault_of, matched

# Reasons for refusing settings that no kind supports; the effect of settings that are not listed is unknown.
REFUSED = {
    "alora_invocation_tokens": "applies to some tokens only, which a merged weight cannot do",
    "arrow_config": "selects an adapter for every token, which a merged weight cannot do",
    "kasa_config": "first changes the base weights by an SVD",
    "layer_replication": "adds layers that the base does not have",
    "lora_bias": "adds to biases",
    "megatron_config": "splits its layers over GPUs",
    "monteclora_config": "samples its weights",
    "target_parameters": "changes parameters that are not layers, such as experts",
    "use_bdlora": "stores its matrices as blocks",
    "use_effective_conv2d": "stores the matrices of convolutions in another form",
    "use_qalora": "pools the inputs of a quantised base",
    "velora_config": "is a variant whose merge was never compared with PEFT's",
}
MOST = 10**9  # no adapter has such a rank or alpha
TASKS_WITH_HEAD = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")  # PEFT's names


@dataclass(frozen=True)
class LoraSettings:
    """The values of adapter_config.json that determine the merge."""

    rank: int
    alpha: float
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    rank_stabilised: bool
    dora: bool
    targets: str | list[str] | None
    saved_modules: list[str]
    keeps_tying: bool
    has_head: bool
    """Whether the model has a task head, such as a classifier's, which a language model does not have."""
    token_rows: list[int] | dict[str, list[int]]
    """Trained rows: of the input embedding, or by the module's name."""
    kind: AdapterKind
    """The kind of adapter."""
    excluded: str = ""
    """A regular expression of modules without adapter, which PEFT reads where a training is continued."""
    modules: tuple[str, ...] = ()
    """The modules that it changes, with which its expressions were matched."""

    def rank_of(self, module: str) -> int:
        """Return the rank of a module."""
        return self._by_pattern(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """Return the factor of B @ A: alpha / r, or alpha / sqrt(r) if rank-stabilised (arXiv 2312.03732)."""
        rank = self.rank_of(module)
        alpha = self._by_pattern(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    def targets_module(self, module: str) -> bool:
        """Return whether PEFT would load an adapter into this module; it skips all other modules without a warning."""
        if self.targets is None or self.targets == "all-linear":
            return True
        if isinstance(self.targets, str):
            return self._matches(self.targets, module)
        return any(module == target or module.endswith(f".{target}") for target in self.targets)

    def rows_of(self, module: str) -> list[int]:
        """Return the trained rows of a module; like PEFT, compares the ends of names."""
        if isinstance(self.token_rows, list):
            return self.token_rows
        return next((rows for name, rows in self.token_rows.items() if module.endswith(name)), [])

    def saves_module(self, module: str) -> bool:
        """Return whether a module is in modules_to_save; like PEFT, compares the ends of names, not whole parts."""
        return any(module.endswith(name) for name in self.saved_modules)

    def patterns(self) -> list[str]:
        """Return its regular expressions, each for a module's whole name."""
        targets = [self.targets] if isinstance(self.targets, str) and self.targets != "all-linear" else []
        excluded = [self.excluded] if self.excluded else []
        return [*map(at_end, (*self.rank_pattern, *self.alpha_pattern)), *targets, *excluded]

    def _by_pattern(self, patterns: dict[str, Any], module: str, otherwise: Any) -> Any:
        """Return a module's value as PEFT does: that of the first pattern that matches the end of its name."""
        return next((value for key, value in patterns.items() if self._matches(at_end(key), module)), otherwise)

    def _matches(self, pattern: str, module: str) -> bool:
        return module in matched(pattern, self.modules if module in self.modules else (module,))


def read_settings(adapter: Folder) -> LoraSettings:
    """Read an adapter's settings. Raises UserError with all settings that cannot be merged."""
    config = adapter.config
    where = f"adapter ({adapter.path / ADAPTER_CONFIG})"
    if problems := list(_refusals(where, config)):
        raise UserError(problems)
    kind = IN_PEFT[config["peft_type"]]
    ranked = kind.in_peft("lora_r") in kind.understood
    try:
        settings = LoraSettings(
            rank=int(config[kind.in_peft("lora_r")]) if ranked else 1,
            alpha=config[kind.in_peft("lora_alpha")] + 0 if ranked else 1,
            rank_pattern={name: int(rank) for name, rank in (config.get("rank_pattern") or {}).items()},
            alpha_pattern={name: alpha + 0 for name, alpha in (config.get("alpha_pattern") or {}).items()},
            rank_stabilised=bool(config.get("use_rslora")),
            dora=bool(config.get("use_dora")),
            targets=config.get("target_modules"),
            saved_modules=list(config.get("modules_to_save") or []),
            keeps_tying=bool(config.get("ensure_weight_tying")),
            has_head=config.get("task_type") in TASKS_WITH_HEAD,
            kind=kind,
            excluded=given if isinstance(given := config.get("exclude_modules"), str) else "",
            token_rows=_token_rows(config.get("trainable_token_indices")),
        )
        _refuse_values(settings)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            Problem("MERGE-E0106", where, f"{type(error).__name__}: {error}", "the settings of an adapter",
                    "save the adapter again with PEFT")
        ) from None  # fmt: skip
    return settings


def _refusals(where: str, config: dict[str, Any]) -> Iterator[Problem]:
    kind = IN_PEFT.get(str(config.get("peft_type", "")))
    if kind is None:
        yield Problem("MERGE-E0107", f"{where} peft_type", shown(config.get("peft_type")),
                      f"one of {', '.join(FOLDED_KINDS)}, the kinds that can be merged", "train another kind, or merge "
                      "with PEFT (merge_and_unload) if it supports that")  # fmt: skip
        return
    if kind.is_kept:
        yield Problem("MERGE-E0107", f"{where} peft_type", f"{kind.peft_name}: {kind.kept_because}",
                      f"one of {', '.join(FOLDED_KINDS)}, the kinds that can be merged", "load it beside its base with "
                      "PEFT; python -m steps merge-adapter writes both into one folder for serving")  # fmt: skip
        return
    for name, value in sorted(config.items()):
        if name not in kind.understood and value not in (None, False, [], {}, ""):
            reason = REFUSED.get(name, "is not supported, and may change what the adapter computes")
            yield Problem("MERGE-E0108", f"{where} {name}", f"{shown(value)}: it {reason}", "an adapter without it",
                          f"train without {name}, or merge with the version of PEFT that saved it")  # fmt: skip
    for name, harmless in kind.harmless.items():
        if config.get(name) in harmless:
            continue
        yield Problem("MERGE-E0109", f"{where} {name}",
                      f"{shown(config.get(name))}, which changes the base weights before training",
                      f"one of {', '.join(str(value) for value in harmless if value is not None)}",
                      "save it as plain LoRA (save_pretrained, path_initial_model_for_weight_conversion)")  # fmt: skip


def _token_rows(said: Any) -> list[int] | dict[str, list[int]]:
    if isinstance(said, dict):
        return {name: [int(row) for row in rows] for name, rows in said.items()}
    return [int(row) for row in said or []]


def _refuse_values(settings: LoraSettings) -> None:
    """Raise ValueError for expressions that are none, and for numbers and names that no adapter has."""
    for pattern in settings.patterns():
        if fault := fault_of(pattern):
            raise ValueError(f"{shown(pattern)}: {fault}")
    if not isinstance(settings.targets, str | None) and not _are_texts(settings.targets):
        raise ValueError(f"target_modules {shown(settings.targets)}")
    if not _are_texts(settings.saved_modules):
        raise ValueError(f"modules_to_save {shown(settings.saved_modules)}")
    if not all(-MOST < alpha < MOST for alpha in (settings.alpha, *settings.alpha_pattern.values())):  # nor NaN
        raise ValueError("an alpha that is no number of an adapter")
    if max([settings.rank, *settings.rank_pattern.values()]) >= MOST:
        raise ValueError(f"a rank of {MOST:,} or more")
    if min([settings.rank, *settings.rank_pattern.values()]) < 1:
        raise ValueError("a rank below 1")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def bound(settings: LoraSettings, where: str, modules: Iterable[str]) -> LoraSettings:
    """Match the expressions of an adapter with its modules, all at once.

    Raises UserError for one that takes too long.
    """
    names = tuple(dict.fromkeys(modules))
    started = time.monotonic()
    for pattern in settings.patterns():
        try:
            matched(pattern, names)
            if time.monotonic() - started > SECONDS:
                raise ValueError(f"more than {SECONDS:g} seconds for the expressions up to this one")
        except ValueError as error:
            raise UserError(
                Problem("MERGE-E0106", f"{where} {ADAPTER_CONFIG}", f"{shown(pattern)}: {error}",
                        "a regular expression that matches names at once", "list the names of the layers instead")
            ) from None  # fmt: skip
    return replace(settings, modules=names)
