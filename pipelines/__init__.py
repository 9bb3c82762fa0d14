"""Pipeline definitions for Kubeflow Pipelines, the local runner and the command line.

    catalog.py      published pipelines by name
    supervised.py   the task graph of every pipeline that trains
    adapter_tools.py  the task graph of the pipeline for finished adapters
    components.py   each step as a short lightweight component
    signature.py    parameter model → pipeline signature and plan component (uses code generation)
    resources.py    GPU, CPU, memory, /dev/shm, node selectors, secrets of a task
    images.py       the image of each step
    compile.py      → compiled/
    checking.py     finds errors in a compiled YAML that the SDK does not check for
    local.py        runs a pipeline on this machine
    warm.py         a Python process with the training libraries already loaded, for local runs
    cli.py          the `finetune` command

From `steps/` this package uses only the parameters, the error classes and `steps.running`, which runs a step by name.
"""
