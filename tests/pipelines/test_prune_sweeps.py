"""`finetune prune` frees the weights of trials that nobody needs, and leaves what a sweep is known by."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from test_prune import KB, make, no_server, registry  # noqa: F401  (fixtures)

from pipelines.pruning import prune
from steps.errors import Outage, Problem, UserError


def sweep(root: Path, name: str, day: int = 1, best: int | None = 1, state: str | None = "finished", **facts) -> Path:
    """Make a sweep of three trials, as the driver leaves it."""
    folder = root / "sweeps" / name
    for trial in range(3):
        for part in ("tuned", "measured"):
            (folder / f"trials/{trial:04}/{part}").mkdir(parents=True)
        (folder / f"trials/{trial:04}/tuned/model.safetensors").write_bytes(b"w" * KB)
        (folder / f"trials/{trial:04}/log.txt").write_text("x")
        (folder / f"trials/{trial:04}/measured/trial.json").write_text("{}")
    (folder / "best/0001/merged").mkdir(parents=True)
    (folder / "best/0001/merged/model.safetensors").write_bytes(b"w" * KB)
    (folder / "description.json").write_text("{}")
    (folder / "report.html").write_text("x")
    (folder / "log.txt").write_text("x")
    (folder / "sweep.json").write_text(json.dumps({"best": best, "final": None, **facts}))
    if state:
        (folder / "outcome.json").write_text(json.dumps({"state": state, "error": None}))
    for file in folder.glob("*.json"):
        os.utime(file, (1577836800 + day * 86400,) * 2)
    return folder


def tuned(folder: Path) -> list[int]:
    """The trials that still have their weights."""
    return sorted(int(place.parent.name) for place in folder.glob("trials/*/tuned"))


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_of_an_old_sweep_only_the_best_trial_keeps_its_weights(tmp_path, registry):  # noqa: F811
    old, new = sweep(tmp_path, "old", 1), sweep(tmp_path, "new", 2)
    before = files(old)
    would = prune(tmp_path, keep=1, dry_run=True)
    assert tuned(old) == [0, 1, 2]
    done = prune(tmp_path, keep=1)
    assert done.removed == would.removed == {f"sweeps/old/trials/000{trial}/tuned": KB for trial in (0, 2)}
    assert (tuned(old), tuned(new)) == ([1], [0, 1, 2])
    assert before - files(old) == {f"trials/000{trial}/tuned/model.safetensors" for trial in (0, 2)}
    assert not list(tmp_path.glob(".removed-*"))
    assert prune(tmp_path, keep=1).removed == {}


def test_a_trial_of_which_a_version_needs_the_weights_keeps_them(tmp_path, registry):  # noqa: F811
    old = sweep(tmp_path, "s")
    registry["version 1 of x"] = f"file://{old}/trials/0002/tuned"
    done = prune(tmp_path, keep=0)
    assert tuned(old) == [1, 2]
    assert done.kept == {"sweeps/s/trials/0002": "version 1 of x needs its weights"}


def test_a_version_whose_weights_are_gone_is_told(tmp_path, registry):  # noqa: F811
    sweep(tmp_path, "s")
    registry["version 1 of x"] = f"{tmp_path}/sweeps/s/best/0007/merged"
    assert prune(tmp_path, keep=0).missing == [f"version 1 of x: its weights at {registry['version 1 of x']} are gone"]


@pytest.mark.parametrize("state", [None, "stopped", "failed"])
def test_a_sweep_that_can_go_on_keeps_everything(state, tmp_path, registry):  # noqa: F811
    old = sweep(tmp_path, "s", state=state)
    before = files(old)
    assert prune(tmp_path, keep=0).kept == {"sweeps/s": "it has not ended, and can go on"}
    assert files(old) == before


@pytest.mark.parametrize("lock", ["log.txt", "driver.lock"])
def test_an_active_sweep_keeps_everything(lock, tmp_path, registry):  # noqa: F811
    old = sweep(tmp_path, "s")
    with open(old / lock, "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert prune(tmp_path, keep=0).kept == {"sweeps/s": "it is active"}
    assert tuned(old) == [0, 1, 2]


def test_if_mlflow_does_not_answer_a_registered_sweep_keeps_everything(tmp_path, monkeypatch):
    def away(server):
        raise Outage(Problem("X", "x", "no answer", "an answer", "wait"))

    monkeypatch.setattr("pipelines.pruning.load", {"registered-weights": away, "close-runs": lambda root: []}.get)
    kept, free = sweep(tmp_path, "a", final={"registered": {"version": "1"}}), sweep(tmp_path, "b")
    assert "cannot be asked (no answer)" in prune(tmp_path, keep=0).kept["sweeps/a"]
    assert (tuned(kept), tuned(free)) == ([0, 1, 2], [1])


def test_an_age_and_runs_beside_sweeps(tmp_path, registry):  # noqa: F811
    old, young, run = sweep(tmp_path, "old"), sweep(tmp_path, "young"), make(tmp_path, 1)
    os.utime(young / "outcome.json")
    done = prune(tmp_path, keep=0, older_than=3600)
    assert (tuned(old), tuned(young)) == ([1], [0, 1, 2])
    assert run.name in done.removed


@pytest.mark.parametrize("name", ["sweep.json", "outcome.json"])
def test_a_sweep_that_cannot_be_read_is_left_alone(name, tmp_path, registry):  # noqa: F811
    old = sweep(tmp_path, "s")
    (old / name).write_text("{")
    prune(tmp_path, keep=0)
    assert tuned(old) == [0, 1, 2]


def test_a_folder_without_runs_and_sweeps_is_refused(tmp_path, registry):  # noqa: F811
    (tmp_path / "sweeps/mine/trials/0000/tuned").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no run"):
        prune(tmp_path)
    assert (tmp_path / "sweeps/mine/trials/0000/tuned").is_dir()
