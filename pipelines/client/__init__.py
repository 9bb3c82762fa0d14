"""The client of a Kubeflow Pipelines installation: `finetune upload`, `submit`, `schedule` and `runs`, and from Python:

    from pipelines.client import connect, submit
    run = submit("chat_completion", {"learning_rate": 1e-4, "train_file_path": "s3://data/train.jsonl"}, wait=True)

    connection.py   where the installation is and how one logs in; guarded.py: kfp's client, with clear errors
    packages.py     a pipeline compiled for the installation, and its inputs
    uploading.py    upload: a pipeline, or a new version of one
    values.py       a value of the right type for every input of a compiled pipeline
    planning.py     the plan on this machine, before a run is submitted
    submitting.py   submit: one run, and the same as a command of kfp
    following.py    the tasks of a run until it ends; pods.py: what Kubernetes says of them
    failures.py     why a run failed, with the exit code of its step
    scheduling.py   schedule: runs at fixed times
    recent.py       recent runs
    display.py      how the results are shown in a terminal and in a notebook
    commands.py     the commands

Nothing here is imported before it is used: kfp takes a second to load.
"""

import importlib
from typing import Any

PUBLIC = {
    "Connection": "connection",
    "connect": "connection",
    "upload": "uploading",
    "submit": "submitting",
    "follow": "following",
    "schedule": "scheduling",
    "schedules": "scheduling",
    "pause": "scheduling",
    "resume": "scheduling",
    "delete": "scheduling",
    "recent_runs": "recent",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"pipelines.client.{PUBLIC[name]}"), name)
