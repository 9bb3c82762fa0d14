"""What is done with a finished adapter: check it, make it ready for vLLM, rename tokens, merge it.

    checking.py        does an adapter fit a base: every problem at once
    vllm_ready.py      leave out what vLLM does not load, where it is a copy of the base
    tokens.py          rename tokens of a tokenizer, ids unchanged
    importing.py       bring an adapter into a run
    tool.py            the step of the pipeline: one of the above, or the merge

What an adapter is, and every judgement about it, stands in `steps/adapters/`, where the plan and the merge ask too.

To add a tool: a file with its function, a row in `STEPS` and in `TOOLS` (`tool.py`), a choice of `action`
(`steps/params/adapter_tools.py`), its checks in `steps/plan/adapter_tools.py`, and a test.
"""
