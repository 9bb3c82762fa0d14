"""What a node of a training runs: torchrun's agent, which ends with the exit code of the process that failed.

    python -m steps.launch.node -m MODULE ARGUMENT…

Kubeflow Trainer sets its variables (PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT).
torchrun by itself ends with 1 whatever the codes of its processes were: nobody outside could tell a wrong parameter
from a machine that was lost. And it kills its processes 30 seconds after it passed a SIGTERM on, in which no large
checkpoint is saved; Kubernetes ends the pod after its own grace period anyway.

When one process fails, the connections of the others break, and they fail within the same tenth of a second with codes
of their own (134, 1). So a process that fails should leave with `os._exit`, which gives its code before its connections
are closed, and a code with a meaning is preferred.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from steps.child_output import mask_children
from steps.launch.several_processes import Ended, Node, run_processes
from steps.logs import WITHOUT_BARS, log_plainly

CODES = (3, 2, 5, 6, 4, 143)  # of steps/errors.py; 70 is also what a broken connection may end with
SIGNALLED = 128  # and the number of the signal, as shells report it


def main(words: Sequence[str]) -> int:
    """Run the processes of this node and return its exit code."""
    log_plainly()
    for name, value in WITHOUT_BARS.items():
        os.environ.setdefault(name, value)
    parser = argparse.ArgumentParser(prog="python -m steps.launch.node")
    parser.add_argument("-m", dest="module", required=True, metavar="MODULE")
    given, rest = parser.parse_known_args(list(words))
    per_node = int(os.environ.get("PET_NPROC_PER_NODE", 1))
    return code_of(run_processes(given.module, rest, per_node, Node.of_environment()).failed)


def code_of(ended: Sequence[Ended]) -> int:
    """Return the exit code of a node whose processes ended like this."""
    if not ended:
        return 0
    codes = [one.code for one in ended]
    code = next((known for known in CODES if known in codes), codes[0])
    return code if code >= 0 else SIGNALLED - code


if __name__ == "__main__":
    mask_children()
    sys.exit(main(sys.argv[1:]))
