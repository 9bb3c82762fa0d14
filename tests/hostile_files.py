"""Files of a model without torch behind it, and what a stranger may put in their place."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

Act = Callable[[Path], None]

END = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
TOKENIZER = {
    "added_tokens": [{"id": 0, "content": "<pad>", **END}, {"id": 1, "content": "<end>", **END}],
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "model": {"type": "WordLevel", "vocab": {"<pad>": 0, "<end>": 1, "a": 2, "b": 3}, "unk_token": "<pad>"},
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4, "hidden_size": 8,
    "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
    "max_position_embeddings": 64, "tie_word_embeddings": True, "dtype": "float32", "rms_norm_eps": 1e-6,
    "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "pad_token": "<pad>", "model_max_length": 64,
    "chat_template": "{% for m in messages %}{{ m['content'] }}{% generation %}{% endgeneration %}{% endfor %}",
}  # fmt: skip
SQUARE = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
SHAPES = {
    "model.embed_tokens.weight": [4, 8],
    "model.norm.weight": [8],
    **{f"model.layers.0.{name}.weight": [8, 8] for name in SQUARE},
    **{f"model.layers.0.{name}.weight": [8] for name in ("input_layernorm", "post_attention_layernorm")},
}
ADAPTED = "base_model.model.model.layers.0.self_attn.q_proj"
LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
ENDLESS = {
    "loops in loops": "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}",
    "a power of a power": "{{ 9**(9**(9**9)) }}",
    "a long text": "{{ ('a' * 99999999999) | length }}",
    "a text that doubles with each message": "{% set ns = namespace(x='a') %}{% for m in messages %}"
    "{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}{{ ns.x }}",
}
# What a template may write that doubles again and again.
DOUBLING = {
    "two texts by turns": "{% set ns = namespace(x='a', y='b') %}{% for m in messages %}{% set ns.x = ns.x ~ ns.y %}"
    "{% set ns.y = ns.y ~ ns.x %}{% endfor %}{{ ns.x }}",
    "lines": "{% set x = 'aaaa' %}" + "{% set x = x ~ x %}" * 60 + "{{ x }}",
    "sums": "{% set a = 'x' %}{% set b = 'y' %}" + "{% set a = a + b %}{% set b = b + a %}" * 40 + "{{ a }}",
    "blocks": "{% set x %}aaaa{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60 + "{{ x }}",
    "lists": "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60 + "{{ x }}",
    "replacing": "{% set x = 'aa' %}" + "{% set x = x | replace('a', x) %}" * 8 + "{{ x }}",
    "joining by itself": "{% set x = 'aa' %}" + "{% set x = x.join(x) %}" * 8 + "{{ x }}",
    "formats": "{% set x = 'aa' %}" + "{% set x = '{0}{0}'.format(x) %}" * 60 + "{{ x }}",
    "macros in macros": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{{ " + "f(" * 60 + "'a'" + ")" * 60 + " }}",
    "blocks of filters": "{% set x = 'aa' %}{% filter replace('a', x) %}{{ x }}{% endfilter %}",
    "a list that grows by itself": "{% set x = [1] %}{% for m in messages %}{{ x.extend(x) }}{% endfor %}",
}


def safetensors(shapes: dict[str, list[int]]) -> bytes:
    """Return a weight file of zeros."""
    head, position = {}, 0
    for name, shape in shapes.items():
        end = position + 4 * math.prod(shape)
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [position, end]}
        position = end
    return header(head, bytes(position))


def header(told: object, data: bytes = b"") -> bytes:
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    return struct.pack("<Q", len(text)) + text + data


def put(name: str, content: object) -> Act:
    def act(folder: Path) -> None:
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return act


def tensor(**changes: object) -> bytes:
    """Return a weight file with one tensor, of which the header tells something else."""
    return header({"a.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}, bytes(4))


def config(**changes: object) -> Act:
    return put("config.json", {**CONFIG, **changes})


def tokens(**changes: object) -> Act:
    return put("tokenizer.json", {**TOKENIZER, **changes})


def split_by(expression: str) -> Act:
    return tokens(pre_tokenizer={"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated",
                                 "invert": False})  # fmt: skip


def told(**changes: object) -> Act:
    return put("tokenizer_config.json", {**TOKENIZER_CONFIG, **changes})


def link(name: str, target: str) -> Act:
    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return act


def fifo(name: str) -> Act:
    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return act


def huge(name: str) -> Act:
    def act(folder: Path) -> None:
        (folder / name).touch()
        os.truncate(folder / name, 6 << 30)

    return act


def index(content: object) -> Act:
    def act(folder: Path) -> None:
        put("model.safetensors.index.json", content)(folder)
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")

    return act


def weights(content: bytes) -> Act:
    return put("model.safetensors", content)


def folder_for(name: str) -> Act:
    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        put(f"{name}/more/x.txt", "x")(folder)

    return act


def both(*acts: Act) -> Act:
    def act(folder: Path) -> None:
        for one in acts:
            one(folder)

    return act


def not_utf8(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).touch()
