"""The order of the steps. Depends on Kubeflow Pipelines and, of `steps/`, on the parameters only.

    catalog.py      published pipelines by name
    supervised.py   the task graph of every supervised pipeline
    adapter_tools.py  the task graph for a trained adapter: merge, convert, rename tokens, check
    components.py   each step as a short lightweight component
    signature.py    parameter model → pipeline signature and plan component (generates code)
    resources.py    GPU, CPU, memory, /dev/shm, node selectors, secrets on a task
    images.py       the image of each step
    compile.py      writes compiled/
    checking.py     finds errors in a compiled YAML that the SDK does not check
    local.py        runs a pipeline on this machine
    warm.py         a Python server that preloads the training libraries, for local runs
    cli.py          the `finetune` command

Besides the parameters, only `steps.running` is imported from `steps/`; it runs a step by name.
"""
