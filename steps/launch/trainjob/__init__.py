"""A training on several nodes: a TrainJob of Kubeflow Trainer (2.2 or newer), made and followed from a task of KFP.

    from steps.launch.trainjob import run_on_nodes
    command = ["python", "-m", "steps.launch.node", "-m", "module", "file"]
    run_on_nodes(command, nodes, processes, identity, manifest, alive, told, before_start)

The Trainer sets torchrun's PET_ variables, so the command names no rendezvous. Its end is the TrainJob's condition
Complete or Failed and nothing else: neither a log nor the exit code of one node tells how a group ended.

    run.py        run_on_nodes: the whole story
    own_pod.py    what the nodes take from the pod of the task: image, variables, volumes, accounts, labels
    manifest.py   the TrainJob, and its name
    api.py        the Kubernetes API: what is tried again, and how long; what a refusal means
    creating.py   create the job, or take the one that an earlier try of this task made
    following.py  wait for its end; tell progress, queue and what pods wait for
    logs.py       the log of the first node, followed; the last lines of the others
    failing.py    which error a job that failed reports, and what is told with it

A job ends with its task by five means: the owner reference (the run is deleted), the lease (`steps/launch/lease.py`:
nobody follows any more), its deadline, `finetune reap`, and a request to stop (best effort: KFP gives no time for it).
"""

from steps.launch.trainjob.run import Times, run_on_nodes

__all__ = ["Times", "run_on_nodes"]
