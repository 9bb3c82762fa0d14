"""What the parameters of decoding must satisfy, found before a model is loaded; needs no torch.

`hf_gen_params` may set any field of transformers' GenerationConfig that changes an answer. Those that mean the same as
a parameter of ours override it; those without a meaning here are refused, each with the reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from steps.errors import Problem, UserError, nearest, shown
from steps.params.generation import DecodingParams

WHERE = "hf_gen_params"
_OUTPUT = "answers are written as texts, tokens and log-probabilities only", "leave it out, or set logprobs=true"
_CACHE = "rows leave and join the engine's own cache", "leave it out, or set use_cache=false"
_ASSISTED = "no assistant model drafts tokens here", "leave it out"
_COMPILED = "the decoding loop is not compiled", "leave it out"
_REMOVED = "transformers no longer has it", "leave it out"
# Field of GenerationConfig → why it is refused, and what to do.
REFUSED: dict[str, tuple[str, str]] = {
    "max_time": ("answers would depend on the speed of the machine", "set max_new_tokens instead"),
    "num_return_sequences": ("answers are counted before they are written", "set the parameter num_return_sequences"),
    "token_healing": ("it would change the prompt", "leave it out"),
    "bos_token_id": ("every answer has a prompt", "leave it out"),
    **dict.fromkeys(("cache_implementation", "cache_config", "max_cache_len"), _CACHE),
    "prefill_chunk_size": ("prompts are read together under a budget of tokens", "leave it out"),
    **dict.fromkeys(("output_attentions", "output_hidden_states", "output_scores", "output_logits",
                     "return_dict_in_generate"), _OUTPUT),
    **dict.fromkeys(("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
                     "assistant_confidence_threshold", "prompt_lookup_num_tokens", "max_matching_ngram_size",
                     "assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight",
                     "speculation_type", "use_mtp"), _ASSISTED),
    **dict.fromkeys(("compile_config", "disable_compile", "continuous_batching_config"), _COMPILED),
    **dict.fromkeys(("low_memory", "penalty_alpha", "dola_layers", "diversity_penalty", "num_beam_groups",
                     "constraints", "force_words_ids"), _REMOVED),
}  # fmt: skip
SAMPLING = ("temperature", "top_k", "top_p", "min_p")
SAMPLING_OF_TRANSFORMERS = ("typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")
OF_IDS = ("eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id",
          "suppress_tokens", "begin_suppress_tokens")  # fmt: skip
OF_BEAMS = ("length_penalty", "early_stopping")


def decoding_problems(decoding: DecodingParams) -> list[Problem]:
    """Return all that is wrong with the parameters, whatever the model; transformers is loaded for hf_gen_params."""
    problems = list(_of_names(decoding.hf_gen_params))
    try:
        made, more = split(decoding)
    except ValidationError as error:
        told = error.errors()[0]
        name, found = str(told["loc"][0]), shown(told["input"])
        return [*problems, Problem("PLAN-E0461", f"{WHERE}.{name}", found, told["msg"], "correct the value")]
    problems += _of_values(more)
    return [*problems, *_of_texts(made), *_of_lengths(made), *_without_effect(made, more)]


def refuse_wrong(decoding: DecodingParams) -> None:
    """Raise UserError with all that is wrong with the parameters."""
    if problems := decoding_problems(decoding):
        raise UserError(problems)


def split(decoding: DecodingParams) -> tuple[DecodingParams, dict[str, Any]]:
    """Return the parameters with those of hf_gen_params that mean the same, and the others of hf_gen_params.

    Raises pydantic's ValidationError for a value out of bounds.
    """
    given = {name: value for name, value in decoding.hf_gen_params.items() if value is not None}
    ours = {name: given.pop(name) for name in list(given) if name in _shared()}
    if "early_stopping" in ours:
        ours["early_stopping"] = str(ours["early_stopping"]).lower()
    if "stop_strings" in ours:
        texts = ours["stop_strings"]
        ours["stop_strings"] = json.dumps([texts] if isinstance(texts, str) else texts)
    return DecodingParams.model_validate({**decoding.model_dump(), **ours, WHERE: {}}), given


def fields_of_transformers() -> set[str]:
    """Return the names of all settings of GenerationConfig."""
    from transformers import GenerationConfig

    return {name for name in vars(GenerationConfig()) if not name.startswith("_") and name != "transformers_version"}


def _shared() -> set[str]:
    return set(DecodingParams.model_fields) & fields_of_transformers()


def _of_names(given: dict[str, Any]) -> Iterator[Problem]:
    if not given:
        return
    known = fields_of_transformers() - set(REFUSED)
    for name in given:
        if name in REFUSED:
            why, fix = REFUSED[name]
            yield Problem("PLAN-E0462", f"{WHERE}.{name}", shown(given[name]), "no such setting", fix, why=why)
        elif name not in known:
            fix = nearest(name, known) or "look it up in transformers' GenerationConfig"
            yield Problem("PLAN-E0463", f"{WHERE}.{name}", "an unknown name", "a field of GenerationConfig", fix)


def _of_values(more: dict[str, Any]) -> Iterator[Problem]:
    if not more:  # the plan loads transformers only if it has to
        return
    from transformers import GenerationConfig

    known = {name: value for name, value in more.items() if name in fields_of_transformers() - set(REFUSED)}
    for name, value in known.items():
        if not _is_finite(value):
            yield Problem("PLAN-E0468", f"{WHERE}.{name}", shown(value), "finite numbers", "correct the value")
    try:
        GenerationConfig(**known)
    except Exception as error:  # what wrong values lead to is of any class
        found = shown(known)
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        yield Problem("PLAN-E0467", WHERE, found, "values that transformers accepts", "correct the value", why=said)


def _is_finite(value: Any) -> bool:
    """Return whether a JSON value has neither NaN nor infinity."""
    if isinstance(value, dict | list | tuple):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def unknown_ids(more: dict[str, Any], known: int) -> Iterator[tuple[str, int]]:
    """Yield (field of hf_gen_params, id) for the first id of each field that is not one of a model with `known`."""
    for name, value in more.items():
        if name in OF_IDS:
            listed = value if isinstance(value, list | tuple) else [value]
            wrong = [one for one in listed if _is_no_id(one, known)]
            if wrong:
                yield name, wrong[0]


def _is_no_id(value: Any, known: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and not 0 <= value < known


def stop_strings_of(decoding: DecodingParams) -> list[str]:
    """Return the texts that end an answer. Raises ValueError if the parameter is not a list of texts."""
    texts = json.loads(decoding.stop_strings or "[]")
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(texts)
    for text in texts:
        text.encode()  # half of a surrogate pair: its error is a ValueError
    return texts


def _of_texts(made: DecodingParams) -> Iterator[Problem]:
    try:
        stop_strings_of(made)
    except (ValueError, RecursionError):
        yield Problem("PLAN-E0466", "stop_strings", shown(made.stop_strings), "a JSON list of texts",
                      'write it as ["User:", "###"]')  # fmt: skip


def _of_lengths(made: DecodingParams) -> Iterator[Problem]:
    most = made.max_new_tokens
    if most >= made.max_length:
        yield Problem("PLAN-E0464", "max_new_tokens", f"{most} with max_length={made.max_length}",
                      "fewer than max_length", f"set max_length to more than {most}",
                      why="the difference is what is left for the prompt")  # fmt: skip
    if most and made.min_new_tokens > most:
        yield Problem("PLAN-E0464", "min_new_tokens", f"{made.min_new_tokens} with max_new_tokens={most}",
                      "at most max_new_tokens", "lower min_new_tokens")  # fmt: skip
    if not most and made.max_inference_length < 2:
        yield Problem("PLAN-E0464", "max_inference_length", f"{made.max_inference_length} with max_new_tokens=0",
                      "at least 2", "raise it, or set max_new_tokens",
                      why="a token is needed for the prompt and one for the answer")  # fmt: skip
    longest = made.max_length if most else made.max_inference_length
    if max(made.min_length, 0 if most else made.min_new_tokens) > longest:
        name = "min_length" if made.min_length > longest else "min_new_tokens"
        bound = "max_length" if most else "max_inference_length"
        yield Problem("PLAN-E0464", name, f"{getattr(made, name)} with {bound}={longest}", f"at most {bound}",
                      f"lower {name}")  # fmt: skip


def _without_effect(made: DecodingParams, more: dict[str, Any]) -> Iterator[Problem]:
    """Refuse settings that would change nothing."""
    for names, used, switch in (
        (SAMPLING, made.do_sample, "do_sample=true"),
        (OF_BEAMS, made.num_beams > 1, "num_beams above 1"),
    ):
        for name in names if not used else ():
            value, default = getattr(made, name), DecodingParams.model_fields[name].default
            if value != default:
                yield Problem("PLAN-E0465", name, shown(value), f"{shown(default)}, or {switch}",
                              f"set {switch}, or leave {name} out",
                              why=f"it has no effect without {switch}")  # fmt: skip
    for name in SAMPLING_OF_TRANSFORMERS if not made.do_sample else ():
        if name in more:
            yield Problem("PLAN-E0465", f"{WHERE}.{name}", shown(more[name]), "do_sample=true",
                          "set do_sample=true, or leave it out", why="it has no effect without drawing")  # fmt: skip
