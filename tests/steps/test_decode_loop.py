"""Rows that are decoded in changing company are answered as `generate` answers each of them alone."""

import functools
import random

import pytest
import torch
import transformers
from transformers import GenerationConfig

from steps.errors import NumericError, OutOfResources
from steps.generation import decode_loop
from steps.generation.answering import answer
from steps.generation.decode_loop import can_decode
from steps.generation.generating import PLAIN
from steps.generation.row_cache import RowCache
from steps.generation.tokens import Answer, How, Limits, Prompt

SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NARROW = {"sliding_window": 8}
MODELS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", SIZES),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", SIZES),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**SIZES, **NARROW}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**SIZES, **NARROW, "head_dim": 16, "attn_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig",
               {**SIZES, **NARROW, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"] * 2,
                "num_hidden_layers": 4}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config",
             {"vocab_size": 300, "n_positions": 512, "n_embd": 64, "n_layer": 3, "n_head": 4, "initializer_range": 0.3,
              "bos_token_id": 1, "eos_token_id": 2}),
}  # fmt: skip
OTHERS = {
    "bloom": ("BloomForCausalLM", "BloomConfig", {"vocab_size": 300, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "mamba": ("MambaForCausalLM", "MambaConfig", {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}),
    "jamba": ("JambaForCausalLM", "JambaConfig",
              {**SIZES, "num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
               "expert_layer_period": 2, "use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4}),
    "llama4": ("Llama4ForCausalLM", "Llama4TextConfig",
               {**SIZES, "attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 64,
                "head_dim": 16}),
}  # fmt: skip
ENDS = [2, 5, 9, 11, 17, 33, 40, 41, 42, 43]


def build(name: str, models=MODELS):
    kind, config, sizes = models[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**sizes)).eval()
    if "gemma" in name:  # their embeddings are scaled up, so that without this every answer is its prompt's last token
        model.lm_head.weight = torch.nn.Parameter(torch.randn(300, 64))
    return model


def how(rows=None, tokens=None, **changes) -> How:
    told = {**PLAIN, "max_new_tokens": 40, "eos_token_id": ENDS, "pad_token_id": 0, **changes}
    return How(GenerationConfig(**told), Limits(rows, tokens))


def prompts(count: int, seed: int = 1, longest: int = 40, most: int = 40) -> list[Prompt]:
    chance = random.Random(seed)
    some = [[chance.randrange(50, 300) for _ in range(chance.randrange(1, longest))] for _ in range(count)]
    return [Prompt(tuple(ids), most, seed=number) for number, ids in enumerate(some)]


def alone(model, prompt: Prompt, **changes) -> tuple[int, ...]:
    """What `generate` answers to one prompt."""
    ids = torch.tensor([prompt.ids])
    config = how(**{**changes, "max_new_tokens": prompt.most}).config
    with torch.inference_mode():
        return tuple(model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0].tolist()[
            len(prompt.ids) :
        ])  # fmt: skip


def answered(model, asked, decoding) -> list[Answer]:
    told = dict(answer(model, asked, decoding))
    assert sorted(told) == list(range(len(asked)))
    return [told[number] for number in range(len(asked))]


@pytest.mark.parametrize("name", MODELS)
def test_every_row_is_answered_as_generate_answers_it_alone(name):
    model, asked = build(name), prompts(20)
    assert can_decode(model, how())
    right = [alone(model, prompt) for prompt in asked]
    assert len({len(one) for one in right}) > 5
    for count, limits in ((20, {"rows": 5}), (20, {"tokens": 300}), (6, {"rows": 1})):
        told = answered(model, asked[:count], how(**limits))
        assert [one.tokens for one in told] == right[:count], limits
        assert [one.stopped for one in told] == [one[-1] in ENDS for one in right[:count]]


@pytest.mark.parametrize("name", OTHERS)
def test_other_caches_are_left_to_generate(name):
    model, asked = build(name, OTHERS), prompts(6, most=8)
    assert not can_decode(model, how())
    right = [alone(model, prompt) for prompt in asked]
    assert [one.tokens for one in answered(model, asked, how(rows=3))] == right


@pytest.mark.parametrize(
    "changes", [{"use_cache": False}, {"num_beams": 2}, {"guidance_scale": 1.5}, {"watermarking_config": {"bias": 2.0}}]
)
def test_other_ways_of_decoding_are_left_to_generate(changes):
    model, asked = build("llama"), prompts(6, most=8)
    assert not can_decode(model, how(**changes))
    right = [alone(model, prompt, **changes) for prompt in asked]
    assert [one.tokens for one in answered(model, asked, how(rows=3, **changes))] == right


CHANGES = [
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 1},
    {"min_length": 45},
    {"min_new_tokens": 12},
    {"suppress_tokens": list(range(100, 300))},
    {"bad_words_ids": [[60], [70, 80]]},
    {"sequence_bias": [[[70], 4.0]]},
    {"forced_eos_token_id": 2},
    {"exponential_decay_length_penalty": (3, 1.5)},
    {"begin_suppress_tokens": list(range(2, 200))},
    {"encoder_repetition_penalty": 1.5},
]
# Without a cache `generate` answers whole batches: each kind of a change is tested so always, the others with the long
# tests: what a row has said, how long it is, how it begins, and what its prompt was.
UNCACHED = ("repetition_penalty", "min_length", "begin_suppress_tokens", "encoder_repetition_penalty")


@functools.cache
def unchanged() -> list[tuple[int, ...]]:
    """The answers of `generate` without a change."""
    model = build("llama")
    return [alone(model, prompt) for prompt in prompts(12, most=24)]


@pytest.mark.parametrize(
    ("changes", "cached"),
    [
        pytest.param(
            changes, cached, id=f"{next(iter(changes))}{'' if cached else ' uncached'}",
            marks=() if cached or next(iter(changes)) in UNCACHED else pytest.mark.long,
        )
        for changes in CHANGES for cached in (True, False)
    ],
)  # fmt: skip
def test_penalties_and_bounds_are_those_of_generate_and_ignore_other_rows(changes, cached):
    model, asked = build("llama"), prompts(12, most=24)
    changes = {**changes, "use_cache": cached}
    right = [alone(model, prompt, **changes) for prompt in asked]
    assert right != unchanged()
    assert [one.tokens for one in answered(model, asked, how(rows=4, **changes))] == right


SAMPLED = {"do_sample": True, "temperature": 1.3, "top_k": 40}


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_draws_depend_on_the_rows_seed_only(name):
    model, asked = build(name), prompts(20, most=12)
    first = answered(model, asked, how(rows=7, **SAMPLED))
    assert first == answered(model, asked, how(rows=1, **SAMPLED))
    assert first[::-1] == answered(model, asked[::-1], how(tokens=400, **SAMPLED))
    whole = answered(model, asked, how(rows=7, use_cache=False, **SAMPLED))
    assert [one.tokens for one in whole] == [one.tokens for one in first]
    other = [Prompt(one.ids, one.most, one.seed + 1000) for one in asked]
    assert sum(a != b for a, b in zip(first, answered(model, other, how(rows=7, **SAMPLED)), strict=True)) > 10


def test_draws_follow_the_models_probabilities():
    model = build("llama")
    asked = [Prompt((70, 80), 1, seed) for seed in range(3000)]
    told = [one.tokens[0] for one in answered(model, asked, how(rows=500, do_sample=True, top_k=5))]
    with torch.inference_mode():
        right = model(torch.tensor([[70, 80]])).logits[0, -1].topk(5)
    probabilities = right.values.softmax(-1).tolist()
    counts = [told.count(token) for token in right.indices.tolist()]
    assert sum(counts) == 3000
    expected = [3000 * p for p in probabilities]
    chi_square = sum((seen - wanted) ** 2 / wanted for seen, wanted in zip(counts, expected, strict=True))
    assert chi_square < 18.5  # exceeded once in 1000 times with 4 degrees of freedom


class Counted:
    """Counts the calls of a model and the tokens that it reads."""

    def __init__(self, model, monkeypatch, fits=10**9):
        self.rows, self.tokens, self.refused, forward = [], 0, 0, model.forward

        def counted(*given, **named):
            ids = named["input_ids"]
            if len(ids) > fits:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory.")
            self.rows.append(len(ids))
            self.tokens += int(named["attention_mask"].sum()) if ids.shape[1] > 1 else 0
            return forward(*given, **named)

        counted.__signature__ = __import__("inspect").signature(forward)
        monkeypatch.setattr(model, "forward", counted)


def test_equal_prompts_are_read_once(monkeypatch):
    model = build("llama")
    prompt = prompts(1, longest=40)[0].ids
    asked = [Prompt(prompt, 10, seed, seed) for seed in range(6)]
    counted = Counted(model, monkeypatch)
    drawn = answered(model, asked, how(rows=6, **SAMPLED))
    assert counted.tokens == len(prompt)
    assert len({one.tokens for one in drawn}) > 3
    counted = Counted(model, monkeypatch)
    assert len({one.tokens for one in answered(model, asked, how(rows=6))}) == 1
    assert set(counted.rows) == {1}  # without drawing they are also answered once


def test_a_row_that_has_ended_leaves_and_the_next_one_takes_its_place(monkeypatch):
    model, asked = build("llama"), prompts(60)
    lengths = [len(one.tokens) for one in answered(model, asked, how(rows=6))]
    counted = Counted(model, monkeypatch)
    list(answer(model, asked, how(rows=6)))
    steps = sum(lengths) - len(lengths)  # the first token of an answer comes from reading the prompt
    read = -(-len(asked) // 6)
    assert len(counted.rows) - read < 1.25 * steps / 6
    batches = [max(lengths[start : start + 6]) for start in range(0, 60, 6)]
    assert len(counted.rows) < sum(batches)  # calls of `generate` in the same batches


@pytest.mark.parametrize("changes", [{}, {"use_cache": False}])
@pytest.mark.parametrize("fits", [5, 2, 1])
def test_with_too_little_memory_half_as_many_rows_go_on(monkeypatch, caplog, changes, fits):
    model, asked = build("llama"), prompts(12, most=6)
    right = answered(model, asked, how(rows=8, **changes))
    decoding = how(rows=8, **changes)
    counted = Counted(model, monkeypatch, fits)
    assert answered(model, asked, decoding) == right
    assert decoding.limits.rows == {5: 4, 2: 2, 1: 1}[fits]
    assert counted.refused == sum("no GPU memory left" in message for message in caplog.messages)
    before = counted.refused
    assert answered(model, asked, decoding) == right  # what did not fit is not tried again
    assert counted.refused == before


@pytest.mark.parametrize("changes", [{}, {"use_cache": False}])
def test_a_row_that_does_not_fit_alone_ends_with_the_error(monkeypatch, changes):
    model, asked = build("llama"), prompts(3)
    Counted(model, monkeypatch, 0)
    with pytest.raises(OutOfResources, match="GEN-E0501") as error:
        list(answer(model, asked, how(rows=2, **changes)))
    assert str(max(len(one.ids) for one in asked)) in str(error.value)


def test_memory_that_runs_out_in_the_middle_of_answers_changes_none(monkeypatch):
    model, asked = build("llama"), prompts(15)
    right = answered(model, asked, how(rows=6, **SAMPLED))
    forward, calls = model.forward, []

    def failing(*given, **named):
        calls.append(1)
        if len(calls) == 9:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*given, **named)

    failing.__signature__ = __import__("inspect").signature(forward)
    monkeypatch.setattr(model, "forward", failing)
    assert answered(model, asked, how(rows=6, **SAMPLED)) == right


def test_logits_that_are_no_numbers_end_with_the_error():
    model = build("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    decoding = how(rows=2)
    decoding.numbers_only = True
    with pytest.raises(NumericError, match="GEN-E0601"):
        list(answer(model, prompts(3), decoding))


def test_long_answers_reuse_the_room_of_rows_that_left(monkeypatch):
    """The cache is as wide as the longest row that runs, not as all steps since the start."""
    model, asked = build("llama"), prompts(40, longest=10, most=30)
    widest = []
    step = RowCache.forget
    monkeypatch.setattr(RowCache, "forget", lambda self, seen: (widest.append(seen), step(self, seen)))
    list(answer(model, asked, how(rows=3)))
    assert max(widest) <= 39
    assert len(widest) > 100


def test_prompts_are_read_under_a_budget_of_tokens(monkeypatch):
    model, asked = build("llama"), prompts(12, longest=30, most=4)
    right = answered(model, asked, how(rows=12))
    monkeypatch.setattr(decode_loop, "TOKENS_READ", 40)
    counted = Counted(model, monkeypatch)
    assert answered(model, asked, how(rows=12)) == right
    assert counted.rows[0] == 1
