"""Adapters that cannot be merged: the base stays unchanged, and the adapter is stored in a subfolder of the model."""

from __future__ import annotations

import logging
import math
from typing import Any

from steps.adapters.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Folder, tensors_in
from steps.adapters.planning import refuse_base
from steps.artifacts import Draft
from steps.errors import NumericError, Problem, UserError, shown
from steps.kinds.adapters import ADAPTER_KINDS, KEPT_KINDS
from steps.models.hashed_file import HashedFile, copy_bytes
from steps.models.layout import ADAPTER_FOLDER
from steps.models.weights import FLOATS, Stored

log = logging.getLogger("finetune")
VECTORS = ADAPTER_KINDS["prompt_tuning"].tensors


def is_kept(adapter: Folder) -> bool:
    """Return whether an adapter is of a kind that cannot be merged and is stored beside its base."""
    return adapter.config.get("peft_type") in KEPT_KINDS


def check_kept(base: Folder, adapter: Folder) -> None:
    """Raise UserError if an adapter of such a kind does not fit the base."""
    refuse_base(base, adapter)
    stored = tensors_in(adapter, ADAPTER_WEIGHTS)
    wanted = [adapter.config.get("num_virtual_tokens"), _width(base.config) or adapter.config.get("token_dim")]
    shapes = {name: list(one.shape) for name, one in stored.items()}
    if shapes != {VECTORS: wanted} or stored[VECTORS].dtype not in FLOATS:
        raise UserError(
            Problem("MERGE-E0210", adapter.where, f"tensors {shown(shapes)}", f"{VECTORS} {wanted}, as the base needs",
                    "pass the base that it was trained on")
        )  # fmt: skip
    if (task := adapter.config.get("task_type")) != "CAUSAL_LM":
        raise UserError(
            Problem("MERGE-E0211", f"{adapter.where} task_type", shown(task), "CAUSAL_LM",
                    "train another kind of adapter",
                    why="vectors before the text are served only with causal language models")
        )  # fmt: skip


def refuse_infinite(adapter: Folder) -> None:
    """Raise NumericError if a learned vector is not finite."""
    import torch

    from steps.adapters.arithmetic import read_rows

    vectors: Stored = tensors_in(adapter, ADAPTER_WEIGHTS)[VECTORS]
    if not math.isfinite(torch.linalg.vector_norm(read_rows(vectors).float())):
        raise NumericError(
            Problem("MERGE-E0303", adapter.where, "values that are not finite", "finite vectors",
                    "check the training: its loss or gradients were not finite either")
        )  # fmt: skip


def write_kept(draft: Draft, base: Folder, adapter: Folder) -> None:
    """Copy the base's weights unchanged, and the adapter into its folder."""
    for name in base.weights:
        draft.known_digests[name] = _copied(base, name, draft, name)
    (draft / ADAPTER_FOLDER).mkdir()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        inside = f"{ADAPTER_FOLDER}/{name}"
        draft.known_digests[inside] = _copied(adapter, name, draft, inside)
    log.info("%s does not change weights: the base is copied unchanged, and the adapter is stored in %s/",
             adapter.config["peft_type"], ADAPTER_FOLDER)  # fmt: skip


def facts_of_kept(base: Folder, adapter: Folder) -> dict[str, object]:
    """Return the facts for the manifest of the result."""
    known = base.manifest.facts if base.manifest else {}
    return {
        **{name: value for name, value in known.items() if name != "left_out"},
        "tensors": sum(len(tensors_in(base, name)) for name in base.weights),
        "changed_tensors": 0,
        "merged_modules": 0,
        "kept_adapter": adapter.config["peft_type"],
    }


def _copied(source: Folder, name: str, draft: Draft, target: str) -> str:
    file = source.path / name
    with HashedFile(draft / target) as out:
        copy_bytes(file, 0, file.stat().st_size, out)
    return out.hash.hexdigest()


def _width(config: dict[str, Any]) -> int | None:
    """Return the size of the token embeddings; None if no known key of the configuration has it."""
    told = config.get("text_config") or config
    return next((told[name] for name in ("hidden_size", "n_embd", "d_model") if told.get(name)), None)
