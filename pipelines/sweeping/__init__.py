"""Sweeps: many trainings of one pipeline that differ in some parameters.

    file.py       sweep.yaml
    described.py  a whole sweep, as the user described it
    space.py      which values each parameter takes, checked by the pipeline's own parameters
    dimension.py  the values of one parameter: a list, or a range of numbers
    search.py     the parameters of the next trial: a grid, a list, or one of Optuna's samplers

On this machine:

    checked.py    the plan of all trials that are known before the first one starts
    folder.py     the folder of a sweep
    driver.py     plan, shared work, trials, the best one; run.py: the same as a process of its own
    processes.py  steps as processes
    handle.py     a sweep as an object; told.py, table.py and progress.py show it; command.py: `finetune sweep`

On a cluster, where the compiled sweep (`pipelines/swept.py`) runs:

    cluster.py    a sweep as an object, and its start; cluster_command.py: `finetune sweep --endpoint`
    submission.py  its runs: what is sent, and how they are found
    cluster_facts.py  what KFP and MLflow know of it

To offer another of Optuna's samplers, add its name to SAMPLERS (`described.py`) and make it in `search.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.interface.sweeps import sweep as sweep
    from pipelines.sweeping.handle import Sweep as Sweep

PUBLIC = {"sweep": "pipelines.interface.sweeps", "Sweep": "pipelines.sweeping.handle"}


def __getattr__(name: str) -> Any:
    """Import what a notebook needs when it is first used."""
    import importlib

    if name not in PUBLIC:
        raise AttributeError(f"module 'pipelines.sweeping' has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)
