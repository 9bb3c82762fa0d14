"""Models that are asked: loading, batching and writing answers. Evaluation uses it; so may whatever else needs answers.

    loading.py            a model on one GPU, several, or none
    tokenizer.py          its tokenizer, padding on the left
    batching.py           which rows are computed together
    generating.py         greedy answers of models that go on from a prompt
    encoder_decoders.py   answers of models with an encoder and a decoder
    soft_prompts.py       models whose adapter is a learned prompt

Every call takes texts or tokens and plain numbers, no settings of a step.
"""
