"""An adapter is folded into its base model, one tensor at a time; no model is ever in memory.

    step.py        merge_adapter: look, plan, merge, prove that the weights changed
    folders.py     what may be passed as base and adapter: artifacts, or folders as Hugging Face and PEFT save them
    settings.py    what adapter_config.json says, and which adapters are refused by name
    planning.py    which tensor of which shard gets which change; prints, and touches no weight
    kinds.py       the same for IA3, LoHa and LoKr
    new_head.py    a head that the base does not have: headers, configuration and index of the merged model
    kept.py          adapters that no weight can hold (prompt tuning): the base as it is, the adapter in a folder inside
    device_map.py  reads where others would place the model; nothing is placed here
    arithmetic.py  the changes themselves, rounded exactly as PEFT rounds them (needs torch, as the next one does)
    arithmetic_of_kinds.py  those of the other kinds
    streaming.py   a shard is its base's bytes with some spans replaced, hashed while it is written

Outside: `steps/weights.py` (where each tensor lies inside a safetensors file), `steps/hashed_file.py`.

The merged shards have the names, the order and the header of the base's, so the index is copied as it is; but for
a head that is new, which comes behind the last one.

To merge one more kind of adapter: a row in UNDERSTOOD_BY_KIND (settings.py), what its tensors are called and where they
fit in kinds.py, its formula in arithmetic_of_kinds.py, and cases in tests/steps/test_merge_kinds.py, which compares
with PEFT bit by bit.
"""
