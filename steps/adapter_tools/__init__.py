"""What is done with a finished adapter: check it, make it ready for vLLM, rename tokens; merging has its own room.

    checking.py        does an adapter fit a base: every problem at once
    fitting.py         the judgement behind it, from names, shapes and settings; the plan uses it too
    vllm_ready.py      leave out what vLLM does not load, where it is a copy of the base
    vllm_rules.py      which adapters vLLM can serve
    evening.py         one rank and one scale for all modules
    sameness.py        are two stored tensors equal, block by block, without torch
    training_hint.py   what a training configuration lets expect of an adapter
    tokens.py          rename tokens of a tokenizer, ids unchanged
    token_files.py     the edits of each of its files
    token_proof.py     the renamed tokenizer, loaded and compared with the old one
    importing.py       bring an adapter into a run
    tool.py            the step of the pipeline: one of the above, or the merge

This room stands on `steps/merge_adapter`: what an adapter is (`folders.py`), what its settings mean (`settings.py`) and
where its tensors belong (`planning.py`) is asked there, so that every tool judges as the merge does.

To add a tool: a file with its function, a row in `STEPS` and in `TOOLS` (`tool.py`), a choice of `action`
(`steps/params/adapter_tools.py`), its checks in `steps/plan/adapter_tools.py`, and a test.
"""
