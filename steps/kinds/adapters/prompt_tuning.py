"""Prompt tuning: learned vectors before every text; no weight is changed."""

from steps.kinds.adapter_kind import AdapterKind, Values

_NOT_TESTED = "prompt tuning of a quantised base model is not tested"

KIND = AdapterKind(
    name="prompt_tuning",
    peft_name="PROMPT_TUNING",
    renamed={},
    described=lambda p: f"a prompt of {p.num_virtual_tokens} vectors",
    kwargs={"prompt_tuning_init": Values("RANDOM or SAMPLE_VOCAB", ("RANDOM", "SAMPLE_VOCAB").__contains__)},
    never_with={
        "packing": "the learned vectors precede only the first row of a packed sequence",
        "apply_deepspeed": "the learned vectors have too few optimizer states to offload",
        "load_in_4bit": _NOT_TESTED,
        "load_in_8bit": _NOT_TESTED,
    },
    layers=frozenset(),
    heads=("causal_lm",),
    why_heads="prompt tuning supports only supervised training of causal language models",
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
    kept_because="learned vectors before the text, which cannot be merged into weights",
    merging="store the learned prompt beside the base model",
    served_by_vllm=False,
)
