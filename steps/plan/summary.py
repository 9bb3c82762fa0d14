"""Summary of the plan: as data for plan.json and the report, and as text for a terminal."""

from __future__ import annotations

from typing import Any

from steps.kinds.adapters import ADAPTER_KINDS
from steps.params.data import DataSource
from steps.params.mixture import read_mixture
from steps.params.pipeline import SupervisedParameters
from steps.params.registration import TrackingParams
from steps.plan.arithmetic import table
from steps.plan.deciding import Decisions
from steps.plan.duration import duration
from steps.plan.need import GIB
from steps.plan.requests import as_table, request_of
from steps.plan.verl import asked
from steps.redaction import masked
from steps.tracking.target import is_off, store_or_local, target_of


def summary_of(decisions: Decisions) -> dict[str, Any]:
    """Return the plan as data: tasks, hardware, sources and memory; plan.json and the report are made from it."""
    p = decisions.parameters
    source = decisions.model.settings.source
    rows = decisions.data["train"].rows if "train" in decisions.data else None
    found_by = decisions.model.settings.registered
    uri = f"{found_by} at {source.uri}" if found_by not in ("", source.uri) else source.uri
    sources = [{"what": "model", "uri": uri, "digest": source.digest, "bytes": decisions.model.bytes}]
    for what, other in (("adapter", decisions.model.adapter), ("reference", decisions.reference)):
        if other:
            sources.append({"what": what, "uri": other.files.uri, "digest": other.files.digest, "bytes": other.bytes})
    for split, found in decisions.data.items():
        sources.append(
            {"what": split, "uri": found.resolved.uri, "digest": found.resolved.digest, "bytes": found.bytes}
        )
    if decisions.zero and (file := decisions.zero.file):
        sources.append({"what": "deepspeed", "uri": file.uri, "digest": file.digest, "bytes": file.size})
    for name, (resolved, bytes_) in (decisions.rewards.sources if decisions.rewards else {}).items():
        uri = name if ".py:" in name else resolved.uri
        sources.append({"what": "reward", "uri": uri, "digest": resolved.digest, "bytes": bytes_})
    numbers = table(p, rows, decisions.max_length) + _rewards(decisions)
    size = decisions.data["train"].bytes if "train" in decisions.data else 0
    takes = duration(p, numbers, size, decisions.max_length)
    return {
        "pipeline": decisions.reading.pipeline,
        "task": p.task,
        "requested": decisions.reading.requested,
        "effective": p.model_dump(mode="json", exclude={"overrides"}),
        "translations": [vars(translation) for translation in decisions.reading.translations],
        "warnings": decisions.warnings,
        "tasks": _tasks(decisions),
        "arithmetic": numbers + _processes(decisions) + takes.told + decisions.saves.told + decisions.new_tokens.told,
        "estimate": {"tokens": takes.tokens, "seconds": takes.seconds, "cost": takes.cost},
        "checkpoints": {
            "bytes": decisions.saves.bytes,
            "at_once": decisions.saves.at_once,
            "save_minutes": decisions.saves.minutes,
            "save_seconds": round(decisions.saves.seconds, 1),
            "place": decisions.saves.place,
        },
        "sources": sources,
        "reading": reading_told(DataSource.of(p)),
        "memory": {
            "needed_bytes": decisions.memory.needed,
            "parts": decisions.memory.parts,
            "available_bytes": decisions.memory.available,
            "available_in": decisions.room.what,
            "note": "activations are recomputed" if decisions.memory.checkpointing else "activations are kept",
            "on_cpu_bytes": decisions.memory.on_cpu,
            "processes": decisions.choice.sharing.processes,
            "strategy": decisions.choice.sharing.strategy,
        },
        "deepspeed": decisions.zero.config if decisions.zero else {},
        "tracking": _tracking(TrackingParams.of(p)),
    }


def as_text(summary: dict[str, Any]) -> str:
    """Format the summary for a terminal."""
    lines = [f"plan of {summary['pipeline']}", ""]
    lines += [f"  {task['task']:<22} {task['what']}" for task in summary["tasks"]]
    lines += ["", *as_table(summary["tasks"]), ""]
    lines += [f"  {line['name']:<29} {line['value']!s:<8} {line['how']}" for line in summary["arithmetic"]]
    if memory := summary["memory"]:
        available = memory["available_bytes"]
        of = f" of {available / GIB:.1f}" if available else ""
        where = f" of {memory['available_in']}" if available else ""
        on_cpu = f", {memory['on_cpu_bytes'] / GIB:.2f} GiB more on the CPU" if memory["on_cpu_bytes"] else ""
        needed = f"{memory['needed_bytes'] / GIB:.2f}{of} GiB{where}, {memory['note']}{on_cpu}"
        of_each = memory.get("title", "memory of each process" if memory["processes"] > 1 else "training memory")
        lines += [f"  {of_each:<29} {needed}", ""]
    lines += [f"  {item['what']:<11} {item['uri']}  {item['digest'][:12]}" for item in summary["sources"]]
    lines.append(f"  {'tracking':<11} {summary['tracking']}")
    lines += [f"  {'read with':<11} {name}={value}" for name, value in summary["reading"].items()]
    lines += [f"WARNING {warning}" for warning in summary["warnings"]]
    return "\n".join(lines)


def _tracking(given: TrackingParams) -> str:
    """Describe where metrics are sent, according to the parameters and this environment."""
    target = target_of(given)
    server = store_or_local(target.uri)
    if is_off() or not server:
        return "no metrics are sent"
    copies = ", checkpoints are copied" if target.copies_checkpoints else ""
    return f"{masked(server)}, experiment {target.experiment}{copies}"


def reading_told(given: DataSource) -> dict[str, str]:
    """Return the non-default parameters, besides the sources, that change which rows are read."""
    changed = {}
    for name, field in DataSource.model_fields.items():
        value = getattr(given, name)
        if value == field.default or name.endswith("_path") or name == "dataset_name":
            continue
        if name == "training_data" and (mixture := read_mixture(value)[0]):
            value = ", ".join(f"{part.label} × {part.sampling_weight:g}" for part in mixture.datasets)
        text = str(value).lower() if type(value) is bool else str(value)
        changed[name] = text if text.isprintable() else repr(text)
    return changed


def _rewards(decisions: Decisions) -> list[dict[str, Any]]:
    """Return the lines about what judges completions; none without rewards."""
    found = decisions.rewards
    if found is None:
        return []
    columns = f"; of the columns {', '.join(found.columns)}" if found.columns else ""
    prompt = found.system_prompt
    added = f'before prompts without a system message: "{prompt}"' if prompt else "nothing is added to the prompts"
    return [
        {"name": "rewards", "value": len(found.needs), "how": found.told + columns},
        {"name": "system prompt", "value": "added" if prompt else "none", "how": added},
    ]


def _processes(decisions: Decisions) -> list[dict[str, Any]]:
    """Return the line about the processes of the training; none for one process."""
    choice = decisions.choice
    if choice.sharing.processes == 1 or asked(decisions.parameters):
        return []
    return [{"name": "training processes", "value": choice.sharing.processes, "how": choice.why}]


def _adapter(p: SupervisedParameters) -> str:
    """Describe the adapter and the precision of the base in a few words."""
    return ADAPTER_KINDS[p.peft_type].described(p) + (f" on a {p.bits}-bit base model" if p.bits else "")


def _merging(p: SupervisedParameters) -> str:
    return f", then {ADAPTER_KINDS[p.peft_type].merging}" if p.apply_lora else ""


def _nodes(p: SupervisedParameters) -> str:
    """Describe the nodes that finetune starts."""
    each = p.processes_per_node
    queue = f", queue {p.kueue_queue_finetune}" if p.kueue_queue_finetune else ""
    processes = f"{p.num_nodes_finetune} nodes × {each} process{'es' if each > 1 else ''}"
    return f"{processes}: a TrainJob with {p.training_runtime_finetune}, at most {p.deadline_hours_finetune:g} h{queue}"


def _tasks(decisions: Decisions) -> list[dict[str, Any]]:
    p = decisions.parameters
    of_verl = asked(p)
    trainer = f"verl with {of_verl.rollout}, {of_verl.algorithm_adv_estimator}" if of_verl else decisions.recipe.told
    adapter = decisions.model.settings.adapter
    merged, kept = (adapter is not None and adapter.use == use for use in ("merge", "continue"))
    method = f"{_adapter(p)}{', continued' if kept else ''}" if p.apply_lora else "all weights"
    bits = "bfloat16" if p.precision == "16" else "float32"
    zero = f", {decisions.zero.told}" if decisions.zero else ""
    what = {
        "import_model": f"check and copy the model{', merge its adapter' if merged else ''}",
        "prepare_data": "check every row, split, tokenise" + (" and pack" if p.packing else ""),
        "finetune": f"{trainer}, {method}, {bits}{zero}{_merging(p)}",
        **({"nodes": _nodes(p)} if "nodes" in decisions.needs else {}),
        "evaluate": f"base{' with adapter' if kept else ''} and tuned on the test rows",
        "register_model": "MLflow version, if the gate passes" if p.register_tuned_model else "disabled",
    }
    counts = {"nodes": p.num_nodes_finetune}
    return [
        request_of(task, text, decisions.hardware, decisions.needs, counts.get(task, 1)) for task, text in what.items()
    ]
