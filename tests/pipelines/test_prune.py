"""`finetune prune` removes old runs, and nothing that anybody needs or that is not a run."""

import fcntl
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from command_line import FINETUNE
from test_local import given, run  # noqa: F401  (a fixture)
from waiting import LONG

from pipelines.active import ROOT_LOCK, active
from pipelines.prune_command import seconds
from pipelines.pruning import prune
from steps.errors import UserError

KB = 1000


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def registry(monkeypatch) -> dict[str, str]:
    """The versions that MLflow tells, and where their weights are."""
    versions: dict[str, str] = {}
    steps = {"registered-weights": lambda server: versions, "close-runs": lambda root: []}
    monkeypatch.setattr("pipelines.pruning.load", steps.__getitem__)
    return versions


def make(root: Path, day: int, name: str = "chat_completion", **result) -> Path:
    """Make a run of a day in 2020 with 1 kB of weights, as the command leaves it."""
    folder = root / f"{name}-202001{day:02}-120000"
    (folder / "steps/x/finetune/tuned").mkdir(parents=True)
    (folder / "steps/x/finetune/tuned/model.safetensors").write_bytes(b"w" * KB)
    (folder / "log.txt").touch()
    if result.get("error") != "killed":
        told = {"pipeline": name, "error": None, "artifacts": {}, "tracking_uri": "", **result}
        (folder / "result.json").write_text(json.dumps(told))
    for file in folder.iterdir():
        os.utime(file, (1577836800 + day * 86400,) * 2)
    return folder


def left(root: Path) -> list[str]:
    """The days of the runs that are left."""
    return sorted(path.name[-9:-7] for path in root.glob("*-2020*"))


def weights(folder: Path) -> str:
    return str(folder / "steps/x/finetune/tuned")


def test_the_newest_runs_are_kept_and_the_freed_bytes_are_told(tmp_path, registry):
    for day in range(1, 6):
        make(tmp_path, day)
    would = prune(tmp_path, keep=2, dry_run=True)
    assert left(tmp_path) == ["01", "02", "03", "04", "05"]
    done = prune(tmp_path, keep=2)
    assert left(tmp_path) == ["04", "05"]
    assert done.removed == would.removed
    sizes = [len((tmp_path / f"chat_completion-2020010{day}-120000/result.json").read_text()) for day in (4,)]
    assert done.freed == 3 * (KB + sizes[0])
    assert not list(tmp_path.glob(".removed-*"))


def test_an_age_protects_younger_runs(tmp_path, registry):
    old, young = make(tmp_path, 1), make(tmp_path, 2)
    os.utime(young / "log.txt")
    assert list(prune(tmp_path, keep=0, older_than=3600).removed) == [old.name]
    assert prune(tmp_path, keep=0).removed.keys() == {young.name}


def test_runs_of_every_pipeline_count(tmp_path, registry):
    make(tmp_path, 1, "preference")
    make(tmp_path, 2, "adapter_tools")
    make(tmp_path, 3)
    assert list(prune(tmp_path, keep=1).removed) == ["adapter_tools-20200102-120000", "preference-20200101-120000"]


def test_what_a_registered_version_needs_stays(tmp_path, registry):
    first, second = make(tmp_path, 1), make(tmp_path, 2)
    make(tmp_path, 3)
    registry["version 1 of dates"] = weights(first)
    registry["version 2 of dates"] = f"file://{weights(second)}"
    registry["version 3 of dates"] = str(tmp_path / "chat_completion-20191231-120000/steps/tuned")
    done = prune(tmp_path, keep=0)
    assert left(tmp_path) == ["01", "02"]
    assert done.kept[first.name] == "version 1 of dates needs its weights"
    assert done.missing == [f"version 3 of dates: its weights at {registry['version 3 of dates']} are gone"]


@pytest.mark.parametrize("how", ["artifacts", "uses", "registered"])
def test_a_result_that_a_kept_run_uses_stays_also_over_several_runs(tmp_path, registry, how):
    base = make(tmp_path, 1)
    told = {"artifacts": {"artifacts": {"tuned": weights(base)}}, "uses": {"uses": [str(base)]},
            "registered": {"registered": {"weights_uri": weights(base)}}}[how]  # fmt: skip
    middle = make(tmp_path, 2, **told)
    make(tmp_path, 3)
    make(tmp_path, 4, uses=[str(middle)])
    done = prune(tmp_path, keep=1)
    assert left(tmp_path) == ["01", "02", "04"]
    assert done.kept == {
        base.name: f"{middle.name} uses its results",
        middle.name: "chat_completion-20200104-120000 uses its results",
    }


@pytest.mark.parametrize("error", ["killed", {"code": 143}])
def test_what_a_resume_needs_stays_until_the_training_is_finished(tmp_path, registry, error):
    make(tmp_path, 1, error=error)
    make(tmp_path, 2, error={"code": 2})
    training = tmp_path / "checkpoints/chat_completion/abc"
    (training / "checkpoint-5").mkdir(parents=True)
    (training / "checkpoint-5/model.safetensors").write_bytes(b"w" * KB)
    prune(tmp_path, keep=0)
    assert left(tmp_path) == ["01"]
    assert (training / "checkpoint-5/model.safetensors").exists()
    (training / "finished.json").touch()
    prune(tmp_path, keep=0)
    assert left(tmp_path) == []
    assert (training / "checkpoint-5/model.safetensors").exists()  # a finished training keeps what was asked for


def test_finished_trainings_leave_nothing(tmp_path, registry):
    make(tmp_path, 1)
    training = tmp_path / "checkpoints/chat_completion/abc"
    training.mkdir(parents=True)
    (training / "finished.json").write_text("{}")
    assert prune(tmp_path).removed == {"checkpoints/chat_completion/abc": 2}
    assert not training.exists()


def test_an_active_run_and_what_the_cache_offers_it_stay(tmp_path, registry):
    offered, other, running = make(tmp_path, 1), make(tmp_path, 2), make(tmp_path, 3, error="killed")
    (tmp_path / "cache/code").mkdir(parents=True)
    entry = tmp_path / "cache/code/key.json"
    entry.write_text(json.dumps({"tuned": {"__kfp_artifact__": True, "uri": weights(offered)}}))
    with open(running / "log.txt", "a") as log_file, active(tmp_path, log_file):
        done = prune(tmp_path, keep=0)
        assert left(tmp_path) == ["01", "03"]
    assert set(done.removed) == {other.name}
    assert done.kept == {running.name: "it is active", offered.name: "a run is active that may use its results"}
    assert entry.exists()
    prune(tmp_path, keep=0)
    assert left(tmp_path) == []
    assert not entry.exists()
    assert not (tmp_path / "cache/code").exists()


def test_a_run_that_starts_meanwhile_waits(tmp_path, registry, monkeypatch):
    make(tmp_path, 1)
    waited, began = threading.Event(), threading.Event()

    def start() -> None:
        with open(tmp_path / "log.txt", "w") as log_file:
            waited.set()
            with active(tmp_path, log_file):
                began.set()

    def slow(root: Path, folder: Path) -> None:
        threading.Thread(target=start).start()
        waited.wait(LONG)
        time.sleep(0.2)
        assert not began.is_set()

    monkeypatch.setattr("pipelines.pruning._take_away", slow)
    prune(tmp_path, keep=0)
    assert began.wait(LONG)


def test_two_at_once_remove_every_run_once(tmp_path, registry):
    for day in range(1, 20):
        make(tmp_path, day)
    failures = []

    def one() -> None:
        try:
            prune(tmp_path, keep=0)
        except UserError:
            pass  # the other one was faster
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert left(tmp_path) == []


def test_a_file_that_has_a_link_elsewhere_frees_nothing(tmp_path, registry):
    folder = make(tmp_path, 1)
    os.link(folder / "steps/x/finetune/tuned/model.safetensors", tmp_path / "model.safetensors")
    assert prune(tmp_path, keep=0, dry_run=True).freed < KB
    other = make(tmp_path, 2)
    (tmp_path / "model.safetensors").unlink()
    os.link(folder / "steps/x/finetune/tuned/model.safetensors", other / "again")
    assert 2 * KB <= prune(tmp_path, keep=0, dry_run=True).freed < 3 * KB


# Folders that look like a run, and are none.
FOREIGN = {
    "photos-20200101-120000": {"log.txt": ""},
    "chat_completion-20200101-120000-copy": {"log.txt": ""},
    "chat_completion-20200101-120001": {"thesis.txt": "years of work"},
    "chat_completion-20200101-120002": {"result.json": "[]"},
    "chat_completion-20200101-120003": {"result.json": '{"pipeline": "preference"}', "log.txt": ""},
    "chat_completion": {"log.txt": "", "result.json": "{}"},
    "data": {"train.jsonl": "{}"},
}


def test_nothing_that_is_not_a_run_is_removed(tmp_path, registry):
    for name, files in FOREIGN.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    elsewhere = make(tmp_path / "elsewhere", 9)
    (tmp_path / "chat_completion-20200109-120000").symlink_to(elsewhere)
    with pytest.raises(UserError, match="which holds no run"):
        prune(tmp_path, keep=0)
    make(tmp_path, 1)
    prune(tmp_path, keep=0)
    assert {path.name for path in tmp_path.iterdir()} - {ROOT_LOCK} == {
        *FOREIGN, "elsewhere", "chat_completion-20200109-120000",
    }  # fmt: skip
    assert (elsewhere / "result.json").exists()


@pytest.mark.parametrize("root", ["nowhere", "/", "/etc"])
def test_a_root_without_runs_is_refused(tmp_path, root, registry):
    with pytest.raises(UserError, match="a folder with runs"):
        prune(tmp_path / root, keep=0)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("age", "expected"), [("", 0), ("1", 86400), ("30d", 2592000), ("12h", 43200), ("2 W", 1209600), ("0.5d", 43200)]
)
def test_ages_are_read(age, expected):
    assert seconds(age) == expected


@pytest.mark.parametrize("age", ["soon", "-3d", "3 months", "d"])
def test_other_ages_are_refused(age):
    with pytest.raises(UserError, match="30d, 12h or 2w"):
        seconds(age)


@pytest.mark.slow
def test_runs_are_pruned_and_the_registered_one_can_still_be_loaded(given, tmp_path, runs_root, warm):  # noqa: F811
    registered = run(runs_root, {**given, "max_steps": 2, "gate_must_beat_base": "no"})
    refused = {**given, "max_steps": 1, "gate_metric": "exact_match", "gate_min_value": 1}
    others = [run(runs_root, {**refused, "seed": seed}) for seed in (1, 2)]
    command = [*FINETUNE, "prune", "--root", str(runs_root), "--keep", "0"]
    told = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=True).stdout
    assert all(Path(one["folder"]).is_dir() for one in (registered, *others))
    assert all(f"would remove {Path(one['folder']).name}" in told for one in others)
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "needs its weights" in told
    assert "freed " in told
    assert not [one["folder"] for one in others if Path(one["folder"]).exists()]
    assert Path(registered["artifacts"]["model"], "model.safetensors").is_file()
    again = run(runs_root, {**given, "max_steps": 2, "gate_must_beat_base": "no"})
    assert set(again["reused"]) >= {"import-model", "finetune", "evaluate"}
    report = Path(again["artifacts"]["report"]).read_text()
    assert "Registered as version 1 of chat_completion (models:/chat_completion@champion)." in report
    assert again["uses"] == [registered["folder"]]
    with open(runs_root / ROOT_LOCK) as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing holds it any more
