"""One node of a training with verl on several: `python -m steps.finetune.verl_node training.json`, in a TrainJob.

Node 0 starts Ray's head, waits for the others and runs verl, which uses the GPUs of all through Ray. The others join
Ray and wait. All end when the training ends, with its exit code; when one is asked to stop, or has gone, all end. verl
saves nothing then: nodes that are started again go on at the newest whole checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from steps.child_output import mask_children
from steps.errors import Outage, StepError
from steps.finetune.by_verl import OnNodes, resume_of, train_with_verl
from steps.finetune.nodes import SECRET
from steps.finetune.processes import stopped_at_start
from steps.finetune.training import Training, abandoned
from steps.launch.devices import refuse_missing_gpus
from steps.launch.lease import EVERY, Lease
from steps.launch.meeting import SEEN_WITHIN, Meeting, Member, wait_seconds
from steps.launch.ray_node import Ray, variables
from steps.launch.several_processes import Node
from steps.launch.told import error_file, tell_error
from steps.logs import WITHOUT_BARS, log_plainly
from steps.outcome import failure
from steps.params.registration import MEANS_OFF
from steps.stopping import Stopped, is_seen, refuse_after_stop, stop_when_asked, was_asked_to_stop
from steps.verl.process import GRACE

log = logging.getLogger("finetune")

BEGUN = "begun"  # file beside the job: the checkpoint to go on from was chosen once
LOOK_SECONDS = 0.5
FOLLOWING = (Outage.exit_code, StepError.exit_code)  # of errors that may follow from the loss of a node
ENDING = GRACE + 30  # seconds in which node 0 ends verl


def main(job: Path, node: Node) -> int:
    """Take part in a training and return the exit code; an error is written beside the job first."""
    log_plainly()
    for name, value in WITHOUT_BARS.items():
        os.environ.setdefault(name, value)
    error_file(job.parent, node.rank).unlink(missing_ok=True)  # of nodes that were started before these
    secret = (job.parent / SECRET).read_text(encoding="utf-8")
    training = Training.from_text(job.read_text(encoding="utf-8"))
    assert training.settings.verl is not None
    ray = Ray(node, training.settings.verl.trainer_n_gpus_per_node, secret)
    stop_when_asked()
    if node.rank == 0:
        return _lead(training, job.parent, node, ray, secret)
    return _follow(training, job.parent, node, ray, secret)


def _lead(training: Training, place: Path, node: Node, ray: Ray, secret: str) -> int:
    """Train with verl on all nodes; return the exit code after the others know it."""
    meeting = Meeting(node, secret, on_stop=_stop_this_node)
    code = 0
    try:
        with training.folder.lock_of_processes():
            _train(training, place, node, ray, meeting, secret)
    except Stopped:
        is_seen()
        code = _tell(place, node, stopped_at_start())
    except Exception as error:
        code = _tell(place, node, failure(error, "finetune"))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends anyway
        meeting.end(code)
        ray.stop()
    return code


def _train(training: Training, place: Path, node: Node, ray: Ray, meeting: Meeting, secret: str) -> None:
    settings = training.settings
    watch = _watching(training, ray, meeting)
    refuse_missing_gpus(settings.gpus)
    ray.start(watch)
    log.info("Ray's head runs: waiting for %d other nodes", node.count - 1)
    meeting.open()  # now, because they join Ray as soon as they are here
    meeting.wait_for_all(wait_seconds(), watch)
    log.info("all %d nodes are there", node.count)
    begun = place / BEGUN
    on_nodes = OnNodes(variables(node, secret), watch, begun.touch)
    resume = "auto" if begun.exists() else resume_of(settings, training.continues)
    try:
        train_with_verl(settings, training.inputs, training.model, training.data, training.tuned, training.merged,
                        training.folder, resume, on_nodes)  # fmt: skip
    except StepError as error:
        if error.exit_code in FOLLOWING:
            meeting.look_closely()
        raise


def _watching(training: Training, ray: Ray, meeting: Meeting) -> Callable[[], None]:
    """Return what raises when a node, Ray or the task that follows the training has gone."""
    lease, looked = Lease(training.alive), time.monotonic()

    def watch() -> None:
        nonlocal looked
        meeting.look()
        ray.look()
        if time.monotonic() - looked > EVERY:
            looked = time.monotonic()
            if lease.is_stale():
                raise abandoned()

    return watch


def _follow(training: Training, place: Path, node: Node, ray: Ray, secret: str) -> int:
    """Lend this node's GPUs to the training until it ends; return its exit code."""
    os.environ[MEANS_OFF] = "true"  # node 0 tracks
    member = Member(node, secret)
    try:
        member.connect(wait_seconds())
        refuse_missing_gpus(training.settings.gpus)
        ray.start(lambda: _leave_if_over(member))
        member.joined()
        while True:
            _leave_if_over(member, LOOK_SECONDS)
            refuse_after_stop()
            ray.look()
    except _Over as over:
        return over.code
    except Stopped:
        is_seen()
        member.stop()
        _wait_for_end(member)
        return _tell(place, node, stopped_at_start())
    except Exception as error:
        found = failure(error, "finetune")
        member.failed(found)
        return _tell(place, node, _cause(member, found))
    finally:
        ray.stop()


def _cause(member: Member, found: StepError) -> StepError:
    """Return the loss of node 0 in place of an error that may follow from it, such as the end of Ray on this node."""
    if member.is_connected and found.exit_code in FOLLOWING:
        try:
            member.ended(SEEN_WITHIN)  # node 0 answers at once if it is there
        except Outage as gone:
            return gone
    return found


class _Over(Exception):
    """The training has ended, with this exit code."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


def _leave_if_over(member: Member, seconds: float = 0.0) -> None:
    """Raise _Over if the training ends within `seconds`, and Outage if node 0 has gone."""
    if (code := member.ended(seconds)) is not None:
        raise _Over(code)


def _wait_for_end(member: Member) -> None:
    """Let node 0 end verl before its processes here are killed."""
    try:
        member.ended(ENDING)
    except Outage:
        log.info("node 0 has gone as well")


def _stop_this_node() -> None:
    """Do what a request to stop this node does: another one was asked."""
    if not was_asked_to_stop():
        os.kill(os.getpid(), signal.SIGTERM)


def _tell(place: Path, node: Node, error: StepError) -> int:
    for note in getattr(error, "__notes__", []):
        log.info("%s", note)
    log.info("%s", error)
    tell_error(place, node.rank, error)
    return error.exit_code


if __name__ == "__main__":
    mask_children()
    sys.exit(main(Path(sys.argv[1]), Node.of_environment()))
