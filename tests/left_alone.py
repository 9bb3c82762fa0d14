"""A process of a training that waits LEASE_SECONDS for a sign of life."""

import os
import sys
from pathlib import Path

from steps.finetune import training, watching
from steps.finetune.worker import work
from steps.launch.lease import Lease

if __name__ == "__main__":
    seconds = float(os.environ["LEASE_SECONDS"])
    watching.EVERY = seconds / 4
    training.Lease = lambda place: Lease(place, stale_after=seconds)
    work(Path(sys.argv[1]))
