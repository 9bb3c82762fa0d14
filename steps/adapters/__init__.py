"""Read adapters, check them against a base and merge them; used by plan, merge, tools and evaluation.

Reading:

    layout.py        the files of an adapter, and the folders that an imported model keeps for adapter and reference
    folders.py       base and adapter as input: artifacts, or folders as Hugging Face and PEFT save them
    settings.py      adapter_config.json, and which settings are unsupported
    outlines.py      copies of small files and weight headers, enough for the checks
    training_hint.py which weights a training configuration trains whole

Checking:

    asked.py         requirements of a new adapter on base and method, checked by the plan
    targets.py       whether the layers that an adapter names exist in the model
    input_adapter.py an adapter given with the model, checked on headers by the plan
    planning.py      the change of each tensor in each shard; printable, reads no weights
    low_rank.py      LoRA: which tensors belong together, where they fit, and what they change
    kinds.py         the same for IA3, LoHa and LoKr
    new_head.py      a head that the base does not have: headers, configuration and index of the merged model
    tying.py         tied embeddings
    fitting.py       all problems of an adapter with a base, from names, shapes and settings
    vllm.py, vllm_rules.py, evening.py   what vLLM can serve
    sameness.py      whether two stored tensors are equal, block by block

Merging:

    merging.py       read, plan, merge, check that the weights changed
    arithmetic.py    the arithmetic of LoRA and DoRA, rounded exactly as PEFT does (needs torch, as the next one does)
    arithmetic_of_kinds.py   the arithmetic of the other kinds
    streaming.py     writes a shard: the base's bytes with the changed tensors replaced, hashed while writing
    kept.py          adapters that cannot be merged (prompt tuning): the base unchanged, with the adapter in a subfolder

The merged shards have the names, the tensor order and the headers of the base's shards, so the index is copied
unchanged. Exception: a new head, whose tensors are appended to the last shard.
"""
