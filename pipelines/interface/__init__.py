"""The Python interface, for notebooks and scripts: `from pipelines import check_data, plan, run, submit`.

    plans.py        plan: what would run
    local_runs.py   run: a run on this machine
    data_checks.py  check_data: every row of data files
    sweeps.py       sweep: many trainings, here or on a cluster
    cluster.py      upload, submit and schedule on Kubeflow Pipelines

    given.py        parameters: a dict, a configuration file, and keywords that override it
    process.py      a job in a process of its own, which job.py is: a kernel keeps its environment, its stdout and its
                    libraries, and several jobs may run at once
    page.py         an HTML page inside of a notebook
    failed.py       errors in the words of Python

Errors are those of the steps (`steps.errors`); IPython shows what they found instead of a stack. docs/python.md has
every function. To add one: a file here, and its name in PUBLIC.
"""

PUBLIC = {
    "check_data": "data_checks",
    "plan": "plans",
    "run": "local_runs",
    "upload": "cluster",
    "submit": "cluster",
    "schedule": "cluster",
    "sweep": "sweeps",
    "RunFailed": "failed",
    "RunStopped": "failed",
}
