"""The readers of files that others wrote, as functions of bytes; each may only return or refuse.

A refusal is a StepError for whom the file came from (exit code 2 or 3); any other exception is a fault of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile_files as hostile

from pipelines.flags import parameters_in, plain_name
from steps.errors import StepError
from steps.models.weights import stored_tensors
from steps.params.data import DataSource
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import read_parameters
from steps.plan.deciding import decide
from steps.prepare_data.check.checking import check_data

REFUSALS = (2, 3)
ANSWER = {"role": "assistant", "content": "4"}
TALK = [{"role": "user", "content": "2 + 2?"}, ANSWER]
TASK_ROWS: dict[str, dict[str, Any]] = {
    "chat_completion": {"messages": TALK},
    "text_generation": {"text": "a b", "ground_truth": "c"},
    "preference": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "kto": {"prompt": "a", "completion": "b", "label": True},
    "grpo": {"problem": "a", "solution": "b"},
}
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
CONFIG_FILES = ("config.yaml", "config.json")
MODEL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "added_tokens.json",
    "adapter/adapter_config.json",
    "MLmodel",
)

# Parameters with values inside, by pipeline.
NESTED: dict[str, dict[str, Any]] = {
    "chat_completion": {
        "training_data": [{"path": "a.jsonl", "sampling_weight": 1.0, "name": "a"}],
        "additional_special_tokens": ["<a>", "<b>"],
        "peft_kwargs": {"rank_pattern": {"q_proj": 16}, "init_lora_weights": "pissa"},
        "model_args": {"attention_dropout": 0.1, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        "role_map": {"bot": "assistant"},
        "evaluation_config_params": {"metrics": ["exact_match"], "options": {"ignore_case": True}},
        "overrides": {"learning_rate": 1e-4, "lora_target_modules": "q_proj,v_proj"},
        "space": {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "lora_r": [4, 8]},
        "trials": [{"learning_rate": 1e-4}, {"learning_rate": 1e-3}],
    },
    "grpo_chat_completion": {
        "reward_funcs": "length,accuracy",
        "reward_weights": "1,0.5",
        "reward_options": {"length": {"target": 50}},
    },
    "batch_inference": {
        "prompt_conf": {"type": "eval-data", "data": {"datasets": [{"path": "a.jsonl"}]}},
        "stop_strings": ["a", "b"],
        "response_format": {"json_schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "hf_gen_params": {"temperature": 0.5, "num_beams": 2},
    },
    "adapter_tools": {"replacements": {"<a>": "<b>"}, "merge_output": "x"},
}


@dataclass(frozen=True)
class Target:
    """A reader, and files that it accepts or refuses early, from which the search starts."""

    read: Callable[[bytes], object]
    seeds: Callable[[], Iterator[bytes]]
    choosing: int
    """Bytes at the start that choose the form of the file."""


@contextlib.contextmanager
def refusals_allowed() -> Iterator[None]:
    """Let what refuses the file pass. Raises AssertionError for a refusal with another exit code."""
    try:
        yield
    except StepError as error:
        if error.exit_code not in REFUSALS or not str(error).strip():
            raise AssertionError(f"exit code {error.exit_code}: {error}") from error


def read_data(data: bytes) -> None:
    """Read a data file: the first byte chooses the task, the second the suffix."""
    if len(data) < 2:
        return
    task = list(TASK_ROWS)[data[0] % len(TASK_ROWS)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rows{SUFFIXES[data[1] % len(SUFFIXES)]}"
        file.write_bytes(data[2:])
        with refusals_allowed():
            check_data(task, DataSource(train_file_path=str(file), min_train_rows=1), scratch=Path(folder))


def data_seeds() -> Iterator[bytes]:
    """Two good rows of each task in each form of file."""
    import io

    import pyarrow as pa
    from pyarrow import csv, parquet

    for number, row in enumerate(TASK_ROWS.values()):
        rows = [row, {**row, "more": [1, None, {"x": 2.5}]}]
        texts = pa.Table.from_pylist([{key: json.dumps(value) for key, value in row.items()}] * 2)
        told, stored = io.BytesIO(), io.BytesIO()
        csv.write_csv(texts, told)
        parquet.write_table(pa.Table.from_pylist([row] * 2), stored, compression="none")
        files = {
            ".jsonl": b"".join(json.dumps(one).encode() + b"\n" for one in rows),
            ".json": json.dumps(rows).encode(),
            ".csv": told.getvalue(),
            ".tsv": told.getvalue().replace(b",", b"\t"),
            ".parquet": stored.getvalue(),
            ".txt": b"one line\n\nanother\n",
        }
        for suffix, content in files.items():
            yield bytes([number, SUFFIXES.index(suffix)]) + content


def read_configuration(data: bytes) -> None:
    """Read a file with parameters or an experiment, and check the parameters: the first byte chooses the suffix."""
    if not data:
        return
    with tempfile.TemporaryDirectory() as folder, silent(), refusals_allowed():
        file = Path(folder) / CONFIG_FILES[data[0] % len(CONFIG_FILES)]
        file.write_bytes(data[1:])
        values = parameters_in(file)
        name = plain_name(values.pop("pipeline", ""))
        read_parameters(name if name in PARAMETER_MODELS else "chat_completion", values)


def configuration_seeds() -> Iterator[bytes]:
    """The configurations of the examples, as YAML and as JSON."""
    import yaml

    for file in sorted((Path(__file__).parents[1] / "examples").glob("*/*.yaml")):
        yield b"\0" + file.read_bytes()
        with contextlib.suppress(TypeError, yaml.YAMLError):
            yield b"\1" + json.dumps(yaml.safe_load(file.read_bytes())).encode()
    for pipeline, values in NESTED.items():
        yield b"\1" + json.dumps({"pipeline": pipeline, **values}).encode()
        yield b"\0" + yaml.safe_dump({"pipeline": pipeline, **values}).encode()
    yield b"\0a: &a [1, 2]\nb: *a\nc: !!set {x}\nd: 2026-01-01\ne: 0x1F\nf: ~\ng: .inf\nh: |\n  text\n"
    yield (
        b"\0" + json.dumps({"training_args": {"learning_rate": 1e-4}, "peft_conf": {"peft_kwargs": {"r": 8}}}).encode()
    )


def read_model(data: bytes) -> None:
    """Plan with a model folder in which one file, chosen by the first byte, has other content."""
    if not data:
        return
    name = MODEL_FILES[data[0] % len(MODEL_FILES)]
    with model_folder() as folder, refusals_allowed():
        hostile.put(name, data[1:])(folder)
        given: dict[str, Any] = {"pytorch_model_path": str(folder), "number_of_gpu_to_use_finetuning": 0}
        if name == "model.safetensors.index.json":
            (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        if name == "MLmodel":
            given = {"mlflow_model_path": given.pop("pytorch_model_path"), **given}
        if name.startswith("adapter/"):
            factors = {f"{hostile.ADAPTED}.lora_A.weight": [2, 8], f"{hostile.ADAPTED}.lora_B.weight": [8, 2]}
            hostile.put("adapter/adapter_model.safetensors", hostile.safetensors(factors))(folder)
            shutil.move(folder / "adapter", folder.parent / "adapter")
            given |= {"adapter_path": str(folder.parent / "adapter"), "adapter_use": "continue"}
        decide("chat_completion", {"train_file_path": str(folder.parent / "rows.jsonl"), **given})


@contextlib.contextmanager
def model_folder() -> Iterator[Path]:
    """Give the folder of a tiny model, with rows and a root for runs beside it."""
    with tempfile.TemporaryDirectory() as place:
        os.environ["FINETUNE_ROOT"] = f"{place}/root"
        rows = "".join(json.dumps({"messages": [TALK[0], {**ANSWER, "content": f"{n}"}]}) + "\n" for n in range(40))
        (Path(place) / "rows.jsonl").write_text(rows)
        folder = Path(place) / "model"
        folder.mkdir()
        for name, content in good_files().items():
            hostile.put(name, content)(folder)
        yield folder


def good_files() -> dict[str, Any]:
    """Return the files of the tiny model."""
    return {
        "config.json": hostile.CONFIG,
        "tokenizer.json": hostile.TOKENIZER,
        "tokenizer_config.json": hostile.TOKENIZER_CONFIG,
        "model.safetensors": hostile.safetensors(hostile.SHAPES),
    }


def model_seeds() -> Iterator[bytes]:
    """A good content of each file."""
    index = {
        "metadata": {"total_size": 1},
        "weight_map": dict.fromkeys(hostile.SHAPES, "model-00001-of-00001.safetensors"),
    }
    good = {
        **{name: content for name, content in good_files().items() if name in MODEL_FILES},
        "generation_config.json": {"eos_token_id": 1, "max_length": 20, "do_sample": True, "temperature": 0.7},
        "special_tokens_map.json": {"eos_token": "<end>", "pad_token": {"content": "<pad>", "lstrip": False}},
        "added_tokens.json": {"<new>": 4},
        "model.safetensors.index.json": index,
        "adapter/adapter_config.json": hostile.LORA,
    }
    for name, content in good.items():
        yield bytes([MODEL_FILES.index(name)]) + json.dumps(content).encode()
    for template in (
        "{% for m in messages %}{{ m.role }}: {{ m['content'] | trim }}{% endfor %}",
        *hostile.ENDLESS.values(),
    ):
        yield bytes([MODEL_FILES.index("chat_template.jinja")]) + template.encode()
    told = b"artifact_path: model\nflavors:\n  transformers:\n    model_binary: model\n    task: text-generation\n"
    yield bytes([MODEL_FILES.index("MLmodel")]) + told


def read_weights(data: bytes) -> None:
    """Read the header of a weight file; what the library reads, ours lists with the same names and shapes."""
    from safetensors import SafetensorError, deserialize

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        file.write_bytes(data)
        try:
            ours = {name: list(tensor.shape) for name, tensor in stored_tensors(file).items()}
        except ValueError:
            return
        try:
            theirs = {name: list(told["shape"]) for name, told in deserialize(data)}
        except SafetensorError as error:
            if "unknown variant" not in str(error):  # a type that the library does not know
                raise AssertionError(f"accepted, but the library says {error}") from error
            return
        assert ours == theirs


def weight_seeds() -> Iterator[bytes]:
    """Files with no, one and many tensors of several types."""
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    yield hostile.header({})
    yield hostile.header({"a": one, "__metadata__": {"format": "pt"}}, bytes(4))
    yield hostile.safetensors(hostile.SHAPES)
    for dtype, width in (("BF16", 2), ("F8_E4M3", 1), ("I64", 8), ("BOOL", 1)):
        empty = {"dtype": dtype, "shape": [2, 0, 1], "data_offsets": [0, 0]}
        three = {"dtype": dtype, "shape": [3], "data_offsets": [0, 3 * width]}
        yield hostile.header({"a": empty, "b": three}, bytes(3 * width))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Drop what a reader prints, such as notes on keys without effect."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        yield


TARGETS = {
    "data": Target(read_data, data_seeds, 2),
    "configuration": Target(read_configuration, configuration_seeds, 1),
    "model": Target(read_model, model_seeds, 1),
    "weights": Target(read_weights, weight_seeds, 0),
}
