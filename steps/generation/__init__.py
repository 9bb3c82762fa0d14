"""Inference: one way to write answers, every engine behind it.

    requests.py             what an engine is asked and answers
    engines.py              engines by name, and how to add one
    decoding_rules.py       what the parameters of decoding must satisfy; needs no torch
    engine_rules.py         what each engine cannot do, refused by name; needs no torch
    asked.py                what texts among the parameters ask for: end tokens, the form of answers
    conversations.py        prompts and references as the chat template writes them

Loading:
    loading.py              load a model on the CPU, one GPU or several
    tokenizer.py            load its tokenizer with left padding
    soft_prompts.py         adapters beside the weights, such as a learned prompt

Transformers, as the engine `accelerate` and for evaluation:
    transformers_engine.py  the engine
    prompting.py            requests to tokens, truncated
    configuring.py          parameters of decoding to transformers' GenerationConfig
    tokens.py               prompts and answers as tokens, and how they are decoded
    answering.py            answers to prompts, by one of the two ways below
    decode_loop.py          row by row: a row that has ended leaves, the next one takes its place
    row_cache.py            its keys and values
    whole_batches.py        `generate` in sorted batches: encoder-decoders, beams, other caches
    choosing.py             the next token of every row; draws by the row's seed
    stopping.py             stop strings
    memory.py               a GPU's memory that runs out
    batching.py             group rows into batches
    decoding.py             generated tokens to texts
    generating.py           greedy answers of causal models, for evaluation
    encoder_decoders.py     answers of encoder-decoder models, for evaluation

Other engines:
    vllm_engine.py          vLLM
    endpoint_engine.py      a server with OpenAI's protocol; endpoint_messages.py: its messages; endpoint_waiting.py:
                            when a request is sent again
    deepspeed_engine.py     DeepSpeed's kernels; zero_engine.py: ZeRO-3, a layer at a time
    deepspeed_group.py, rank_group.py   processes that hold one model together
"""
