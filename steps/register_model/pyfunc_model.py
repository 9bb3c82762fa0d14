"""The code of a registered model: fetches the referenced weights, checks them, and answers.

MLflow stores this file with the model and runs it where the model is loaded, so it does not import the project that
wrote it; torch and transformers are only needed there.
"""

import hashlib
import importlib.util
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow.models import set_model

PROMPTS_AT_ONCE = 16
BLOCK = 8 * 1024 * 1024
TOKENS = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id",
)  # fmt: skip
NEVER_WRITTEN = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens")


class CausalModel:
    """A causal language model with referenced weights; decodes greedily, as in its evaluation.

    `mlflow.pyfunc.load_model(uri, model_config={"weights_uri": …})` loads the same weights from another URI.
    """

    virtual_tokens = 0
    """Number of vectors of a learned prompt before every text."""

    def load_context(self, context: Any) -> None:
        """Fetch the weights and load them."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.reference = json.loads(Path(context.artifacts["reference"], "model_reference.json").read_text())
        folder = weights_folder(self.reference, (context.model_config or {}).get("weights_uri"), copy_of(context))
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False,
            **generation_tokens(folder),
        )  # fmt: skip
        if self.reference.get("kept_adapter"):
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(folder / self.reference["kept_adapter"]))
            self.virtual_tokens = model.active_peft_config.num_virtual_tokens
        self.model = model.to(device).eval()

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Answer every row: text, a column `prompt`, or a column `messages` with conversations.

        A conversation may have the functions that it can call in a column `tools`, as in its training rows.
        """
        rows = read_rows(model_input)
        tools = read_tools(model_input, len(rows))
        most = int((params or {}).get("max_new_tokens") or self.reference["max_new_tokens"])
        most += self.reference.get("template_tokens", 0)  # such as those of an empty think block
        chat = self.reference.get("chat", self.reference["task"] == "chat_completion")
        before, after = self.reference["prompt_form"]
        texts = [
            self._render(row, own) if chat else f"{before}{row}{after}" for row, own in zip(rows, tools, strict=True)
        ]
        answers = []
        for start in range(0, len(texts), PROMPTS_AT_ONCE):
            answers += self._answer(texts[start : start + PROMPTS_AT_ONCE], most, special=not chat)
        return answers

    def _render(self, row: Any, tools: list[Any] | None) -> str:
        messages = [{"role": "user", "content": row}] if isinstance(row, str) else as_trained(row)
        instruction = self.reference.get("system_prompt")
        if instruction and not any(message.get("role") == "system" for message in messages):
            messages = [{"role": "system", "content": instruction}, *messages]
        how: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
        return str(self.tokenizer.apply_chat_template(messages, tools=tools, **how))

    def _answer(self, texts: list[str], most: int, special: bool) -> list[str]:
        import torch
        from transformers import GenerationConfig

        encoded = self.tokenizer(texts, add_special_tokens=special)["input_ids"]
        if limit := getattr(self.model.config.get_text_config(), "max_position_embeddings", None):
            most = min(most, limit // 2)
            encoded = [self._fitted(ids, limit - most - self.virtual_tokens) for ids in encoded]
        named = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
        greedy = GenerationConfig(
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            max_new_tokens=most,
            eos_token_id=sorted(ends) or None,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with torch.inference_mode():
            if self.virtual_tokens:
                return self._decoded(continue_rows(self.model, encoded, greedy), ends)
            inputs = self.tokenizer.pad({"input_ids": encoded}, return_tensors="pt").to(self.model.device)
            output = self.model.generate(**inputs, generation_config=greedy)
        return self._decoded(output[:, inputs["input_ids"].shape[1] :], ends)

    def _decoded(self, output: Any, ends: set[int]) -> list[str]:
        """Decode new tokens up to the first end token; special tokens of an answer stay."""
        padding = self.tokenizer.pad_token_id
        answers = [takewhile(lambda token: token not in ends, row) for row in output.tolist()]
        return list(self.tokenizer.batch_decode([[token for token in row if token != padding] for row in answers]))

    def _fitted(self, ids: list[int], room: int) -> list[int]:
        """Truncate a prompt that is too long: at its start, or if it has a prompt form, at the end of its text."""
        if len(ids) <= room:
            return ids
        before, after = self.reference["prompt_form"]
        if not (before or after):
            return ids[-room:]
        kept = len(self.tokenizer(after, add_special_tokens=False)["input_ids"])
        return ids[: room - kept] + ids[len(ids) - kept :]


class AnyModel(CausalModel):
    """A causal model, or for other kinds of models the class `Model` of the file in `served` of the reference."""

    other: Any = None

    def load_context(self, context: Any) -> None:
        """Fetch the weights and load them."""
        stored = Path(context.artifacts["reference"])
        reference = json.loads((stored / "model_reference.json").read_text())
        if not reference.get("served"):
            super().load_context(context)
            return
        folder = weights_folder(reference, (context.model_config or {}).get("weights_uri"), copy_of(context))
        spec: Any = importlib.util.spec_from_file_location("served", stored / reference["served"])
        served = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(served)
        self.other = served.Model(folder, reference)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Answer every row."""
        if self.other is None:
            return super().predict(context, model_input, params)
        return self.other.predict(model_input, params)


# MLflow reads type hints of `predict` as its input schema, which the signature already gives, and warns each time about
# a `predict` without hints in this class itself; so it is inherited.
class ReferencedModel(AnyModel, mlflow.pyfunc.PythonModel):  # type: ignore[name-defined]
    """The class that MLflow loads."""


def continue_rows(model: Any, rows: list[list[int]], how: Any) -> Any:
    """Continue rows of tokens with a model that has a learned prompt; return the new tokens.

    PEFT's generate puts the prompt's vectors before the padding; here they are between padding and text, so that an
    answer does not depend on the other rows of its batch.
    """
    import torch

    vectors = model.get_prompt(batch_size=1)[0]
    texts = [model.word_embeddings(torch.tensor(ids, dtype=torch.long, device=model.device)) for ids in rows]
    joined = [torch.cat((vectors.to(text.dtype), text)) for text in texts]
    longest = max(map(len, joined))
    inputs = torch.stack([torch.nn.functional.pad(one, (0, 0, longest - len(one), 0)) for one in joined])
    mask = torch.zeros(inputs.shape[:2], dtype=torch.long, device=inputs.device)
    for line, one in enumerate(joined):
        mask[line, longest - len(one) :] = 1
    return model.get_base_model().generate(inputs_embeds=inputs, attention_mask=mask, generation_config=how)


def read_rows(model_input: Any) -> list[Any]:
    """Convert MLflow's input to texts and conversations; raises ValueError if there are none."""
    if isinstance(model_input, str):
        return [model_input]
    columns = getattr(model_input, "columns", None)
    if columns is None:
        return list(model_input)
    given = [name for name in ("messages", "prompt") if name in columns] or list(columns)[:1]
    if not given:
        raise ValueError("found neither messages nor prompt; pass {'messages': [{'role': …, 'content': …}]}")
    rows = []
    for values in model_input[given].itertuples(index=False):
        row = next((value for value in values if isinstance(value, str) or hasattr(value, "__len__")), None)
        if row is None:
            raise ValueError(f"found a row without {' or '.join(map(str, given))}")
        rows.append(row)
    return rows


def read_tools(model_input: Any, count: int) -> list[list[Any] | None]:
    """Return the tools of each row, a list or JSON text in the column `tools`; None for a row without them.

    Raises ValueError for anything else.
    """
    if "tools" not in getattr(model_input, "columns", ()):
        return [None] * count
    told = []
    for number, value in enumerate(model_input["tools"]):
        value = as_lists(json.loads(value) if isinstance(value, str) and value.strip() else value)
        value = None if value in ("", None) or value != value else value  # pandas writes NaN for a missing value
        if value is not None and not isinstance(value, list):
            raise ValueError(f"row {number}: found {type(value).__name__} in tools, not a list of functions")
        told.append(value)
    return told


def generation_tokens(folder: Path) -> dict[str, Any]:
    """Return the generation settings to load a model with: its special tokens, as in its evaluation.

    transformers refuses to load settings that contradict each other, and generate() would add all others to ours.
    """
    from transformers import GenerationConfig

    file = folder / "generation_config.json"
    if not file.is_file():
        return {}
    told = json.loads(file.read_text(encoding="utf-8"))
    tokens = {name: told[name] for name in TOKENS if told.get(name) not in (None, -1)}
    never = {name: told[name] for name in NEVER_WRITTEN if told.get(name)}
    try:
        return {"generation_config": GenerationConfig(**tokens, **never)}
    except ValueError:  # tokens that are forced and forbidden
        return {"generation_config": GenerationConfig(**tokens)}


def as_trained(messages: Any) -> list[dict[str, Any]]:
    """Return messages as the training rows had them: without empty keys, arguments of tool calls as objects."""
    told = []
    for message in map(dict, as_lists(messages)):
        more = {key: value for key, value in message.items() if value is not None and key not in ("role", "content")}
        for call in more.get("tool_calls", ()):
            function = call.get("function", call) if isinstance(call, dict) else {}
            if isinstance(function.get("arguments"), str):
                try:
                    read = json.loads(function["arguments"])
                except ValueError:
                    continue
                function["arguments"] = read if isinstance(read, dict) else function["arguments"]
        told.append({"role": message.get("role"), "content": message.get("content"), **more})
    return told


def as_lists(value: Any) -> Any:
    """Convert the arrays that MLflow and pandas may make of lists back to lists."""
    if isinstance(value, dict):
        return {key: as_lists(inside) for key, inside in value.items()}
    if getattr(value, "shape", ()):
        value = value.tolist()
    return [as_lists(inside) for inside in value] if isinstance(value, list | tuple) else value


def copy_of(context: Any) -> Path:
    """Return the folder of the weights that were registered with the model; it need not exist."""
    return Path(context.artifacts["reference"]).with_name("weights")


def weights_folder(reference: dict[str, Any], override: str | None = None, copy: Path | None = None) -> Path:
    """Return a local folder with exactly the registered files; remote files are downloaded once into a cache.

    `copy` is used if it has every file. Raises OSError with the files that are missing or differ.
    """
    if copy and not override and all((copy / name).is_file() for name in reference["files"]):
        check(copy, reference["files"])
        return copy
    uri = override or reference["weights_uri"]
    if "://" not in uri or uri.startswith("file://"):
        folder = Path(uri.removeprefix("file://"))
        check(folder, reference["files"])
        return folder
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-pipelines"
    folder = root / reference["digest"]
    if not folder.is_dir():
        fetch(uri, folder, reference["files"])
    return folder


def fetch(uri: str, folder: Path, files: dict[str, Any]) -> None:
    """Download and check all files, and create the folder atomically."""
    import fsspec

    draft = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    filesystem, path = fsspec.core.url_to_fs(uri)
    try:
        for name in files:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: filesystem.get_file(f"{path}/{name}", str(draft / name)), files))
        check(draft, files)
        if not folder.is_dir():  # otherwise another process finished first
            os.rename(draft, folder)
    except FileNotFoundError as error:
        raise error if filesystem.exists(path) else gone(uri) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def gone(uri: str) -> OSError:
    """Return the error for weights that were deleted or moved after the registration."""
    return OSError(
        f"the weights of this registered model are gone: {uri} does not exist any more. It was deleted or moved: "
        "restore it, name its new place with load_model(…, model_config={'weights_uri': …}), or register the model "
        "again (with copy_weights_to_mlflow=true a version keeps its own copy)"
    )


def check(folder: Path, files: dict[str, Any]) -> None:
    """Compare every file with its registered size and sha256. Raises OSError if one differs."""
    if not folder.is_dir():
        raise gone(str(folder))
    with ThreadPoolExecutor(4) as pool:
        wrong = [fault for fault in pool.map(lambda name: _fault(folder / name, files[name]), files) if fault]
    if wrong:
        raise OSError(f"{folder} does not contain the registered weights: {'; '.join(wrong)}")


def _fault(file: Path, known: dict[str, Any]) -> str:
    if not file.is_file():
        return f"{file.name} is missing"
    if file.stat().st_size != known["size"]:
        return f"{file.name} has {file.stat().st_size} bytes instead of {known['size']}"
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return "" if digest.hexdigest() == known["sha256"] else f"{file.name} has another sha256"


set_model(ReferencedModel())
