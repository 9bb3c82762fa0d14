"""Trying a step again after a short outage, in a task of KFP.

KFP sees only that a task failed, so that its retries would repeat a user's mistake as well. On a laptop nobody is made
to wait: the error says to run again.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from steps.errors import StepError
from steps.faults import known, same_again
from steps.logs import in_kfp_task
from steps.messages import shortened
from steps.outcome import TERMINATION_LOG

T = TypeVar("T")

KFP_POD = "KFP_POD_NAME"  # set by KFP's backend in the pod of every task (2.0 to 2.17)
WAITS = (30, 60)  # seconds before the second and the third try; the clients' own tries were before each
LONGEST = 600  # seconds that a try may have lasted if the next one begins from the start

log = logging.getLogger("finetune")


def outlasting(step: str, attempt: Callable[[], T], resumes: bool = False, look: Callable[[], None] | None = None) -> T:
    """Run `attempt`, on a cluster up to three times while it fails for an outage that may pass.

    A try that lasted longer than ten minutes is not repeated, unless the step `resumes` where it stopped. `look` is
    called before each wait, and may raise. Raises what the last try raised.
    """
    if not on_cluster():
        return attempt()
    for number, seconds in enumerate(WAITS, 2):
        started = time.monotonic()
        try:
            return attempt()
        except Exception as error:
            told = _passing(error, step)
            if not told or (time.monotonic() - started > LONGEST and not resumes):
                raise
        log.info("not available, trying again in %s s (%d of %d): %s", seconds, number, len(WAITS) + 1, told)
        _free_memory()
        if look:
            look()
        time.sleep(seconds)
    return attempt()


def _passing(error: Exception, step: str) -> str:
    """Return the first problem of an outage that may pass; "" for another error.

    It is a text, because an exception holds the variables of the functions that it passed through, such as a model.
    """
    found = error if isinstance(error, StepError) else known(error, step)
    if found is None or not found.transient or same_again(error):
        return ""
    return shortened(" ".join(str(found.problems[0]).split()), 300)


def on_cluster() -> bool:
    """Return whether this is a task of KFP in a pod, and not one of kfp's local runners."""
    return in_kfp_task() and (KFP_POD in os.environ or TERMINATION_LOG.exists())


def _free_memory() -> None:
    """Free the model of a try that failed, also on the GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
