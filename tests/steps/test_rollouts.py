"""Completions that are written in the middle of a training are the model's own, and change nothing in it."""

import random

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, PreTrainedTokenizerFast

from steps.errors import NumericError, OutOfResources
from steps.finetune import rollouts
from steps.finetune.rollouts import write_completions
from steps.generation.tokens import Limits
from steps.params.reward_training import Completions

SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "attention_dropout": 0.3,
}  # fmt: skip
ENDS = [2, 5, 9, 11, 17, 33, 40, 41, 42, 43]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    named = {"<pad>": 0, "<start>": 1, "<end>": 2, "<turn>": 3} | {f"w{number}": number for number in range(4, 300)}
    words = Tokenizer(models.WordLevel(named, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


def build(kind: str = "Llama", **changes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    model.generation_config = GenerationConfig(eos_token_id=ENDS, pad_token_id=0)
    return model.train()


def adapted(model, dropout: float = 0.5):
    torch.manual_seed(1)
    tuned = get_peft_model(model, LoraConfig(r=4, lora_dropout=dropout, init_lora_weights=False))
    return tuned.train()


def mamba():
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, eos_token_id=2)
    return transformers.MambaForCausalLM(config).train()


def some_prompts(count: int, seed: int = 1, longest: int = 40) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(50, 300) for _ in range(chance.randrange(1, longest))] for _ in range(count)]


def grouped(prompts: list[list[int]], each: int = 4) -> list[list[int]]:
    return [prompt for prompt in prompts for _ in range(each)]


def asked(**changes) -> Completions:
    return Completions(**{"max_completion_length": 30, **changes})


def by_generate(model, prompt: list[int], **changes) -> list[int]:
    """What transformers' `generate` continues a prompt with."""
    model.eval()
    ids = torch.tensor([prompt])
    told = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": ENDS, "pad_token_id": 0, **changes}
    with torch.no_grad():
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids),
                                generation_config=GenerationConfig(**told))  # fmt: skip
    model.train()
    return output[0, len(prompt) :].tolist()


MODELS = {
    "llama": build,
    "lora": lambda: adapted(build()),
    "mamba": mamba,
}
HALF = {"bfloat16 base": lambda: adapted(build().to(torch.bfloat16))}


@pytest.mark.parametrize("name", MODELS)
def test_at_a_temperature_near_zero_completions_are_the_greedy_ones_of_generate(name, tokenizer):
    model, prompts = MODELS[name](), some_prompts(6)
    right = [by_generate(model, prompt) for prompt in prompts]
    assert len({len(one) for one in right}) > 1 or name == "mamba"
    told = write_completions(model, tokenizer, grouped(prompts), asked(temperature=1e-4), range(24), ENDS)
    assert [one.tokens for one in told] == grouped(right)
    assert [one.finished for one in told] == [one[-1] in ENDS for one in grouped(right)]


def test_completions_have_the_frequencies_of_the_models_probabilities(tokenizer):
    """Chi-square of 3000 first tokens against top_p of the model's own logits, and of the second given the first."""
    model = build()
    told = write_completions(model, tokenizer, [[70, 80]] * 3000, asked(max_completion_length=2, top_p=0.9),
                             range(3000), [])  # fmt: skip
    model.eval()
    first = [one.tokens[0] for one in told]
    most = max(set(first), key=first.count)
    for prefix, drawn in (
        ([70, 80], first),
        ([70, 80, most], [one.tokens[1] for one in told if one.tokens[0] == most]),
    ):
        with torch.no_grad():
            probabilities = model(torch.tensor([prefix])).logits[0, -1].softmax(-1)
        kept, total = [], 0.0
        for place in probabilities.argsort(descending=True).tolist():
            kept.append(place)
            total += float(probabilities[place])
            if total >= 0.9:
                break
        assert set(drawn) <= set(kept)
        common = [token for token in kept if len(drawn) * float(probabilities[token]) / total >= 5]
        expected = [len(drawn) * float(probabilities[token]) / total for token in common]
        seen = [drawn.count(token) for token in common]
        chi_square = sum((a - b) ** 2 / b for a, b in zip(seen, expected, strict=True))
        assert len(common) > 1
        assert chi_square < len(common) - 1 + 4 * (2 * (len(common) - 1)) ** 0.5  # four standard deviations


@pytest.mark.parametrize("name", ["llama", "lora", "mamba"])
def test_a_completion_follows_from_its_prompt_and_seed_alone(name, tokenizer):
    """With smaller logits than elsewhere: their last bits, which other rows change, then decide no draw."""
    flat = {"llama": lambda: build(initializer_range=0.1), "lora": lambda: adapted(build(initializer_range=0.1))}
    model, prompts = (MODELS | flat)[name](), grouped(some_prompts(6))
    seeds = [1000 + place for place in range(len(prompts))]
    whole = write_completions(model, tokenizer, prompts, asked(), seeds)
    assert len({tuple(one.tokens) for one in whole}) > 20
    assert write_completions(model, tokenizer, prompts, asked(), seeds) == whole
    assert write_completions(model, tokenizer, prompts[::-1], asked(), seeds[::-1]) == whole[::-1]
    halves = [write_completions(model, tokenizer, prompts[part], asked(), seeds[part])
              for part in (slice(0, 11), slice(11, None))]  # fmt: skip
    assert halves[0] + halves[1] == whole
    few = Limits(rows=3)
    assert write_completions(model, tokenizer, prompts, asked(), seeds, limits=few) == whole
    torch.manual_seed(7)  # the process's own random numbers are neither used nor changed
    before = torch.get_rng_state()
    assert write_completions(model, tokenizer, prompts, asked(), seeds) == whole
    assert torch.equal(torch.get_rng_state(), before)
    other = write_completions(model, tokenizer, prompts, asked(), [seed + 100 for seed in seeds])
    assert sum(a != b for a, b in zip(other, whole, strict=True)) > 15


def test_equal_prompts_are_read_once(tokenizer, monkeypatch):
    model, read = build(), []
    forward = model.forward

    def counted(*given, **named):
        read.append(named["input_ids"].shape if named["input_ids"].shape[1] > 1 else (0, 0))
        return forward(*given, **named)

    counted.__signature__ = __import__("inspect").signature(forward)
    monkeypatch.setattr(model, "forward", counted)
    write_completions(model, tokenizer, grouped([[60] * 20, [70] * 20], 8), asked(), range(16))
    assert sum(rows * columns for rows, columns in read) == 40


def state_of(model) -> dict:
    return {
        name: (module.training, vars(module).get("gradient_checkpointing"), vars(module).get("forward"))
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("name", ["llama", "lora", "mamba"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was_found(name, fails, tokenizer, monkeypatch):
    model = MODELS[name]()
    if name != "mamba":
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    next(module for module in model.modules() if isinstance(module, torch.nn.Embedding)).eval()  # a part with its own
    model.config.use_cache = False
    before, weights = state_of(model), {name: one.clone() for name, one in model.state_dict().items()}
    needing = [one.requires_grad for one in model.parameters()]
    settings = model.generation_config.to_dict()
    if fails:
        monkeypatch.setattr(rollouts, "answer", lambda *_: iter([None]))
        with pytest.raises(TypeError):
            write_completions(model, tokenizer, some_prompts(3), asked(), range(3))
    else:
        write_completions(model, tokenizer, some_prompts(3), asked(), range(3))
    assert state_of(model) == before
    assert any(modes[1] for modes in before.values()) == (name != "mamba")
    assert [one.requires_grad for one in model.parameters()] == needing
    assert all(one.grad is None for one in model.parameters())
    assert not model.config.use_cache
    assert model.generation_config.to_dict() == settings
    assert all(torch.equal(one, weights[name]) for name, one in model.state_dict().items())
    model.train()
    model(input_ids=torch.tensor([[60, 70, 80]]), labels=torch.tensor([[60, 70, 80]])).loss.backward()
    assert any(one.grad is not None for one in model.parameters())


def test_dropout_and_checkpointing_are_off_while_writing(tokenizer):
    plain = write_completions(build(), tokenizer, some_prompts(8), asked(), range(8))
    model = adapted(build(), dropout=0.9)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.zero_()  # an adapter that changes nothing but for its dropout
    model.gradient_checkpointing_enable()
    assert write_completions(model, tokenizer, some_prompts(8), asked(), range(8)) == plain


def test_rotary_scales_that_a_model_computes_while_it_writes_can_be_trained_with(tokenizer):
    """Dynamic scaling replaces a buffer of the model in the middle of a long completion."""
    scaling = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = build(max_position_embeddings=32, rope_parameters=scaling)
    write_completions(model, tokenizer, some_prompts(4, longest=12), asked(max_completion_length=60), range(4), [])
    assert not any(one.is_inference() for one in [*model.buffers(), *model.parameters()])
    ids = torch.tensor([[60, 70, 80]])
    model(input_ids=ids, labels=ids).loss.backward()


def test_with_mixed_precision_a_training_still_learns_afterwards(tokenizer):
    """Weights that were converted while writing, without gradients, may not be those that a training step uses."""
    model, ids = build(attention_dropout=0.0), torch.tensor([[60, 70, 80, 90]])
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=ids)  # a training step's own conversions
        write_completions(model, tokenizer, some_prompts(4), asked(), range(4))
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    gradients = [one.grad.clone() for one in model.parameters()]
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=ids, labels=ids).loss.backward()
    assert all(torch.equal(one.grad, right) for one, right in zip(model.parameters(), gradients, strict=True))


@pytest.mark.parametrize("name", ["llama", "lora", "bfloat16 base"])
def test_completions_are_written_in_the_mixed_precision_of_the_caller(name, tokenizer):
    """As `generate` writes under autocast, and as the loss is computed: not in the float32 of the weights."""
    model, prompts = (MODELS | HALF)[name](), some_prompts(16)
    with torch.autocast("cpu", torch.bfloat16):
        right = [by_generate(model, prompt) for prompt in prompts]
        told = write_completions(model, tokenizer, prompts, asked(temperature=1e-4), range(16), ENDS)
        parted = [pair for pair in zip(prompts, told, right, strict=True) if pair[1].tokens != pair[2]]
        assert len(parted) < 12
        assert all(tie(model, prompt, one.tokens, other) for prompt, one, other in parted)
        logits = model.eval()(torch.tensor([prompts[0]])).logits
    if name != "bfloat16 base":
        assert not torch.equal(logits, model(torch.tensor([prompts[0]])).logits)


def tie(model, prompt: list[int], one: list[int], other: list[int]) -> bool:
    """Whether the logits of two texts' tokens are as close as bfloat16 can tell where the texts part."""
    same = next(place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    with torch.no_grad():
        logits = model.eval()(torch.tensor([[*prompt, *one[:same]]])).logits[0, -1].float()
    model.train()
    return abs(float(logits[one[same]] - logits[other[same]])) < float(logits.abs().max()) * 2**-5


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_model_that_accelerate_has_prepared_is_decoded_row_by_row(precision, tokenizer, monkeypatch):
    """It replaces the model's `forward` by one with autocast around it."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=precision, cpu=True)
    prepared = accelerator.unwrap_model(accelerator.prepare_model(build()))
    monkeypatch.setattr("steps.generation.answering.generate_answers", None)
    with accelerator.autocast():
        told = write_completions(prepared, tokenizer, some_prompts(8), asked(), range(8))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        assert write_completions(build(), tokenizer, some_prompts(8), asked(), range(8)) == told
    AcceleratorState._reset_state(reset_partial_state=True)


def test_completions_end_with_the_models_end_tokens_or_those_that_are_named(tokenizer):
    model, prompts = build(), some_prompts(40)
    told = write_completions(model, tokenizer, prompts, asked(), range(40))
    assert {one.tokens[-1] for one in told if one.finished} <= set(ENDS)
    assert len({one.tokens[-1] for one in told if one.finished}) > 2
    assert all(len(one.tokens) == 30 for one in told if not one.finished)
    assert all(token not in ENDS for one in told for token in one.tokens[:-1])
    model.generation_config.eos_token_id = None
    by_tokenizer = write_completions(model, tokenizer, prompts, asked(), range(40))
    assert {one.tokens[-1] for one in by_tokenizer if one.finished} <= {tokenizer.eos_token_id}
    named = write_completions(model, tokenizer, prompts, asked(), range(40), [3])
    assert {one.tokens[-1] for one in named if one.finished} <= {3}
    unending = write_completions(model, tokenizer, prompts, asked(), range(40), [])
    assert [len(one.tokens) for one in unending] == [30] * 40
    assert not any(one.finished for one in unending)


def test_settings_in_the_models_own_file_have_no_effect(tokenizer):
    model, prompts = build(), some_prompts(8)
    right = write_completions(model, tokenizer, prompts, asked(), range(8))
    model.generation_config = GenerationConfig(eos_token_id=ENDS, pad_token_id=0, repetition_penalty=3.0, top_k=2,
                                               temperature=0.1, do_sample=True, min_new_tokens=20)  # fmt: skip
    assert write_completions(model, tokenizer, prompts, asked(), range(8)) == right


@pytest.mark.parametrize("changes", [{"top_k": 3}, {"top_p": 0.3}, {"repetition_penalty": 1.5}, {"temperature": 0.5}])
def test_settings_of_sampling_are_those_of_generate(changes, tokenizer):
    """Draws of the tokens that `generate` allows only, at the frequencies of its own draws."""
    model = build()
    once = asked(max_completion_length=1, **changes)
    ours = [one.tokens[0] for one in write_completions(model, tokenizer, [[70, 80, 70]] * 1000, once, range(1000), [])]
    model.eval()
    torch.manual_seed(0)
    ids = torch.tensor([[70, 80, 70]] * 1000)
    config = GenerationConfig(**{"max_new_tokens": 1, "do_sample": True, "top_k": 0, "pad_token_id": 0, **changes})
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[:, -1].tolist()
    for token in set(ours) | set(theirs):
        a, b = ours.count(token), theirs.count(token)
        assert abs(a - b) < 4.5 * (a + b + 1) ** 0.5, token


def test_a_completion_stays_within_the_models_positions(tokenizer):
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    )
    told = write_completions(model, tokenizer, [[60] * 20, [60] * 4], asked(max_completion_length=28), range(2), [])
    assert [len(one.tokens) for one in told] == [12, 28]


def test_memory_that_runs_out_halves_the_rows_and_is_remembered(tokenizer, monkeypatch):
    model, prompts = build(), some_prompts(12)
    right = write_completions(model, tokenizer, prompts, asked(), range(12))
    forward, refused = model.forward, []

    def crowded(*given, **named):
        if len(named["input_ids"]) > fits:
            refused.append(len(named["input_ids"]))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*given, **named)

    crowded.__signature__ = __import__("inspect").signature(forward)
    monkeypatch.setattr(model, "forward", crowded)
    fits, limits = 4, Limits()
    assert write_completions(model, tokenizer, prompts, asked(), range(12), limits=limits) == right
    assert refused == [12, 6]
    assert write_completions(model, tokenizer, prompts, asked(), range(12), limits=limits) == right
    assert refused == [12, 6]
    fits = 0
    with pytest.raises(OutOfResources, match=r"TRAIN-E0504 max_completion_length.*lower max_completion_length"):
        write_completions(model, tokenizer, prompts, asked(), range(12))
    assert model.training


def test_weights_that_are_no_numbers_end_with_the_error(tokenizer):
    model = build()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NumericError, match=r"TRAIN-E0603.*lower learning_rate"):
        write_completions(model, tokenizer, some_prompts(3), asked(), range(3))
    assert model.training
