"""What an adapter is, whether it fits a base, and how it is folded in: plan, merge, tools and evaluation ask here.

What it is:

    layout.py        its files, and where an imported model keeps what it came with
    folders.py       what may be passed as base and adapter: artifacts, or folders as Hugging Face and PEFT save them
    settings.py      what adapter_config.json says, and which adapters are refused by name
    outlines.py      small files whole, of weights the headers: enough to judge by
    training_hint.py what a training configuration lets expect of an adapter

Whether it fits:

    asked.py         what a new adapter needs of base and method, checked by the plan
    input_adapter.py an adapter that comes with the model, judged on headers by the plan
    planning.py      which tensor of which shard gets which change; prints, and touches no weight
    low_rank.py      which tensors of LoRA belong together, where they fit, and what they change
    kinds.py         the same for IA3, LoHa and LoKr
    new_head.py      a head that the base does not have: headers, configuration and index of the merged model
    tying.py         weights that are one tensor under two names
    fitting.py       every problem at once, from names, shapes and settings
    vllm.py, vllm_rules.py, evening.py   what vLLM can serve of it
    sameness.py      are two stored tensors equal, block by block

Folding it in:

    merging.py       look, plan, merge, prove that the weights changed
    arithmetic.py    the changes themselves, rounded exactly as PEFT rounds them (needs torch, as the next one does)
    arithmetic_of_kinds.py   those of the other kinds
    streaming.py     a shard is its base's bytes with some spans replaced, hashed while it is written
    kept.py          adapters that no weight can hold (prompt tuning): the base as it is, the adapter in a folder inside

The merged shards have the names, the order and the header of the base's, so the index is copied as it is; but for
a head that is new, which comes behind the last one.
"""
