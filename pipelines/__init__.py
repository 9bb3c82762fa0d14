"""What runs in which order; knows Kubeflow Pipelines and, of the work itself, only the parameters.

    catalog.py      published pipelines by name
    supervised.py   the flow of every supervised pipeline
    adapter_tools.py  what is done with a finished adapter
    components.py   each step as a short lightweight component
    signature.py    parameter model → pipeline signature and plan component (the only clever file)
    resources.py    GPU, CPU, memory, /dev/shm, node selectors, secrets on a task
    images.py       which image a step runs in
    compile.py      → compiled/
    checking.py     finds in a compiled YAML what the SDK does not look for
    local.py        a pipeline on this machine
    warm.py         a Python that has loaded the training libraries already, for local runs
    cli.py          the `finetune` command

The one door into `steps/` besides the parameters is `steps.running`, which runs a step by name.
"""
