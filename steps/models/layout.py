"""Layout of a model folder: which files are used, and which make the folder unusable.

Reads only file names and small files, so that the plan can check a model in object storage or on the Hub without
fetching weights, and import_model fetches exactly the files that were checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.errors import Problem, SecurityRefusal, UserError, shown
from steps.kinds.adapters import KEPT_KINDS
from steps.models.chat_templates import LARGEST_TEMPLATE, is_template
from steps.models.foreign_code import refuse_code, refuse_other_files
from steps.models.odd_config import refuse_odd_generation, refuse_odd_tokenizer, refuse_odd_values
from steps.params.text_file import any_json
from steps.sources.plain_yaml import plain_yaml

CONFIG, GENERATION, TOKENIZER_CONFIG = "config.json", "generation_config.json", "tokenizer_config.json"
ADAPTER_CONFIG = "adapter_config.json"
# Folder of an adapter inside a model artifact: an adapter that training continues, or one of KEPT_KINDS.
ADAPTER_FOLDER = "adapter"
INDEX = "model.safetensors.index.json"
# Files that say how images become a model's inputs; where they are, they go wherever the tokenizer goes.
PROCESSOR_NAMES = {"preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"}
TOKENIZER_NAMES = PROCESSOR_NAMES | {
    "added_tokens.json", "chat_template.jinja", "merges.txt", "sentencepiece.bpe.model", "special_tokens_map.json",
    "source.spm", "spiece.model", "target.spm", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "vocab.json", "vocab.txt",
}  # fmt: skip
VOCABULARIES = {"tokenizer.json", *(name for name in TOKENIZER_NAMES if name.endswith(".model") or name[:5] == "vocab")}
MODEL_NAMES = {CONFIG, GENERATION, "LICENSE", "LICENSE.txt", "NOTICE", "README.md", "USE_POLICY.md"}
# Formats that can run code when they are loaded.
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".keras", ".npz", ".msgpack", ".joblib")
# Pickled weights that transformers and PEFT load where they find no safetensors.
LOADED_PICKLES = {"pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin"}
# MLflow flavour → (folders with the weights, folders with the tokenizer), first match wins.
MLFLOW_FLAVOURS = {
    "transformers": (("model",), ("components/tokenizer", "model")),
    "hftransformersv2": (("data/model",), ("data/tokenizer", "data/model")),
    "hftransformers": (("data/model",), ("data/tokenizer", "data/model")),
}
# Inside a registered model: the weights if they were copied with it, and the file that says where they are.
COPY_FOLDER = "artifacts/weights"
REFERENCE_FILE = "artifacts/reference/model_reference.json"
# Model types that number positions from pad_token_id + 1, so fewer are usable than max_position_embeddings.
COUNT_FROM_PADDING = {
    "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip
# Model types with relative positions: the length in their configuration is that of training, not a limit.
WITHOUT_POSITIONS = {"longt5", "mt5", "t5", "umt5"}
# Model types with transformers' Conv1D layers, which store weights as (in, out) instead of (out, in).
CONV1D_MODELS = {"clvp", "decision_transformer", "gpt2", "imagegpt", "openai-gpt"}
# Types of rope_scaling that stretch the positions by their factor; for others max_position_embeddings is the result.
STRETCHED = {"dynamic", "linear", "yarn"}
# Bytes: about ten times the largest files that are known, as their readers take seconds for so much.
LARGEST_CONFIG = 16 * 1024 * 1024
LARGEST_VOCABULARY = 128 * 1024 * 1024
LARGEST_INDEX = 32 * 1024 * 1024
LARGEST_MLMODEL = 256 * 1024
MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")  # of UTF-8 and UTF-16
UNLIMITED = 10**9  # tokenizers without a limit say 1e30; there are models with ten million positions


@dataclass(frozen=True)
class ModelLayout:
    """The files of one model: name in the artifact → path inside the source."""

    weights: dict[str, str]
    model_files: dict[str, str]
    """config.json, generation_config.json, license."""
    tokenizer_files: dict[str, str]
    config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    left_out: tuple[str, ...]
    """Files of the source that are not imported."""

    @property
    def files(self) -> dict[str, str]:
        """Every file that is imported."""
        return {**self.weights, **self.model_files, **self.tokenizer_files}

    @property
    def max_length(self) -> int:
        """Longest input in tokens: the lower limit of tokenizer and positions; 512 if neither sets one."""
        known = (self.tokenizer_config.get("model_max_length"), self.max_positions)
        limits = [int(limit) for limit in known if isinstance(limit, int | float) and 0 < limit < UNLIMITED]
        return min(limits, default=512)

    @property
    def size(self) -> int:
        """Estimated number of parameters: embeddings, and 12·hidden² for each layer."""
        hidden = int(self.config.get("hidden_size") or self.config.get("n_embd") or 0)
        layers = int(self.config.get("num_hidden_layers") or self.config.get("n_layer") or 0)
        matrices = 1 if self.config.get("tie_word_embeddings", True) else 2
        return matrices * hidden * int(self.config.get("vocab_size") or 0) + 12 * layers * hidden**2

    @property
    def max_positions(self) -> int | None:
        """Number of positions of the model; None without such a limit."""
        return positions_of(self.config)


def positions_of(config: Mapping[str, Any]) -> int | None:
    """Return the number of positions of a configuration, of text_config in multimodal models; None without a limit."""
    if config.get("model_type") in WITHOUT_POSITIONS:
        return None
    config = {**(config.get("text_config") or {}), **config}
    limit = config.get("max_position_embeddings") or config.get("n_positions")
    if limit and config.get("model_type") in COUNT_FROM_PADDING:
        return int(limit) - int(config.get("pad_token_id") or 0) - 1
    return _stretched(int(limit), config) if limit else None


def _stretched(positions: int, config: Mapping[str, Any]) -> int:
    """Return the positions of a model after the stretching that its configuration asks for."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    factor = rope.get("factor")
    if (rope.get("rope_type") or rope.get("type")) not in STRETCHED or not isinstance(factor, int | float):
        return positions
    return max(positions, int((rope.get("original_max_position_embeddings") or positions) * factor))


def vocabulary_rows(config: Mapping[str, Any]) -> int:
    """Return the vocabulary size of a configuration, of text_config in multimodal models; 0 if there is none."""
    return int(config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size") or 0)


def read_layout(
    parameter: str, kind: str, names: Mapping[str, int], read: Callable[[str], bytes], with_weights: bool = True
) -> ModelLayout:
    """Check a model source by its file names (→ bytes) and small JSON files, which `read` returns.

    `parameter` is the one that named the source; `kind` is huggingface, pytorch or mlflow. Weights are required unless
    with_weights is false. Raises UserError with every problem (wrong kind of folder, nothing to load, missing shards),
    SecurityRefusal for pickles and remote code.
    """
    refuse_large(parameter, names)
    weight_folder, tokenizer_folder = _folders(parameter, kind, names, read)
    refuse_folders(parameter, names, weight_folder, tokenizer_folder)
    config = read_json(parameter, read, weight_folder + CONFIG)
    refuse_code(parameter, config)
    refuse_odd_values(f"{parameter}: {CONFIG}", config)
    inside = {name.removeprefix(weight_folder): name for name in names if directly_in(name, weight_folder)}
    weights = _weights(parameter, inside, read) if with_weights else {}
    tokenizer_files = {
        name.removeprefix(tokenizer_folder): name for name in names if _is_of_tokenizer(name, tokenizer_folder)
    }
    if not VOCABULARIES & set(tokenizer_files):
        raise UserError(
            Problem("MODEL-E0105", parameter, "no tokenizer file", "tokenizer.json or a vocabulary beside the weights",
                    "save the tokenizer into the folder: tokenizer.save_pretrained(folder)")
        )  # fmt: skip
    model_files = {name: path for name, path in inside.items() if name in MODEL_NAMES}
    tokenizer_config = checked_settings(parameter, {**model_files, **tokenizer_files}, read)
    taken = {*weights.values(), *model_files.values(), *tokenizer_files.values()}
    left_out = tuple(sorted(set(names) - taken))
    _refuse_kept_adapter(parameter, weight_folder, names, read)
    return ModelLayout(weights, model_files, tokenizer_files, config, tokenizer_config, left_out)


def checked_settings(parameter: str, files: Mapping[str, str], read: Callable[[str], bytes]) -> dict[str, Any]:
    """Check the settings of tokenizer, images and generation among files, name → path; return the tokenizer's.

    Raises UserError for odd values, SecurityRefusal for code and files elsewhere.
    """
    names = sorted({TOKENIZER_CONFIG, GENERATION, *PROCESSOR_NAMES} & files.keys())
    told = {name: read_json(parameter, read, files[name]) for name in names}
    for name, content in told.items():
        refuse_code(f"{parameter}: {name}", content)
    tokenizer = told.get(TOKENIZER_CONFIG, {})
    refuse_other_files(f"{parameter}: {TOKENIZER_CONFIG}", tokenizer)
    refuse_odd_tokenizer(f"{parameter}: {TOKENIZER_CONFIG}", tokenizer)
    refuse_odd_generation(f"{parameter}: {GENERATION}", told.get(GENERATION, {}))
    return tokenizer


def _is_of_tokenizer(name: str, folder: str) -> bool:
    inside = name.removeprefix(folder)
    return name.startswith(folder) and (inside in TOKENIZER_NAMES or is_template(inside))


def _refuse_kept_adapter(parameter: str, folder: str, names: Mapping[str, int], read: Callable[[str], bytes]) -> None:
    """Raise UserError for a model with a learned prompt beside its weights: no training can continue from it."""
    path = f"{folder}{ADAPTER_FOLDER}/{ADAPTER_CONFIG}"
    if path in names and (kind := read_json(parameter, read, path).get("peft_type")) in KEPT_KINDS:
        raise UserError(
            Problem("MODEL-E0113", parameter,
                    f"a model with a learned prompt beside its weights ({kind} in {ADAPTER_FOLDER}/)",
                    "a model that consists of weights only, because the prompt would be lost",
                    "name the base model that the prompt was trained on")
        )  # fmt: skip


def _folders(parameter: str, kind: str, names: Mapping[str, int], read: Callable[[str], bytes]) -> tuple[str, str]:
    mlmodel = min((name for name in names if name.rsplit("/", 1)[-1] == "MLmodel"), key=len, default=None)
    if kind == "mlflow":
        if mlmodel is None:
            raise UserError(
                Problem("MODEL-E0101", parameter, "a folder without the file MLmodel", "an MLflow model folder",
                        "pass this folder as pytorch_model_path")
            )  # fmt: skip
        return _mlflow_folders(parameter, mlmodel, names, read)
    if mlmodel is not None:
        raise UserError(
            Problem("MODEL-E0102", parameter, f"an MLflow model folder (it contains {mlmodel})",
                    "a plain model folder", "pass this folder as mlflow_model_path")
        )  # fmt: skip
    folder = shallowest_with(CONFIG, names)
    if folder is None or adapter_in(names) is not None:
        some = ", ".join(sorted(names)[:5]) or "nothing"
        found, fix = f"no {CONFIG} (it contains: {some})", "save the model with save_pretrained, and name its folder"
        if adapter_in(names) is not None:
            found = f"an adapter, not a model (it contains: {some})"
            fix = "name this folder as adapter_path, or merge it into its base first: python -m steps merge-adapter"
        raise UserError(Problem("MODEL-E0103", parameter, found, "a model folder", fix))
    return folder, folder


def _mlflow_folders(
    parameter: str, mlmodel: str, names: Mapping[str, int], read: Callable[[str], bytes]
) -> tuple[str, str]:
    root = mlmodel.removesuffix("MLmodel")
    flavours = _flavours(f"{parameter}: {mlmodel}", read(mlmodel))
    if f"{root}{COPY_FOLDER}/{CONFIG}" in names:
        return f"{root}{COPY_FOLDER}/", f"{root}{COPY_FOLDER}/"
    for flavour, (models, tokenizers) in MLFLOW_FLAVOURS.items():
        if flavour in flavours:
            weights = next((f"{root}{m}/" for m in models if f"{root}{m}/{CONFIG}" in names), None)
            tokens = next(
                (f"{root}{t}/" for t in tokenizers if any(n.startswith(f"{root}{t}/") for n in names)), weights
            )
            if weights and tokens:
                return weights, tokens
    raise UserError(
        Problem("MODEL-E0104", parameter, f"the flavours {', '.join(flavours) or 'none'} without {CONFIG}",
                f"one of {', '.join(MLFLOW_FLAVOURS)} with a model and a tokenizer",
                "log the model with mlflow.transformers.log_model")
    )  # fmt: skip


def _flavours(where: str, content: bytes) -> dict[str, Any]:
    """Return the flavours in the file MLmodel. Raises UserError for one that is not what MLflow writes."""
    try:
        told = plain_yaml(content)
    except ValueError as error:
        told = str(error)
    flavours = told.get("flavors", {}) if isinstance(told, dict) else None
    if isinstance(flavours, dict) and all(isinstance(name, str) for name in flavours):
        return flavours
    raise UserError(
        Problem("MODEL-E0119", where, told if isinstance(told, str) else shown(told), "flavors: an object, in plain "
                "YAML", "log the model with mlflow.transformers.log_model")
    )  # fmt: skip


def adapter_in(names: Mapping[str, int]) -> str | None:
    """Find the folder of an adapter in a source without a complete model: "" for the top level, None if none."""
    model = shallowest_with(CONFIG, names)
    whole = model is not None and any(directly_in(name, model) and _are_weights(name.rsplit("/")[-1]) for name in names)
    return None if whole else shallowest_with(ADAPTER_CONFIG, names)


def _are_weights(name: str) -> bool:
    """Return whether a file holds model weights, rather than those of an adapter or an optimizer."""
    safe = name.endswith((".safetensors", INDEX)) and not name.startswith("adapter_")
    return safe or (name.startswith("pytorch_model") and name.endswith(".bin"))


def shallowest_with(wanted: str, names: Mapping[str, int]) -> str | None:
    """Find the topmost folder that contains a file of that name: its path with a slash, "" for the top level."""
    folders = [name.removesuffix(wanted) for name in names if name == wanted or name.endswith("/" + wanted)]
    return min(folders, key=lambda folder: (folder.count("/"), folder), default=None)


def directly_in(name: str, folder: str) -> bool:
    """Return whether a file is directly in this folder, not in a subfolder; the folder's path ends with a slash."""
    return name.startswith(folder) and "/" not in name.removeprefix(folder)


def _weights(parameter: str, inside: Mapping[str, str], read: Callable[[str], bytes]) -> dict[str, str]:
    if INDEX in inside:
        wanted = shards_of(f"{parameter}: {INDEX}", read_json(parameter, read, inside[INDEX]))
        if missing := [name for name in wanted if name not in inside]:
            raise UserError(
                Problem("MODEL-E0106", parameter, f"{INDEX} without {', '.join(missing)}", "every shard that it lists",
                        "upload the missing files", count=len(missing))
            )  # fmt: skip
        return {name: inside[name] for name in [INDEX, *wanted]}
    if safetensors := sorted(name for name in inside if name.endswith(".safetensors")):
        if len(safetensors) > 1 and "model.safetensors" not in safetensors:
            raise UserError(
                Problem("MODEL-E0107", parameter, f"{len(safetensors)} shards without {INDEX}", f"the index {INDEX}",
                        "save the model again with save_pretrained")
            )  # fmt: skip
        name = "model.safetensors" if "model.safetensors" in safetensors else safetensors[0]
        return {"model.safetensors": inside[name]}
    if pickles := sorted(name for name in inside if name.endswith(PICKLES)):
        raise SecurityRefusal(
            Problem("MODEL-E0301", parameter, f"only pickled weights ({', '.join(pickles[:3])})", "safetensors",
                    "if you trust their author, convert them: model.save_pretrained(folder) writes safetensors")
        )  # fmt: skip
    raise UserError(
        Problem("MODEL-E0108", parameter, "a folder without weights", "model.safetensors", "upload the weights")
    )


def shards_of(where: str, index: dict[str, Any]) -> list[str]:
    """Return the weight files that an index lists, sorted.

    Raises UserError for an index without a map of tensors to files, SecurityRefusal for files that are not safetensors
    directly beside it: whoever loads the model opens what the index lists, whatever else the folder holds.
    """
    listed = index.get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise UserError(
            Problem("MODEL-E0114", where, "no map of tensors to files", '{"weight_map": {tensor: file}}',
                    "save the model again with save_pretrained")
        )  # fmt: skip
    files = sorted(set(listed.values()))
    if others := [file for file in files if not is_safe_weights(file)]:
        raise SecurityRefusal(
            Problem("MODEL-E0304", where, f"{others[0]!r} among the weight files", "safetensors files beside the index",
                    "if you trust their author, convert them: model.save_pretrained(folder) writes safetensors",
                    count=len(others))
        )  # fmt: skip
    return files


def is_safe_weights(name: str) -> bool:
    """Return whether a file name is that of weights that cannot run code, directly in its folder."""
    return name.endswith(".safetensors") and not {"/", "\\"} & set(name)


def refuse_unsafe_weights(folder: Path) -> None:
    """Check a model folder, or a checkpoint, right before its weights are loaded.

    Raises SecurityRefusal if what would be loaded is not safetensors: pickled weights run code when they are opened.
    """
    names = {file.name for file in folder.iterdir()}
    if INDEX in names:
        shards_of(str(folder / INDEX), read_json(str(folder), lambda name: (folder / name).read_bytes(), INDEX))
    pickled = sorted(name for name in names if name in LOADED_PICKLES or name.startswith("pytorch_model-"))
    if pickled and not any(is_safe_weights(name) for name in names):
        raise SecurityRefusal(
            Problem("MODEL-E0301", str(folder), f"only pickled weights ({', '.join(pickled[:3])})", "safetensors",
                    "if you trust their author, convert them: model.save_pretrained(folder) writes safetensors")
        )  # fmt: skip


def refuse_folders(parameter: str, names: Mapping[str, int], *inside: str) -> None:
    """Raise UserError for a folder where a model or tokenizer has a file: it would count as a file that is missing."""
    known = TOKENIZER_NAMES | {CONFIG, GENERATION, INDEX, ADAPTER_CONFIG}
    parents = [(folder, name.removeprefix(folder).split("/")[0]) for folder in inside for name in names
               if name.startswith(folder) and "/" in name.removeprefix(folder)]  # fmt: skip
    if found := sorted({folder + first for folder, first in parents if first in known}):
        raise UserError(
            Problem("MODEL-E0128", parameter, f"a folder called {found[0]}", "a file of this name, or none",
                    "remove the folder, or upload the file", count=len(found))
        )  # fmt: skip


def refuse_large(parameter: str, names: Mapping[str, int]) -> None:
    """Raise UserError for files that are read as a whole and are larger than any of their kind, before one is read."""
    problems = [
        Problem("MODEL-E0118", f"{parameter}: {name}", f"{size:,} bytes", f"at most {largest:,}", "upload the file "
                "again, or remove what does not belong into it")
        for name, size in names.items()
        if size > (largest := _largest(name.rsplit("/", 1)[-1]))
    ]  # fmt: skip
    if problems:
        raise UserError(problems)


def _largest(name: str) -> float:
    if name.endswith(".jinja"):
        return LARGEST_TEMPLATE
    read = name in TOKENIZER_NAMES or name in (*MODEL_NAMES, ADAPTER_CONFIG)
    bounds = dict.fromkeys((*VOCABULARIES, "merges.txt"), LARGEST_VOCABULARY)
    return {**bounds, "MLmodel": LARGEST_MLMODEL, INDEX: LARGEST_INDEX}.get(name, LARGEST_CONFIG if read else math.inf)


def read_json(parameter: str, read: Callable[[str], bytes], name: str) -> dict[str, Any]:
    """Read a JSON object. Raises UserError when the file does not contain one."""
    content = read(name)
    try:
        value = any_json(content)
    except ValueError as error:
        value = str(error)
    if content.startswith(MARKS):
        value = "a byte order mark, with which transformers does not read it"
    if not isinstance(value, dict):
        found = value if isinstance(value, str) else shown(value)
        raise UserError(Problem("MODEL-E0109", f"{parameter}: {name}", found, "a JSON object", "upload the file again"))
    return value
