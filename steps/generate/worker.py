"""What one process of several does: answer its rows, and tell its counts and its error."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from steps.errors import Preempted
from steps.generate.answering import Share, answer, opened
from steps.generate.processes import read_job
from steps.generate.progress import Telling, counts_file
from steps.launch.told import tell_error
from steps.logs import log, log_plainly
from steps.outcome import failure
from steps.outlets import open_outlets
from steps.running import follow_parent
from steps.stopping import stop_when_asked

# What torchrun tells its processes to meet: these do not, and a library would wait for the others.
MEETING = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
           "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT")  # fmt: skip


def work(job: Path) -> None:
    """Answer the rows of this process; exits with the code of its error, which is written beside the job first."""
    folder = job.parent
    share = Share(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    for name in MEETING:
        os.environ.pop(name, None)
    code = 0
    try:
        open_outlets()
        log_plainly()
        if share.rank:
            log.setLevel(logging.WARNING)
        stop_when_asked()
        follow_parent()
        inputs, journal = read_job(job)
        counter = Telling(counts_file(folder, share.rank))
        with opened(inputs, journal, share.rank) as engine:
            counter.tell()  # the clock of the run begins
            answer(inputs, engine, journal, counter, share)
        counter.tell()
    except KeyboardInterrupt:
        code = Preempted.exit_code
    except Exception as error:
        told = failure(error, "generate")
        tell_error(folder, share.rank, told)
        code = told.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of an engine that failed may wait for each other
