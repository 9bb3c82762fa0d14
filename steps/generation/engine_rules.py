"""What each engine cannot do of the parameters of decoding, engines and quantisation: refused, or ignored with a note.

A parameter is refused if the answers, or what the machine needs, would differ from what was asked; it is ignored with
a note if only the speed differs. No engine and no torch is loaded here, so the plan can ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from steps.errors import Problem, UserError, shown
from steps.generation.asked import end_tokens_asked, form_problems
from steps.generation.decoding_rules import split
from steps.params.generation import DecodingParams, EngineParams
from steps.params.group import Group, default_in
from steps.params.quantisation import QuantisationParams
from steps.params.settings import GenerateSettings

GROUPS: dict[str, type[Group]] = {
    "decoding": DecodingParams, "engine": EngineParams, "quantisation": QuantisationParams,
}  # fmt: skip


@dataclass(frozen=True)
class Refused:
    """Why an engine refuses every other value than `allowed`, and what to do instead."""

    why: str
    fix: str
    allowed: tuple[Any, ...] = ()
    """Values that are not refused; empty: the default."""


_ACCELERATE = "set inference_type=accelerate"
_FORM = Refused("only vllm and an endpoint write answers in a given form", "set inference_type=vllm")
_ONE_GPU_EACH = Refused("it does not divide layers among GPUs", "leave it out, or set inference_type=vllm")
_IN_MEMORY = Refused(
    "it keeps the weights where it computes", "set inference_type=deepspeed_zero, or leave it out"
)  # fmt: skip
_WHOLE = Refused("DeepSpeed does not load quantised weights", _ACCELERATE)
_MERGED = Refused("it serves one model", "merge the adapter (adapter_separate=false), or set inference_type=vllm")
_SERVER = "the server decided it when it loaded the model"
_NOT_LOADED = Refused(_SERVER, "leave it out")
_ENDPOINT_LENGTHS = "only the server knows how many tokens a prompt has"
_STORED = Refused("vLLM 0.31 does not have bitsandbytes; it reads models that are stored in another quantised form",
                  f"{_ACCELERATE}, or give a model that is quantised with GPTQ, AWQ or compressed-tensors")  # fmt: skip

REFUSED: dict[str, dict[str, Refused]] = {
    "accelerate": {
        "response_format": _FORM,
        "tensor_parallel_size": _ONE_GPU_EACH,
        "cpu_offload": _IN_MEMORY,
    },
    "deepspeed": {
        "response_format": _FORM,
        "cpu_offload": _IN_MEMORY,
        "load_in_4bit": _WHOLE,
        "load_in_8bit": _WHOLE,
        "adapter_separate": _MERGED,
    },
    "deepspeed_zero": {
        "response_format": _FORM,
        "tensor_parallel_size": _ONE_GPU_EACH,
        "load_in_4bit": _WHOLE,
        "load_in_8bit": _WHOLE,
        "adapter_separate": _MERGED,
    },
    "vllm": {
        "no_repeat_ngram_size": Refused("vLLM does not have it", f"{_ACCELERATE}, or use repetition_penalty"),
        "num_beams": Refused("vLLM has no beam search with these parameters", _ACCELERATE),
        "cpu_offload": _IN_MEMORY,
        "load_in_4bit": _STORED,
        "load_in_8bit": _STORED,
    },
    "endpoint": {
        "no_repeat_ngram_size": Refused("the protocol does not have it", f"{_ACCELERATE}, or use repetition_penalty"),
        "num_beams": Refused("the protocol does not have it", _ACCELERATE),
        "min_length": Refused(_ENDPOINT_LENGTHS, "set min_new_tokens instead"),
        "inference_precision": _NOT_LOADED,
        "tensor_parallel_size": _NOT_LOADED,
        "cpu_offload": _NOT_LOADED,
        "load_in_4bit": _NOT_LOADED,
        "load_in_8bit": _NOT_LOADED,
        "adapter_separate": Refused("a server has its own models",
                                    "leave it out, and give the adapter's name there as endpoint_model"),
    },
}  # fmt: skip

_CHOOSES = "it chooses how many answers it writes at a time"
_OF_VLLM = ("vllm_gpu_memory_utilization", "enable_prefix_caching")
_OF_ENDPOINT = ("endpoint_model", "endpoint_concurrency", "endpoint_requests_per_minute", "endpoint_timeout_seconds",
                "endpoint_key_secret")  # fmt: skip
_NO_KERNELS = {"replace_with_kernel_inject": "it is for deepspeed"}
IGNORED: dict[str, dict[str, str]] = {
    "accelerate": {
        **_NO_KERNELS,
        **dict.fromkeys(_OF_VLLM, "it is for vllm"),
        **dict.fromkeys(_OF_ENDPOINT, "it is for endpoint"),
    },
    "deepspeed": {
        **dict.fromkeys(_OF_VLLM, "it is for vllm"),
        **dict.fromkeys(_OF_ENDPOINT, "it is for endpoint"),
    },
    "deepspeed_zero": {
        **_NO_KERNELS,
        **dict.fromkeys(_OF_VLLM, "it is for vllm"),
        **dict.fromkeys(_OF_ENDPOINT, "it is for endpoint"),
    },
    "vllm": {
        **_NO_KERNELS,
        **dict.fromkeys(_OF_ENDPOINT, "it is for endpoint"),
        "test_batch_size": _CHOOSES,
        "use_cache": "vLLM always keeps keys and values; answers are the same",
    },
    "endpoint": {
        **_NO_KERNELS,
        **dict.fromkeys(_OF_VLLM, "it is for vllm"),
        "test_batch_size": _CHOOSES,
        "use_cache": "the server decides it; answers are the same",
    },
}


def engine_problems(settings: GenerateSettings) -> list[Problem]:
    """Return what the engine of `settings` (with `auto` resolved) cannot do, each with the parameter and the fix.

    Values that no engine takes are found by `decoding_rules`; with one of them the result may be incomplete.
    """
    engine = settings.engine.inference_type
    if engine not in REFUSED:
        return []
    try:
        decoding, others = own_decoding(settings.decoding)
    except ValidationError:
        decoding, others = settings.decoding, {}
    settings = settings.model_copy(update={"decoding": decoding})
    return [*form_problems(decoding), *_refusals(settings, engine), *_of_several(settings, engine),
            *_unknown_fields(others, engine)]  # fmt: skip


def refuse_unfit(settings: GenerateSettings) -> None:
    """Raise UserError with what the engine cannot do."""
    if problems := engine_problems(settings):
        raise UserError(problems)


def own_decoding(decoding: DecodingParams) -> tuple[DecodingParams, dict[str, Any]]:
    """Return the parameters with those of hf_gen_params that mean the same, and the other fields of hf_gen_params."""
    if not decoding.hf_gen_params:  # transformers is not needed
        return decoding, {}
    made, others = split(decoding)
    ends = others.pop("eos_token_id", None)
    if ends is None:
        return made, others
    listed = [made.eos_tokens, *map(str, ends if isinstance(ends, list | tuple) else [ends])]
    return made.model_copy(update={"eos_tokens": ",".join(filter(None, listed))}), others


def engine_notes(settings: GenerateSettings) -> list[str]:
    """Return a sentence for each parameter that the engine ignores, though it is not at its default."""
    engine = settings.engine.inference_type
    settings = settings.model_copy(update={"decoding": own_decoding(settings.decoding)[0]})
    notes = [
        f"{name}={_written(value)} has no effect with {engine}: {why}"
        for name, why in IGNORED.get(engine, {}).items()
        if (value := value_of(settings, name)) != _default(name)
    ]
    if engine == "deepspeed" and settings.engine.replace_with_kernel_inject:
        notes.append("replace_with_kernel_inject=true has no effect: the kernels of DeepSpeed 0.19.8 fail, or give "
                     "other answers, with transformers 5.17; answers are computed without them")  # fmt: skip
    if engine == "endpoint":
        notes += _notes_on_servers(settings.decoding)
    return notes


def _notes_on_servers(decoding: DecodingParams) -> Iterator[str]:
    """Yield what only vLLM's own server does, as far as it is asked for."""
    asked = [name for name in ("repetition_penalty", "min_new_tokens", "skip_special_tokens", "eos_tokens",
                               *(("top_k", "min_p") if decoding.do_sample else ()))
             if getattr(decoding, name) != default_in(DecodingParams, name)]  # fmt: skip
    if asked:
        yield f"{', '.join(asked)}: not in OpenAI's protocol, sent as vLLM names them; another server may refuse them"


def value_of(settings: GenerateSettings, name: str) -> Any:
    """Return the value of a parameter of one of the groups."""
    return getattr(getattr(settings, group_of(name)), name)


def group_of(name: str) -> str:
    """Return the group that a parameter is in."""
    return next(group for group, fields in GROUPS.items() if name in fields.model_fields)


def _default(name: str) -> Any:
    return default_in(GROUPS[group_of(name)], name)


def _refusals(settings: GenerateSettings, engine: str) -> Iterator[Problem]:
    for name, refused in REFUSED[engine].items():
        value = value_of(settings, name)
        allowed = refused.allowed or (_default(name),)
        if value not in allowed:
            yield Problem("PLAN-E0444", name, f"{_written(value)} with inference_type={engine}",
                          " or ".join(_written(one) or "nothing" for one in allowed), refused.fix,
                          why=refused.why)  # fmt: skip


def _of_several(settings: GenerateSettings, engine: str) -> Iterator[Problem]:
    """Yield what an engine refuses only together with another parameter, or in the form in which it was given."""
    decoding = settings.decoding
    if engine == "vllm" and settings.kind != "causal_lm":
        yield Problem("PLAN-E0445", "inference_type", f"{engine} for a model of the kind {settings.kind}",
                      "causal_lm", _ACCELERATE, why=f"{engine} runs models that continue their prompt")  # fmt: skip
    if engine == "endpoint":
        yield from _of_endpoint(decoding)


def _of_endpoint(decoding: DecodingParams) -> Iterator[Problem]:
    if not decoding.max_new_tokens:
        yield Problem("PLAN-E0446", "max_new_tokens", "0 with inference_type=endpoint", "at least 1",
                      "set the longest answer in tokens", why=_ENDPOINT_LENGTHS)  # fmt: skip
    if texts := end_tokens_asked(decoding)[1]:
        yield Problem("PLAN-E0447", "eos_tokens", f"{shown(texts[0])} with inference_type=endpoint", "ids of tokens",
                      "give the ids, or use stop_strings", why="only the server has the tokenizer")  # fmt: skip


def _unknown_fields(others: dict[str, Any], engine: str) -> Iterator[Problem]:
    """Yield fields of GenerationConfig that engines other than those of transformers do not have."""
    if engine not in ("vllm", "endpoint"):
        return
    for name, value in others.items():
        if value is not False:
            yield Problem("PLAN-E0449", f"hf_gen_params.{name}", f"{shown(value)} with inference_type={engine}",
                          "a field with the same meaning as a decoding parameter", f"leave it out, or {_ACCELERATE}",
                          why=f"{engine} does not read transformers' settings")  # fmt: skip


def _written(value: Any) -> str:
    """Write a value as on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
