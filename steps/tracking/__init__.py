"""Metrics and checkpoints to MLflow: a server that is slow or down never holds a training up, and misses nothing.

target.py       where to: parameters before the environment
tracker.py      one tracked run; what a step calls
store.py        the run on the server, and what a server's answers mean
records.py      what is sent, and the file of what could not be
checkpoints.py  copies of checkpoints, in the background
unsent.py       the step that sends such a file later
"""

from steps.tracking.records import UNSENT, flat
from steps.tracking.store import experiment_id
from steps.tracking.target import MEANS_OFF, TrackingTarget, target_of
from steps.tracking.tracker import Tracker

__all__ = ["MEANS_OFF", "UNSENT", "Tracker", "TrackingTarget", "experiment_id", "flat", "target_of"]
