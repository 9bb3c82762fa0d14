"""Adapters that no weight can hold: the base stays as it is, and the adapter lies in a folder inside the model."""

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
    """Say whether an adapter is of a kind that stays beside its base."""
    return adapter.config.get("peft_type") in KEPT_KINDS


def check_kept(base: Folder, adapter: Folder) -> None:
    """Raise UserError when an adapter of such a kind does not belong to a base."""
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
            Problem("MERGE-E0211", f"{adapter.where} task_type", shown(task), "CAUSAL_LM: only models that go on from "
                    "a prompt are served with vectors before it", "train another kind of adapter")
        )  # fmt: skip


def refuse_infinite(adapter: Folder) -> None:
    """Raise NumericError when a learned vector is not finite."""
    import torch

    from steps.adapters.arithmetic import read_rows

    vectors: Stored = tensors_in(adapter, ADAPTER_WEIGHTS)[VECTORS]
    if not math.isfinite(torch.linalg.vector_norm(read_rows(vectors).float())):
        raise NumericError(
            Problem("MERGE-E0303", adapter.where, "values that are not finite", "finite vectors",
                    "look at the training: its loss or gradients were not finite either")
        )  # fmt: skip


def write_kept(draft: Draft, base: Folder, adapter: Folder) -> None:
    """Copy the base's weights as they are, and the adapter into its folder."""
    for name in base.weights:
        draft.known_digests[name] = _copied(base, name, draft, name)
    (draft / ADAPTER_FOLDER).mkdir()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        inside = f"{ADAPTER_FOLDER}/{name}"
        draft.known_digests[inside] = _copied(adapter, name, draft, inside)
    log.info("%s is no change of weights: they stay as they are, with the adapter beside them in %s/",
             adapter.config["peft_type"], ADAPTER_FOLDER)  # fmt: skip


def facts_of_kept(base: Folder, adapter: Folder) -> dict[str, object]:
    """Say what became of the adapter."""
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
    """Length of the vectors that stand for tokens, where the configuration says it in a known word."""
    told = config.get("text_config") or config
    return next((told[name] for name in ("hidden_size", "n_embd", "d_model") if told.get(name)), None)
