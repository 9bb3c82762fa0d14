"""Tools for a trained adapter: check it, prepare it for vLLM, rename tokens, merge it.

    checking.py        check whether an adapter fits a base; reports all problems
    vllm_ready.py      remove tensors that vLLM does not load, if they are copies of the base's
    tokens.py          rename tokens of a tokenizer; ids are unchanged
    importing.py       import an adapter into a run
    tool.py            the step of the pipeline: one of the above, or the merge

Reading and checking of adapters is in `steps/adapters/`, which the plan and the merge use too.

To add a tool: a file with its function, a row in `STEPS` and in `TOOLS` (`tool.py`), a choice of `action`
(`steps/params/adapter_tools.py`), its checks in `steps/plan/adapter_tools.py`, and a test.
"""
