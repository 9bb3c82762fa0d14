"""Inference: load models, form batches and generate answers; used by evaluation, and independent of it.

    loading.py            load a model on the CPU, one GPU or several
    tokenizer.py          load its tokenizer with left padding
    batching.py           group rows into batches
    decoding.py           generated tokens to texts
    generating.py         greedy decoding with causal models
    encoder_decoders.py   decoding with encoder-decoder models
    soft_prompts.py       models with a learned prompt

The functions take texts or tokens and plain numbers, not the settings of a step.
"""
