"""Converts experiment files in sections (data_conf, training_args, batchsize_conf, peft_conf, …) to our parameters.

    training_args: {learning_rate: 1.0e-4}      →  learning_rate=0.0001
    peft_conf: {peft_type: LORA, peft_kwargs: {r: 64}}  →  apply_lora=true, lora_r=64

A key without effect gives a warning; an unknown key is an error that suggests the nearest known key. Our own parameters
can be written beside the sections. `experiment_keys.py` has the tables of keys; this file has the keys whose value is
converted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from pipelines.configuration import Words, written
from pipelines.experiment_keys import (
    DIRECT,
    FIXED,
    GENERATES,
    IGNORED,
    INFERENCE,
    PEFT_KWARGS,
    PIPELINES,
    RATIO,
    SECTIONS,
    SETTINGS,
)
from steps.errors import Problem, UserError, nearest, shown
from steps.params.adapter_kinds import KINDS_OF_PEFT
from steps.params.generation import DecodingParams
from steps.params.group import old_names
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import MOST_NAMES, given_twice


def is_experiment(values: dict[str, Any]) -> bool:
    """Whether a configuration has sections; `overrides` does not count, as it is also one of our parameters."""
    return any(isinstance(values.get(section), dict) for section in SECTIONS if section != "overrides")


def from_experiment(values: dict[str, Any], words: Words | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters of an experiment, and a sentence for every key without effect.

    `words` are the words of the file that YAML reads as no text (`read_config`).
    Raises UserError with every unknown key (and the nearest known one) and every unsupported value.
    """
    if (count := sum(len(one) if isinstance(one, dict) else 1 for one in values.values())) > MOST_NAMES:
        raise UserError(
            Problem("CONFIG-E0108", "experiment", f"{count:,} keys", f"at most {MOST_NAMES:,}",
                    "remove what is no parameter")
        )  # fmt: skip
    reading = _Reading(words or {})
    ours = _our_parameters()
    generates = isinstance(values.get(GENERATES), dict)
    if generates:
        reading.parameters["pipeline"] = INFERENCE
    for section, content in values.items():
        if section == "method":
            reading.method(content)
        elif generates and section == SETTINGS and isinstance(content, dict):
            reading.settings(content)
        elif section in ours and section not in SECTIONS:
            value = reading.as_written(section, (section,), content)
            if generates:
                reading.named(section, "", section, value)
            reading.parameters[section] = value
        elif section not in SECTIONS:
            reading.unknown(section, content, (*SECTIONS, *ours))
        elif content is not None and not isinstance(content, dict):
            reading.refuse(section, content, "keys with values", "write it as a mapping")
        else:
            reading.section(section, content or {})
    if reading.problems:
        raise UserError(reading.problems)
    return reading.parameters, reading.notes


def _our_parameters() -> dict[str, Any]:
    """Return the declaration of every parameter under each of its names; `pipeline` has none."""
    fields: dict[str, Any] = {"pipeline": None}
    for model in (PARAMETER_MODELS[name] for name in (INFERENCE, *PIPELINES.values())):
        fields |= model.model_fields
        fields |= {old: model.model_fields[name] for old, name in old_names(model).items()}
    return fields


class _Reading:
    """The parameters, notes and problems so far."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.fields = _our_parameters()
        self.parameters: dict[str, Any] = {}
        self.written: dict[str, tuple[tuple[str, str], Any]] = {}
        self.notes: list[str] = []
        self.problems: list[Problem] = []

    def method(self, value: Any) -> None:
        if isinstance(value, str) and value in PIPELINES:
            self.parameters["pipeline"] = PIPELINES[value]
        else:
            self.refuse(
                "method", value, f"one of {', '.join(PIPELINES)}", nearest(str(value), PIPELINES) or "correct it"
            )

    def section(self, section: str, content: dict[str, Any]) -> None:
        for key, value in content.items():
            where = f"{section}.{key}"
            if parameter := DIRECT.get(section, {}).get(key):
                self.named(parameter, section, key, self.as_written(parameter, (section, key), value))
            elif special := SPECIAL.get((section, key)):
                shape = SHAPES.get(special)
                if value is None or shape is None or isinstance(value, shape):
                    special(self, where, value)
                else:
                    self.refuse(where, value, "keys with values" if shape is dict else "a text", "correct it")
            elif why := IGNORED.get(section, {}).get(key):
                self.notes.append(f"{where} has no effect: {why}")
            elif fixed := FIXED.get((section, key)):
                allowed, reason = fixed
                if value not in allowed:
                    self.refuse(where, value, shown(allowed[0]), "leave it out", reason)
            else:
                self.unknown(where, value, keys_of(section))

    def settings(self, content: dict[str, Any]) -> None:
        """Set the parameters that are named like fields of transformers' GenerationConfig; keep all other fields."""
        others = {}
        for key, value in content.items():
            if value is None:
                continue  # the default, as in transformers
            if key in DecodingParams.model_fields and key != SETTINGS:
                self.named(key, SETTINGS, key, self.as_written(key, (SETTINGS, key), value))
            else:
                others[key] = value
        if others:
            self.parameters[SETTINGS] = others

    def as_written(self, parameter: str, place: tuple[str | int, ...], value: Any) -> Any:
        """Return the value of a key as -p would pass it to a parameter."""
        return written(self.fields.get(parameter), value, place, self.words)

    def named(self, parameter: str, section: str, key: str, value: Any) -> None:
        """Set a parameter given by one of its names; two names in one section, or two values, are an error."""
        before, other = self.written.setdefault(parameter, ((section, key), value))
        if before != (section, key) and (before[0] == section or other != value):
            places = [".".join(filter(None, place)) for place in (before, (section, key))]
            self.problems.append(given_twice(parameter, places))
        self.parameters[parameter] = value

    def unknown(self, where: str, value: Any, known: tuple[str, ...]) -> None:
        near = nearest(where.rpartition(".")[2], known) or f"known keys: {', '.join(sorted(known)[:40])}"
        self.problems.append(Problem("CONFIG-E0104", where, shown(value), "a known key", near))

    def refuse(self, where: str, value: Any, expected: str, fix: str, why: str = "") -> None:
        self.problems.append(Problem("CONFIG-E0105", where, shown(value), expected, fix, why=why))


def keys_of(section: str) -> tuple[str, ...]:
    """Return the keys that a section can have."""
    named = [key for part, key in (*SPECIAL, *FIXED) if part == section]
    return (*DIRECT.get(section, {}), *named, *IGNORED.get(section, {}))


def _training_data(reading: _Reading, where: str, value: Any) -> None:
    """Sets train_file_path; with sampling weights or names, training_data."""
    kind, datasets = _datasets(reading, where, value)
    if kind == "CONCATENATION" and all(set(one) <= {"path", "name"} for one in datasets):
        reading.parameters["train_file_path"] = ",".join(str(one.get("path", "")) for one in datasets)
    elif datasets:
        reading.parameters["training_data"] = json.dumps({"type": kind, "datasets": datasets})


def _validation_data(reading: _Reading, where: str, value: Any) -> None:
    """Sets validation_file_path; AUTO_SPLIT holds out training rows, NONE sets evaluation_strategy=no."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "AUTO_SPLIT":
        if value.get("ratio", RATIO) != RATIO:
            reading.refuse(f"{where}.ratio", value["ratio"], f"{RATIO}", "give a validation file")
        reading.notes.append(f"{where}: validation and test rows are held out from the training rows, using seed")
    elif kind == "NONE":
        reading.parameters["evaluation_strategy"] = "no"
    else:
        _, datasets = _datasets(reading, where, value)
        reading.parameters["validation_file_path"] = ",".join(str(one.get("path", "")) for one in datasets)


def _datasets(reading: _Reading, where: str, value: Any) -> tuple[str, list[dict[str, Any]]]:
    kinds = ("CONCATENATION", "PRECOMPUTE_WEIGHTED_MIX", *(("AUTO_SPLIT", "NONE") if "validation" in where else ()))
    kind = value.get("type", "CONCATENATION") if isinstance(value, dict) else None
    datasets = value.get("datasets") if isinstance(value, dict) else None
    if kind not in kinds:
        reading.refuse(f"{where}.type", kind, f"one of {', '.join(kinds)}", nearest(str(kind), kinds) or "correct it")
    elif not isinstance(datasets, list) or not datasets or not all(isinstance(one, dict) for one in datasets):
        reading.refuse(f"{where}.datasets", datasets, "a list of {path: …}", "name at least one file")
    else:
        return str(kind), datasets
    return "CONCATENATION", []


def _model(reading: _Reading, where: str, value: Any) -> None:
    """Sets pytorch_model_path if it is a path or URI, else huggingface_id."""
    text = str(value)
    # A Hub id has at most one slash.
    local = "://" in text or text.startswith(("/", ".")) or text.count("/") > 1 or os.path.isdir(text)
    reading.parameters["pytorch_model_path" if local else "huggingface_id"] = text


def _tokenizer(reading: _Reading, where: str, value: Any) -> None:
    """Must be the model's own tokenizer, or that of its adapter, which is used if the adapter has one."""
    names = ("pytorch_model_path", "huggingface_id", "adapter_path")
    if value and value not in [reading.parameters.get(name) for name in names]:
        reading.refuse(where, value, "the model's own tokenizer", "save the tokenizer into the model's folder")


def _model_args(reading: _Reading, where: str, value: Any) -> None:
    """Sets precision (dtype), attn_implementation, huggingface_revision (revision), and model_args with the rest."""
    rest = dict(value or {})
    for key in ("dtype", "torch_dtype"):
        if (dtype := rest.pop(key, "auto")) in ("bfloat16", "float16"):
            reading.parameters["precision"] = "16"
        elif dtype not in ("auto", "float32"):
            reading.refuse(f"{where}.{key}", dtype, "auto, float32, bfloat16 or float16", "correct it")
    for key, parameter in (("attn_implementation", "attn_implementation"), ("revision", "huggingface_revision")):
        if key in rest:
            reading.parameters[parameter] = rest.pop(key)
    for key in ("use_cache", "device_map"):
        if key in rest:
            rest.pop(key)
            reading.notes.append(
                f"{where}.{key} has no effect: training uses no KV cache, and the model is on one device"
            )
    if rest:
        reading.parameters["model_args"] = rest


def _inference_args(reading: _Reading, where: str, value: Any) -> None:
    """Sets inference_precision (dtype), huggingface_revision (revision) and use_cache; device_map has no effect."""
    widths = {"auto": "auto", "float32": "full", "bfloat16": "half", "float16": "half"}
    for key, one in (value or {}).items():
        if key in ("dtype", "torch_dtype"):
            if isinstance(one, str) and one in widths:
                reading.parameters["inference_precision"] = widths[one]
            else:
                reading.refuse(f"{where}.{key}", one, f"one of {', '.join(widths)}", "correct it")
        elif key == "revision":
            reading.parameters["huggingface_revision"] = one
        elif key == "use_cache":
            reading.parameters["use_cache"] = one
        elif key in ("device_map", "attn_implementation", "trust_remote_code"):
            why = "code from model folders is never run" if key == "trust_remote_code" else "the engine chooses it"
            reading.notes.append(f"{where}.{key} has no effect: {why}")
        else:
            known = ("dtype", "revision", "use_cache", "device_map", "attn_implementation")
            reading.unknown(f"{where}.{key}", one, known)


def _half(reading: _Reading, where: str, value: Any) -> None:
    """Sets precision=16: bfloat16 if the device supports it, else float16."""
    if value:
        reading.parameters["precision"] = "16"


def _recompute(reading: _Reading, where: str, value: Any) -> None:
    """Sets gradient_checkpointing."""
    reading.parameters["gradient_checkpointing"] = str(bool(value)).lower()


def _by_hand(reading: _Reading, where: str, value: Any) -> None:
    """Not supported: batchsize_conf sets the batch size."""
    reading.refuse(where, value, "no value",
                   "set batchsize_conf.total_train_batch_size and max_per_device_train_batch_size",
                   "batchsize_conf sets the batch size")  # fmt: skip


def _deepspeed(reading: _Reading, where: str, value: Any) -> None:
    """Sets deepspeed and apply_deepspeed=true."""
    if value:
        reading.parameters |= {"apply_deepspeed": True, "deepspeed": str(value)}


def _peft_type(reading: _Reading, where: str, value: Any) -> None:
    """Sets peft_type and apply_lora=true; NO_PEFT sets apply_lora=false, PRETRAINED_PEFT adapter_use=continue."""
    if value in KINDS_OF_PEFT:
        reading.parameters["apply_lora"] = True
        if value != "LORA":
            reading.parameters["peft_type"] = KINDS_OF_PEFT[value]
    elif value == "NO_PEFT":
        reading.parameters["apply_lora"] = False
    elif value == "PRETRAINED_PEFT":
        reading.parameters["adapter_use"] = "continue"
    else:
        kinds = (*KINDS_OF_PEFT, "NO_PEFT", "PRETRAINED_PEFT")
        near = nearest(str(value), kinds) or "use LORA"
        reading.refuse(where, value, f"one of {', '.join(kinds)}", near)


def _peft_kwargs(reading: _Reading, where: str, value: Any) -> None:
    """Keys that the first table lists set that parameter; all others go into peft_kwargs."""
    others = {}
    for key, one in (value or {}).items():
        if key in PEFT_KWARGS:
            reading.named(PEFT_KWARGS[key], where, key, ",".join(map(str, one)) if isinstance(one, list) else one)
        elif not (key == "bias" and one == "none"):
            others[key] = one
    if others:
        reading.parameters["peft_kwargs"] = others


SPECIAL: dict[tuple[str, str], Callable[[_Reading, str, Any], None]] = {
    ("data_conf", "training_data"): _training_data,
    ("data_conf", "validation_data"): _validation_data,
    ("run_conf", "model"): _model,
    ("run_conf", "tokenizer"): _tokenizer,
    ("run_conf", "model_args"): _model_args,
    ("model_conf", "model"): _model,
    ("model_conf", "tokenizer"): _tokenizer,
    ("model_conf", "model_args"): _inference_args,
    ("training_args", "bf16"): _half,
    ("training_args", "fp16"): _half,
    ("training_args", "gradient_checkpointing"): _recompute,
    ("training_args", "deepspeed"): _deepspeed,
    ("training_args", "per_device_train_batch_size"): _by_hand,
    ("training_args", "per_device_eval_batch_size"): _by_hand,
    ("training_args", "gradient_accumulation_steps"): _by_hand,
    ("peft_conf", "peft_type"): _peft_type,
    ("peft_conf", "peft_kwargs"): _peft_kwargs,
}

# What a value has to be before it is read; nothing else is refused there.
SHAPES: dict[Callable[[_Reading, str, Any], None], type] = {
    _model: str,
    _model_args: dict,
    _inference_args: dict,
    _deepspeed: str,
    _peft_type: str,
    _peft_kwargs: dict,
}
