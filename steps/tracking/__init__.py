"""Send metrics and checkpoints to MLflow; a slow or unavailable server does not delay training or lose records.

target.py       which server and experiment: parameters, then environment variables
tracker.py      one tracked run; the interface for steps
connecting.py   MLflow's client, whose calls to a server come to an end
loading.py      importing MLflow before a thread uses it
database.py     a database of its own, created once
store.py        the run on the server, and the classification of server errors
records.py      the records, and the file of unsent records
checkpoints.py  copies of checkpoints, in the background
unsent.py       the step that sends such a file later
continued.py    the run of a training, continued after a restart; runs of killed trainings
parameters.py   the parameters that a training records
facts.py        what is added after it: effective parameters, verdict, report
registered.py   models in MLflow as a source: models:/…, runs:/…
"""

from steps.tracking.records import UNSENT, flat
from steps.tracking.store import experiment_id
from steps.tracking.target import MEANS_OFF, TrackingTarget, target_of
from steps.tracking.tracker import Tracker

__all__ = ["MEANS_OFF", "UNSENT", "Tracker", "TrackingTarget", "experiment_id", "flat", "target_of"]
