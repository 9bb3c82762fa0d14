"""Pipeline definitions for Kubeflow Pipelines, the local runner and the command line.

    catalog.py      published pipelines by name
    supervised.py   the task graph of every pipeline that trains
    adapter_tools.py  the task graph of the pipeline for finished adapters
    batch_inference.py  the task graph of the pipeline that answers prompts
    components.py   each step as a component: inputs, outputs, and a body that calls the step
    in_pod.py       what a task's pod runs: loads the body of its component from the image
    kfp_values.py   a parameter as an input of a pipeline: KFP type, default, choices
    plan_function.py  the body of a pipeline's plan component
    signature.py    parameter model → pipeline signature and the UI's choices
    resources.py    GPU, CPU, memory, /dev/shm, node selectors, secrets of a task
    images.py       the image of each step
    compile.py      → compiled/
    placeholders.py  refuses texts that kfp would expand
    form.py         which parameters are inputs of a compiled pipeline, and the values of the others
    profile.py      the cluster profile: what a cluster is like; profile_file.py reads and prints it, profiled.py puts
                    it into a compiled pipeline
    checking.py     finds errors in a compiled YAML that the SDK does not check for

From Python, in notebooks and scripts (`from pipelines import check_data, plan, run, submit`; docs/python.md):

    interface/      plan, run, check_data, sweep, upload, submit, schedule, and what they return

A run on this machine:

    runs.py         a plan; a run's folder, result and summary
    live.py         the lines of a run on a terminal, or in a notebook
    local.py        runs a pipeline with kfp's local runner
    warm.py         a Python process with the training libraries already loaded
    log_file.py     the lines of log.txt
    scratch.py      the folder for temporary files
    active.py       locks that tell which runs are active
    pruning.py      removes old runs

On a cluster:

    client/         upload, submit, schedule and follow runs on Kubeflow Pipelines

Many trainings that differ in some parameters:

    sweeping/       what a sweep searches, and the sweeps that run or have run
    swept.py        the task graph of a compiled sweep

The command line:

    command.py      the `finetune` command as it is installed
    cli.py          its commands; prune_command.py: `finetune prune`
    flags.py        the flags of a pipeline; completion.py completes them in a shell
    configuration.py  configuration files; experiment_yaml.py: experiments in sections, by experiment_keys.py
    outputs.py      checks the places where results go
    reference.py    docs/parameters.md; experiment_page.py: docs/experiments.md

From `steps/` this package uses only the parameters, the error classes and `steps.running`, which runs a step by name,
and what a program does before it loads anything: `steps.stopping` and `steps.outlets`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.interface.cluster import schedule as schedule
    from pipelines.interface.cluster import submit as submit
    from pipelines.interface.cluster import upload as upload
    from pipelines.interface.data_checks import check_data as check_data
    from pipelines.interface.failed import RunFailed as RunFailed
    from pipelines.interface.failed import RunStopped as RunStopped
    from pipelines.interface.local_runs import run as run
    from pipelines.interface.plans import plan as plan
    from pipelines.interface.sweeps import sweep as sweep


def __getattr__(name: str) -> Any:
    """Import a function of the Python interface when it is first used, so that `import pipelines` loads nothing."""
    import importlib

    from pipelines.interface import PUBLIC

    if name not in PUBLIC:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pipelines.interface.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    from pipelines.interface import PUBLIC

    return [*globals(), *PUBLIC]
