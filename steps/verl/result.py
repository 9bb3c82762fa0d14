"""The tuned model of a training with verl, as the other trainers write it: an adapter, or whole weights.

With LoRA, verl's checkpoint holds the base and the adapter's matrices under PEFT's names; the matrices become a folder
of an adapter, which this project merges as any other. verl 0.9.1's own ways out are not taken: `hf_model` stores PEFT's
names, in which a plain model finds no weights, and the merger writes the base and leaves the adapter beside it. In
every form the result is proved to be finite and to differ from the base.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from steps.adapters.folders import ADAPTER_WEIGHTS, TAKEN_ALONG, Folder, open_base, tensors_in
from steps.artifacts import Draft, new_artifact
from steps.errors import NumericError, Outage, Problem, UserError, some_of
from steps.kinds.models.image_text_lm import MODEL_TYPES
from steps.models.chat_templates import STORED
from steps.models.layout import INDEX, TOKENIZER_NAMES
from steps.verl.finite import refuse_infinite
from steps.verl.shards import Shards, open_shards

log = logging.getLogger("finetune")

LORA_FACTS = "lora_train_meta.json"
PEFT_PREFIX = "base_model.model."
LORA_PARTS = (".lora_A.default.", ".lora_B.default.", ".lora_embedding_A.default", ".lora_embedding_B.default")
TEMPLATE = "chat_template.jinja"


def write_result(
    actor: Path,
    model: Path,
    data: Path,
    tuned: Path,
    history: Mapping[str, Any],
    lineage: dict[str, Any],
    excluded: str = "",
    beside: Mapping[str, Path] | None = None,
) -> None:
    """Write `tuned` from the folder `actor` of a checkpoint: an artifact of the kind adapter or model.

    `excluded` is the expression of modules that got no adapter, `beside` has further files by name. Raises NumericError
    if a weight is not finite or nothing differs from the base, UserError or Outage if the checkpoint is not one of this
    base, and as `open_shards`.
    """
    shards = open_shards(actor)
    adapter = [name for name in shards.names if any(part in name for part in LORA_PARTS)]
    base = open_base(model)
    with new_artifact(tuned, "adapter" if adapter else "model", lineage) as draft:
        if adapter:
            trained = _write_adapter(draft, shards, adapter, actor, base, excluded, history)
            total = trained + sum(math.prod(one.shape) for one in _stored(base).values())
        else:
            total = trained = _write_weights(draft, shards, base, history)
            for name in base.others & (TAKEN_ALONG | {INDEX}):
                (draft / name).write_bytes((model / name).read_bytes())
        write_tokenizer(model, data, draft.path)
        for name, file in (beside or {}).items():
            if file.is_file():
                (draft / name).write_bytes(file.read_bytes())
        told = {**history, "parameters": {"total": total, "trainable": trained}}
        (draft / "history.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
        draft.facts = {"parameters": told["parameters"], "steps": history["steps"]}


def write_tokenizer(model: Path, data: Path, folder: Path) -> None:
    """Copy the model's tokenizer with the chat template that the rows were prepared with."""
    for name in sorted(TOKENIZER_NAMES):
        if (model / name).is_file():
            (folder / name).write_bytes((model / name).read_bytes())
    if (data / STORED).is_file():
        (folder / TEMPLATE).write_bytes((data / STORED).read_bytes())


def _write_adapter(
    draft: Draft, shards: Shards, names: list[str], actor: Path, base: Folder, excluded: str, history: Mapping[str, Any]
) -> int:
    """Write the adapter's matrices and its settings; return their number of values."""
    from safetensors.torch import save_file

    tensors = {name.replace(".default", ""): shards.whole(name).contiguous() for name in names}
    refuse_infinite(tensors, history)
    if not any(tensor.any() for name, tensor in tensors.items() if "_B" in name):
        raise NumericError(
            Problem("VERL-E0602", str(actor), "an adapter of zeros: the merged model would be the base",
                    "at least one changed weight", "train longer, with a higher actor_optim_lr, or with rewards that "
                    "differ between the answers to a prompt")
        )  # fmt: skip
    save_file(tensors, str(draft / ADAPTER_WEIGHTS), metadata={"format": "pt"})
    _write_settings(draft.path, _lora_facts(actor), _targets(tensors, base), base, excluded)
    return sum(tensor.numel() for tensor in tensors.values())


def _write_settings(folder: Path, facts: dict[str, Any], targets: list[str], base: Folder, excluded: str) -> None:
    from peft import LoraConfig

    known = base.manifest
    changed = known and (known.lineage.get("adapter", {}).get("use") == "merge" or known.facts.get("new_tokens"))
    source = "" if changed or not known else known.lineage.get("source", "")
    settings = LoraConfig(
        r=int(facts["r"]),
        lora_alpha=facts["lora_alpha"],
        target_modules=targets,
        exclude_modules=excluded or None,
        task_type=facts.get("task_type") or "CAUSAL_LM",
        base_model_name_or_path=source,
        inference_mode=True,
    )
    settings.save_pretrained(str(folder))


def _lora_facts(actor: Path) -> dict[str, Any]:
    """Read rank and alpha of the adapter. Raises Outage if the checkpoint does not tell them."""
    try:
        facts = json.loads((actor / LORA_FACTS).read_bytes())
        if int(facts["r"]) > 0 and float(facts["lora_alpha"]) != 0:
            return dict(facts)
        found = f"r={facts['r']}, lora_alpha={facts['lora_alpha']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
    raise Outage(
        Problem("VERL-E0404", str(actor / LORA_FACTS), found[:80], "r and lora_alpha of the adapter",
                "resume from an older checkpoint, and train again from there",
                why="an adapter of another scale is another model"),
        transient=False,
    )  # fmt: skip


def _targets(tensors: Iterable[str], base: Folder) -> list[str]:
    """Return the adapted modules: by their last name if all modules of that name are adapted, else by their paths."""
    adapted = {name.removeprefix(PEFT_PREFIX).rpartition(".lora_")[0] for name in tensors}
    modules = {_loaded(name, base).removesuffix(".weight") for name in _stored(base) if name.endswith(".weight")}
    found = set[str]()
    for module in adapted:
        last = module.rpartition(".")[2]
        same = {one for one in modules if one.rpartition(".")[2] == last}
        found.add(last if same <= adapted else module)
    return sorted(found)


def _write_weights(draft: Draft, shards: Shards, base: Folder, history: Mapping[str, Any]) -> int:
    """Write the weights into files as the base has them, in its types; return their number of values.

    One file of the base is in memory at a time.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    stored = _stored(base)
    names = _names(shards, stored, base)
    values = changed = 0
    for file in base.weights:
        tensors = {}
        with safe_open(base.path / file, "pt") as before:
            for name in tensors_in(base, file):
                original = before.get_tensor(name)
                tensors[name] = shards.whole(names[name]).to(original.dtype).contiguous()
                if tensors[name].shape != original.shape:
                    raise _another_base(base, f"{name} of shape {tuple(tensors[name].shape)}", tuple(original.shape))
                changed += not torch.equal(tensors[name], original)
                values += original.numel()
        refuse_infinite(tensors, history)
        save_file(tensors, str(draft / file), metadata={"format": "pt"})
    if not changed:
        raise NumericError(
            Problem("VERL-E0603", str(shards.folder), "weights that equal the base", "at least one changed tensor",
                    "train longer, with a higher actor_optim_lr, or with rewards that differ between the answers to a "
                    "prompt")
        )  # fmt: skip
    log.info("joined %d tensors of %d parts; %d differ from the base", len(names), len(shards.parts), changed)
    return values


def _names(shards: Shards, stored: Mapping[str, Any], base: Folder) -> dict[str, str]:
    """Return the name in the checkpoint of each tensor of the base. Raises UserError if one has none, or is left."""
    there = set(shards.names)
    found = {}
    for name in stored:
        loaded = _loaded(name, base)
        longer = [one for one in there if one.endswith(f".{name}")]  # GPT-2's files have h.0, not transformer.h.0
        if loaded in there or len(longer) == 1:
            found[name] = loaded if loaded in there else longer[0]
    left = sorted(there - set(found.values()))
    if base.config.get("tie_word_embeddings", False) or not any("lm_head" in name for name in stored):
        left = [name for name in left if "lm_head" not in name]  # the embeddings under a second name
    if missing := sorted(set(stored) - set(found)):
        raise _another_base(base, f"no {some_of(missing, 3)}", "the base's tensors")
    if left:
        raise _another_base(base, f"tensors that it lacks: {some_of(left, 3)}", "the base's tensors")
    return found


def _loaded(name: str, base: Folder) -> str:
    """Return the name in the loaded model of a tensor of the base's files.

    Files of Qwen2-VL have model.layers.0 and visual.blocks.0, the model has model.language_model.layers.0 and
    model.visual.blocks.0 (transformers' conversion_mapping).
    """
    if base.config.get("model_type") not in MODEL_TYPES or name.startswith(("model.language_model.", "model.visual.")):
        return name
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def _another_base(base: Folder, found: str, expected: object) -> UserError:
    return UserError(
        Problem("VERL-E0105", f"checkpoint for {base.path}", found, str(expected),
                "name the model that this training began with", why="the checkpoint is of another model")
    )  # fmt: skip


def _stored(base: Folder) -> dict[str, Any]:
    return {name: one for file in base.weights for name, one in tensors_in(base, file).items()}
