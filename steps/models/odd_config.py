"""Values of a model's small files that no model can be built with: told before they end a step in a traceback."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from steps.errors import Problem, UserError, shown

# Keys whose value is a number of something that every model with this key has.
COUNTS = (
    "hidden_size", "n_embd", "d_model", "num_hidden_layers", "n_layer", "num_attention_heads", "n_head",
    "num_key_value_heads", "intermediate_size", "vocab_size",
)  # fmt: skip
# Keys of numbers where some models write 0 or null: they have no limit, or none of these.
AMOUNTS = (
    "max_position_embeddings", "n_positions", "head_dim", "d_kv", "dim", "n_layers", "num_layers", "encoder_layers",
    "decoder_layers", "num_decoder_layers", "num_kv_heads", "num_heads", "n_heads", "encoder_attention_heads",
    "moe_intermediate_size", "n_inner", "d_ff", "ffn_dim", "encoder_ffn_dim", "hidden_dim", "num_experts_per_tok",
    "num_labels",
)  # fmt: skip
# Of these, a model has one: no list with a number for each layer.
SINGLE = {
    "hidden_size", "n_embd", "d_model", "dim", "num_hidden_layers", "n_layer", "n_layers", "num_layers",
    "encoder_layers", "decoder_layers", "num_decoder_layers", "vocab_size", "max_position_embeddings", "n_positions",
    "num_labels",
}  # fmt: skip
MOST = 10**12  # no model has so many of anything; larger numbers overflow what is computed from them
MOST_TYPE = 100  # characters of model_type
DTYPES = {
    "auto", "bfloat16", "bool", "double", "float", "float16", "float32", "float64", "float8_e4m3fn",
    "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "half", "int16", "int32", "int64", "int8",
    "uint8",
}  # fmt: skip
# Of many architectures; a value of another kind ends the building of a model, or its training in numbers that are none.
CONFIG_SWITCHES = (
    "tie_word_embeddings", "use_cache", "attention_bias", "mlp_bias", "is_encoder_decoder", "is_decoder",
    "output_attentions", "output_hidden_states", "return_dict",
)  # fmt: skip
FRACTIONS = (
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "initializer_range", "attention_dropout", "hidden_dropout",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "embd_pdrop", "resid_pdrop", "attn_pdrop", "dropout",
    "rope_theta",
)  # fmt: skip
TEXTS = ("feed_forward_proj", "hidden_act", "activation_function", "_name_or_path")
OBJECTS = ("quantization_config", "id2label", "label2id")
ROPE = ("rope_scaling", "rope_parameters")
STRETCHES = ("factor", "original_max_position_embeddings")
NESTED = "text_config"
# Of adapter_config.json.
DROPOUTS = ("lora_dropout", "rank_dropout", "module_dropout")
ADAPTER_SWITCHES = ("use_dora", "use_rslora", "fan_in_fan_out", "inference_mode", "ensure_weight_tying")
ADAPTER_OBJECTS = ("auto_mapping", "loftq_config", "eva_config", "corda_config", "rank_pattern", "alpha_pattern")
SIDES = ("padding_side", "truncation_side")
SWITCHES = ("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces",
            "split_special_tokens")  # fmt: skip
MOST_TOKENS = 4_000_000  # four times the largest vocabulary; transformers fills the gap below a number
FILE_NAME = re.compile(r"\w[\w .-]{0,99}")  # transformers writes each template into a file that is called like it
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
EXTRA = ("extra_special_tokens", "additional_special_tokens")
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Special tokens by their numbers, also in generation_config.json; only an end may have several.
TOKENS = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id",
)  # fmt: skip
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")

Rule = tuple[str, Callable[[Any], bool]]
"""What is expected, and whether a value is that."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_position(key: str) -> bool:
    return key.isascii() and key.isdecimal() and len(key) <= len(str(MOST_TOKENS)) and int(key) < MOST_TOKENS


def _is_added(token: Any) -> bool:
    """Return whether a token is an object with its text, whose flags are true or false."""
    if not isinstance(token, dict) or not TOKEN[1](token):
        return False
    return all(isinstance(token[flag], bool) for flag in FLAGS if flag in token)


def _are_tokens(value: Any) -> bool:
    tokens = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | list) and all(map(TOKEN[1], tokens))


def _is_template(value: Any) -> bool:
    if isinstance(value, str):
        return True
    if isinstance(value, list):
        named = [(one.get("name"), one.get("template")) if isinstance(one, dict) else (None, None) for one in value]
    else:
        named = list(value.items()) if isinstance(value, dict) else [(None, None)]
    return all(isinstance(name, str) and FILE_NAME.fullmatch(name) and isinstance(text, str) for name, text in named)


TEXT: Rule = ("a text", lambda value: isinstance(value, str))
OBJECT: Rule = ("an object", lambda value: isinstance(value, Mapping))
NAMES: Rule = (
    "a list of texts",
    lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
)
LAYERS: Rule = ("a text, or a list of texts", lambda value: TEXT[1](value) or NAMES[1](value))
ID: Rule = ("a number", lambda value: type(value) is int and abs(value) <= MOST)
IDS: Rule = ("a number, or a list of numbers", lambda value: all(map(ID[1], value if type(value) is list else [value])))
WORDS: Rule = (
    "a list of lists of numbers",
    lambda value: isinstance(value, list) and all(isinstance(one, list) and all(map(ID[1], one)) for one in value),
)
STRETCH: Rule = ("a number", lambda value: _is_number(value) and math.isfinite(float(min(value, MOST + 1))) and
                 0 <= value <= MOST)  # fmt: skip
TOKEN: Rule = ("a token", lambda value: isinstance(value.get("content") if isinstance(value, dict) else value, str))
DECODER: Rule = (
    "an object of tokens by their numbers",
    lambda value: isinstance(value, dict) and all(_is_position(key) and _is_added(one) for key, one in value.items()),
)
SEVERAL: Rule = ("a list of tokens, or tokens by name", _are_tokens)
DTYPE: Rule = (
    "a type of numbers, such as bfloat16",
    lambda value: isinstance(value, str) and value.removeprefix("torch.") in DTYPES,
)
SWITCH: Rule = ("true or false", lambda value: isinstance(value, bool))
SIDE: Rule = ("left or right", lambda value: value in ("left", "right"))
TEMPLATE: Rule = ("a text, or texts by plain names", _is_template)
NUMBER: Rule = ("a number", _is_number)
COUNT: Rule = ("a whole number of at least 1", lambda value: type(value) is int and 1 <= value <= MOST)
SHARE: Rule = ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
BIAS: Rule = ("none, all or lora_only", lambda value: TEXT[1](value) and (value in ("none", "all") or "_only" in value))
TOKEN_RULES = {**dict.fromkeys(ROLES, TOKEN), **dict.fromkeys(EXTRA, SEVERAL)}


def refuse_odd_values(where: str, config: Mapping[str, Any]) -> None:
    """Raise UserError with every value of another type, and with every number below the smallest possible one."""
    if problems := list(_problems(where, config, named=True)):
        raise UserError(problems)


def refuse_odd_tokenizer(where: str, config: Mapping[str, Any]) -> None:
    """Do the same for tokenizer_config.json."""
    rules = {
        "model_max_length": NUMBER, "tokenizer_class": TEXT, "chat_template": TEMPLATE,
        "added_tokens_decoder": DECODER, "model_input_names": NAMES, **dict.fromkeys(SIDES, SIDE), **TOKEN_RULES,
        **dict.fromkeys(SWITCHES, SWITCH),
    }  # fmt: skip
    if problems := list(_breaches(where, config, rules)):
        raise UserError(problems)


def odd_special(told: Mapping[str, Any]) -> str:
    """Return what is odd in special_tokens_map.json; empty if nothing is."""
    for name, (_, holds) in TOKEN_RULES.items():
        if (value := told.get(name)) is not None and not holds(value):
            return f"{name} {shown(value)}"
    return ""


def refuse_odd_generation(where: str, told: Mapping[str, Any]) -> None:
    """Do the same for the tokens in generation_config.json."""
    rules = {**dict.fromkeys((*TOKENS, *SUPPRESSED), IDS), "bad_words_ids": WORDS}
    if problems := list(_breaches(where, told, rules)):
        raise UserError(problems)


def refuse_odd_adapter(where: str, config: Mapping[str, Any]) -> None:
    """Do the same for adapter_config.json, of what its kinds share; `steps/adapters/settings.py` reads the rest."""
    rules = {
        **dict.fromkeys(("peft_type", "task_type", "base_model_name_or_path", "revision"), TEXT),
        "target_modules": LAYERS, "modules_to_save": NAMES, "layers_to_transform": IDS, "layers_pattern": LAYERS,
        "r": COUNT, "num_virtual_tokens": COUNT, "bias": BIAS, **dict.fromkeys(DROPOUTS, SHARE),
        **dict.fromkeys(ADAPTER_SWITCHES, SWITCH), **dict.fromkeys(ADAPTER_OBJECTS, OBJECT),
    }  # fmt: skip
    if problems := list(_breaches(where, config, rules)):
        raise UserError(problems)


def _problems(where: str, config: Mapping[str, Any], named: bool) -> Iterator[Problem]:
    kind = config.get("model_type")
    if named and not (isinstance(kind, str) and kind.isprintable() and 0 < len(kind) <= MOST_TYPE):
        yield _odd(f"{where}: model_type", kind, "the name of an architecture, such as llama")
    for name, least in (*((one, 1) for one in COUNTS), *((one, 0) for one in AMOUNTS)):
        value = config.get(name)
        several = value if isinstance(value, list) and value and name not in SINGLE else [value]
        if value is not None and any(type(one) is not int or not least <= one <= MOST for one in several):
            yield _odd(f"{where}: {name}", value, f"a whole number of at least {least}")
    heads, shared = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if type(heads) is int and type(shared) is int and shared > 0 and heads % shared:
        yield _odd(f"{where}: num_key_value_heads", shared, f"a divisor of num_attention_heads, {heads}")
    rules: dict[str, Rule] = {
        **dict.fromkeys(TEXTS, TEXT), **dict.fromkeys(OBJECTS, OBJECT), "architectures": NAMES,
        **dict.fromkeys(TOKENS, IDS), "pad_token_id": ID, **dict.fromkeys(("dtype", "torch_dtype"), DTYPE),
        **dict.fromkeys(CONFIG_SWITCHES, SWITCH), **dict.fromkeys(FRACTIONS, STRETCH), "layer_types": NAMES,
    }  # fmt: skip
    yield from _breaches(where, config, rules)
    inner = config.get(NESTED)
    if isinstance(inner, Mapping):
        yield from _problems(f"{where}: {NESTED}", inner, named=False)
    elif inner is not None:
        yield _odd(f"{where}: {NESTED}", inner, "an object")
    for name in ROPE:
        rope = config.get(name)
        if rope and not isinstance(rope, Mapping):
            yield _odd(f"{where}: {name}", rope, "an object")
        elif rope:
            kinds = {"rope_type": TEXT, "type": TEXT, **dict.fromkeys(STRETCHES, STRETCH)}
            yield from _breaches(f"{where}: {name}", rope, kinds)


def _breaches(where: str, values: Mapping[str, Any], rules: Mapping[str, Rule]) -> Iterator[Problem]:
    """Yield a problem for each value that is not what its rule expects; a value may be missing or null."""
    for name, (expected, holds) in rules.items():
        if (value := values.get(name)) is not None and not holds(value):
            yield _odd(f"{where}: {name}", value, expected)


def _odd(where: str, value: Any, expected: str) -> Problem:
    fix = "upload the file again, or save the model again with save_pretrained"
    return Problem("MODEL-E0116", where, "nothing" if value is None else shown(value), expected, fix)
