"""Prompt tuning: learned vectors before every text; weights are unchanged."""

from steps.kinds.adapter_kind import AdapterKind, Values

_NEVER_TRIED = "prompt tuning was never tested with a quantised base"

KIND = AdapterKind(
    name="prompt_tuning",
    peft_name="PROMPT_TUNING",
    renamed={},
    described=lambda p: f"a prompt of {p.num_virtual_tokens} vectors",
    kwargs={"prompt_tuning_init": Values("RANDOM or SAMPLE_VOCAB", ("RANDOM", "SAMPLE_VOCAB").__contains__)},
    never_with={
        "packing": "a packed sequence has the learned vectors before its first row only",
        "apply_deepspeed": "the optimizer states of a few vectors are too small to be worth moving",
        "load_in_4bit": _NEVER_TRIED,
        "load_in_8bit": _NEVER_TRIED,
    },
    layers=frozenset(),
    heads=("causal_lm",),
    why_heads="prompt tuning trains only causal language models, on right answers",
    trains_new_rows=False,
    config="peft:PromptTuningConfig",
    settings_by="steps.finetune.adapters:before_text",
    positions=lambda p: p.num_virtual_tokens,
    size=lambda p, hidden, matrices, layers: p.num_virtual_tokens * hidden,
    understood=frozenset(),
    harmless={},
    tensors_begin="prompt_embeddings",
    tensors="prompt_embeddings",
    folded_by="",
    kept_because="vectors before the text, which cannot be merged into weights",
    merging="store the learned prompt beside the base",
    served_by_vllm=False,
)
