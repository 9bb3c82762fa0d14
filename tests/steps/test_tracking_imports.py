"""Two threads never import heavy packages at the same time: the thread of the tracker finds all of them imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import with_our_code
from tracking_server import TrackingServer

# What the training imports in the main thread meanwhile; two threads that import these can meet half of a package.
SHARED = {"numpy", "pandas", "scipy", "sklearn", "pyarrow", "torch", "transformers", "datasets", "pydantic", "requests"}
SCRIPT = """
import json, sys, threading, time
from pathlib import Path
from steps.params.registration import TrackingParams
from steps.tracking import Tracker
folder = Path(sys.argv[2])
(folder / "checkpoint-1").mkdir()
(folder / "checkpoint-1" / "file").write_text("x")
named, real = [], __import__
def watched(name, *more, **by_name):
    before = set(sys.modules)
    try:
        return real(name, *more, **by_name)
    finally:
        if threading.current_thread() is not threading.main_thread():
            named.extend(set(sys.modules) - before)
import builtins
builtins.__import__ = watched
with Tracker(TrackingParams(mlflow_server_uri=sys.argv[1], hf_mlflow_log_artifacts="true"), "n") as tracker:
    tracker.parameters({"a": 1})
    tracker.metrics({"loss": 1.0}, 1)
    tracker.checkpoint(folder / "checkpoint-1")
    tracker.flush()
assert tracker.run_id and not tracker.unsent(), "nothing was sent"
print(json.dumps(sorted({name.split(".")[0] for name in named})))
"""


def imported(uri: str, tmp_path: Path) -> set[str]:
    """Return the packages of which the threads of a tracker imported something."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT, uri, str(tmp_path)], capture_output=True,
                          text=True, cwd=tmp_path, env=with_our_code())  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow  # MLflow is loaded anew
@pytest.mark.parametrize("kind", ["database", "server"])
def test_the_threads_of_a_tracker_import_nothing_that_a_training_imports(kind, tmp_path):
    if kind == "database":
        assert not imported(f"sqlite:///{tmp_path}/mlflow.db", tmp_path) & SHARED
        return
    server = TrackingServer(tmp_path / "artifacts")
    try:
        assert not imported(server.uri, tmp_path) & SHARED
    finally:
        server.close()
