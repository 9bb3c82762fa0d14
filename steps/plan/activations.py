"""What the forward pass of one training step keeps for the backward pass, from a model's configuration.

Korthikanti et al. 2022 (arXiv 2205.05198) count what the operations of a GPT layer save: 34 bytes per token and hidden
unit in 16 bit, and 5·heads·length bytes for attention matrices. Here the same is counted per architecture: with gated
feed-forward layers, RMS norms, keys and values that several heads share, and the copies that autocast makes.
tests/steps/test_memory_measured.py compares the result with torch's own account of a training step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Tensors of the width of the feed-forward layer that an activation function saves, besides its result.
SAVED_BY = {"relu": 0, "gelu_new": 4, "gelu_fast": 6, "quick_gelu": 2, "relu2": 1}
SAVED_BY_OTHERS = 1  # silu, gelu and others of one operation save their input
# Model types whose queries, keys and values are one matrix: autocast copies its input once, not three times.
FUSED = {"gpt2", "gpt_neox", "bloom", "falcon", "phi3", "gpt_bigcode", "mpt", "codegen", "gptj"}
# Model types for which transformers has eager attention only.
EAGER_ONLY = {"t5", "mt5", "umt5", "longt5", "deberta", "deberta-v2"}
T5 = {"t5", "mt5", "umt5", "longt5"}
WIDE = 4  # bytes of a float32


@dataclass(frozen=True)
class Architecture:
    """The sizes of a model's layers that decide its activations; 0 where the configuration does not have them."""

    hidden: int
    layers: int
    """Layers of a model without, or of the encoder of one with a separate decoder."""
    decoder_layers: int
    heads: int
    queries: int
    """Width of the queries of all heads; keys and values are repeated to it."""
    keys: int
    """Width of the keys, fewer if heads share them."""
    inner: int
    """Width of the feed-forward layer, of all experts that a token passes."""
    vocabulary: int
    gated: bool
    """Whether the feed-forward layer has a second matrix that scales its result."""
    rms: bool
    """Whether the norms are RMS norms, which save their result before its scale as well."""
    activation: str
    dropout: bool
    """Whether results of the layers are dropped out."""
    attention_dropout: bool
    inner_dropout: bool
    fused: bool
    eager_only: bool

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """The weight matrices of one layer by their common name, as (inputs, outputs)."""
        hidden, keys, inner = self.hidden, self.keys, self.inner
        attention = {"q_proj": (hidden, self.queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
        if self.fused:
            attention = {"c_attn": (hidden, self.queries + 2 * keys)}
        feed = {"gate_proj": (hidden, inner)} if self.gated else {}
        return {**attention, "o_proj": (self.queries, hidden), **feed, "up_proj": (hidden, inner),
                "down_proj": (inner, hidden)}  # fmt: skip

    @property
    def depth(self) -> float:
        """Layers in all, as many as have the matrices of one; a decoder has those of another attention besides."""
        own = sum(inputs * outputs for inputs, outputs in self.matrices.values())
        cross = 2 * self.hidden * (self.queries + self.keys)
        return self.layers + self.decoder_layers * (1 + cross / own if own else 1)

    @property
    def layer_weights(self) -> int:
        """Weights of the matrices of the largest layer."""
        own = sum(inputs * outputs for inputs, outputs in self.matrices.values())
        return own + (2 * self.hidden * (self.queries + self.keys) if self.decoder_layers else 0)


def architecture_of(config: Mapping[str, Any], has_encoder: bool = False) -> Architecture:
    """Read the sizes from a configuration (config.json), whose keys differ between model types."""
    kind = str(config.get("model_type") or "")
    config = {**config, **(config.get("text_config") or {})}
    hidden = _first(config, "hidden_size", "n_embd", "d_model", "dim")
    heads = _first(config, "num_attention_heads", "n_head", "encoder_attention_heads", "num_heads", "n_heads")
    width = _first(config, "head_dim", "d_kv") or (hidden // heads if heads else 0)
    shared = _first(config, "num_key_value_heads", "num_kv_heads") or heads
    form = str(config.get("feed_forward_proj") or "")
    act = form.removeprefix("gated-") or str(_first(config, "hidden_act", "activation_function", "hidden_activation",
                                                    "activation", default="gelu"))  # fmt: skip
    experts = _first(config, "num_experts_per_tok", default=1) if config.get("moe_intermediate_size") else 1
    inner = _first(config, "moe_intermediate_size", "intermediate_size", "n_inner", "d_ff", "encoder_ffn_dim",
                   "ffn_dim", "hidden_dim", default=4 * hidden)  # fmt: skip
    rms = "rms_norm_eps" in config or kind in T5
    encoding, decoding = encoder_and_decoder(config) if has_encoder else (_depth(config), 0)
    return Architecture(
        hidden=hidden,
        layers=encoding,
        decoder_layers=decoding,
        heads=heads,
        queries=heads * width or hidden,
        keys=shared * width or hidden,
        inner=int(inner) * int(experts),
        vocabulary=_first(config, "vocab_size"),
        gated=form.startswith("gated") or (rms and kind not in T5) or kind == "modernbert",
        rms=rms,
        activation="gelu_new" if form == "gated-gelu" else act,
        dropout=_drops(config, "hidden_dropout_prob", "resid_pdrop", "dropout", "dropout_rate", "hidden_dropout"),
        attention_dropout=_drops(config, "attention_probs_dropout_prob", "attn_pdrop", "attention_dropout")
        or (kind in T5 and _drops(config, "dropout_rate")),
        inner_dropout=_drops(config, "activation_dropout") or (kind in T5 and _drops(config, "dropout_rate")),
        fused=kind in FUSED,
        eager_only=kind in EAGER_ONLY,
    )


def encoder_and_decoder(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of encoder and decoder layers, whose keys differ between T5 and BART."""
    encoding = config.get("encoder_layers") or config.get("num_layers") or config.get("num_hidden_layers") or 0
    return encoding, config.get("decoder_layers") or config.get("num_decoder_layers") or encoding


@dataclass(frozen=True)
class Kept:
    """How the operations are computed, which decides the type and number of saved tensors."""

    half: bool
    """Whether autocast computes matrix products in 16 bit."""
    adapter: bool
    """Whether only an adapter is trained; the frozen base is in 16 bit then, if `half`."""
    eager: bool
    """Whether attention matrices are saved."""
    gpu: bool

    @property
    def width(self) -> int:
        """Bytes of the result of a matrix product."""
        return 2 if self.half else WIDE

    @property
    def residual(self) -> int:
        """Bytes of the values that pass from layer to layer: those of the weights."""
        return 2 if self.half and self.adapter else WIDE

    @property
    def mask(self) -> int:
        """Bytes of an element of a dropout's mask; on the CPU it has the type of the values."""
        return 1 if self.gpu else self.width


def layer_bytes(a: Architecture, kept: Kept, tokens: int, length: int) -> int:
    """Return the bytes that a layer of a model without a separate decoder, or of an encoder, saves for `tokens`."""
    return int(tokens * (_block(a, kept, norms=2) + _attention(a, kept, length)))


def decoder_bytes(a: Architecture, kept: Kept, written: int, length: int, read: int, read_length: int) -> int:
    """Return the bytes of a decoder's layer: `written` tokens in rows of `length` attend to themselves and to `read`.

    Autocast copies the encoder's output for the keys and for the values of every layer.
    """
    own = written * (_block(a, kept, norms=3) + _attention(a, kept, length) + a.queries * kept.width)
    copies = read * a.hidden * 2 * 2 if kept.half else 0
    cross = read * 2 * a.queries * kept.width + written * _matrices(a, kept, read_length)
    return int(own + copies + cross)


def boundary_bytes(a: Architecture, kept: Kept, tokens: int) -> int:
    """Return the bytes that pass from one layer to the next: all that is kept of a layer that is recomputed."""
    return tokens * a.hidden * kept.residual


def ends_bytes(a: Architecture, kept: Kept, tokens: int) -> int:
    """Return the bytes saved before the first layer and after the last one: embeddings and the last norm."""
    return tokens * a.hidden * (2 * WIDE + kept.width + (WIDE if a.rms and not kept.adapter else 0))


def backward_bytes(a: Architecture, kept: Kept, tokens: int) -> int:
    """Return the bytes of the gradients of a layer's activations while they are computed."""
    return tokens * (2 * a.hidden * WIDE + 2 * a.inner * kept.width)


def _block(a: Architecture, kept: Kept, norms: int) -> float:
    """Bytes per token of norms, inputs of matrices, dropouts and the feed-forward layer; `norms` - 1 attentions."""
    width, attentions = kept.width, norms - 1
    norm = WIDE if a.rms or kept.gpu else kept.residual
    normed = norm * (2 if a.rms and not kept.adapter else 1)  # the gradient of a norm's scale needs its result
    # Autocast copies an input once for each matrix; a float32 input is saved once for all of them.
    ones = 1 if a.fused else 3
    inputs = (ones + 1 + (2 if a.gated else 1)) if kept.half else 3
    inputs += (attentions - 1) * 2
    dropped = norms * kept.mask if a.dropout else 0
    saved = SAVED_BY.get(a.activation, SAVED_BY_OTHERS)
    feed = (saved + (3 if a.gated else 1)) * width + (kept.mask if a.inner_dropout else 0)
    return a.hidden * (norms * normed + inputs * width + dropped) + a.inner * feed


def _attention(a: Architecture, kept: Kept, length: int) -> float:
    """Bytes per token of queries, keys and values (the copies that are multiplied), and of attention matrices."""
    in_full = _in_full(a, kept) and not (kept.eager or a.eager_only)
    copies = 4 if kept.half and kept.adapter and not in_full and not kept.eager else 3
    return a.queries * copies * (WIDE if in_full else kept.width) + _matrices(a, kept, length)


def _in_full(a: Architecture, kept: Kept) -> bool:
    """Whether the library's attention is computed step by step: on the CPU, with dropout."""
    return not kept.gpu and a.attention_dropout


def _matrices(a: Architecture, kept: Kept, length: int) -> float:
    """Bytes per token of attention matrices in float32, their dropout and their copies; of a mask without them."""
    if not (kept.eager or a.eager_only or _in_full(a, kept)):
        return length * kept.width
    saved = WIDE + (kept.width if kept.half else 0)
    if a.attention_dropout:
        saved = WIDE + (1 if kept.gpu else WIDE) + (kept.width if kept.eager or a.eager_only else WIDE)
    return a.heads * length * saved


def _depth(config: Mapping[str, Any]) -> int:
    return int(_first(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers"))


def _first(config: Mapping[str, Any], *names: str, default: Any = 0) -> Any:
    """Return the first value that a configuration has under one of the names; the largest of one for each layer."""
    value = next((config[name] for name in names if config.get(name)), default)
    return max(value) if isinstance(value, list) else value


def _drops(config: Mapping[str, Any], *names: str) -> bool:
    return any(isinstance(config.get(name), int | float) and config[name] > 0 for name in names)
