"""Checkpoints are uploaded in the background: in order, the manifest last, again after a failure; old ones go."""

import logging
import threading
import time
from pathlib import Path

import pytest
from stores import ROOT, objects
from training_inputs import settings_with, train
from waiting import LONG, wait_for

from steps.artifacts import MANIFEST
from steps.errors import Outage
from steps.finetune.checkpoints import drop_passing, finish, folder_for, prune, seal
from steps.finetune.checkpoints import uploads as module
from steps.finetune.checkpoints.remote import RemoteFolder
from steps.params.training import CheckpointParams

FILES = ["model.safetensors", "optimizer.pt", "global_step1/rank_0.pt"]


@pytest.fixture(autouse=True)
def quick(monkeypatch, caplog):
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(module, "FIRST_WAIT", 0.05)
    caplog.set_level(logging.INFO, "finetune")
    logging.getLogger("finetune").propagate = True


def remote(tmp_path: Path, keep: int = -1, out: str = "out") -> RemoteFolder:
    wanted = CheckpointParams(checkpoint_dir=ROOT, save_total_limit=keep)
    folder = folder_for(settings_with(checkpoints=wanted), {"model": "m", "data": "d"}, tmp_path / out / "c.unfinished")
    assert isinstance(folder, RemoteFolder)
    return folder


def save(folder: RemoteFolder, step: int, keep: int = -1, by_time: bool = False, best: int | None = None) -> None:
    """What a training does for a checkpoint (`watching.Checkpoints`)."""
    path = folder.path / f"checkpoint-{step}"
    for name in FILES:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(f"{name} {step}".encode())
    if best:
        (path / "trainer_state.json").write_text(f'{{"best_model_checkpoint": "{folder.path}/checkpoint-{best}"}}')
    seal(path, None, by_time)
    drop_passing(folder.path)
    prune(folder.path, keep, f"checkpoint-{best}" if best else None)


def complete(memory, folder: RemoteFolder) -> list[int]:
    """The steps of the complete checkpoints in the store."""
    inside = folder.uri.removeprefix(ROOT + "/") + "/"
    names = [name.removeprefix(inside).split("/") for name in objects(memory) if name.startswith(inside)]
    return sorted(int(parts[0][11:]) for parts in names if parts[0].startswith("checkpoint-") and parts[-1] == MANIFEST)


def test_files_are_uploaded_before_the_manifest_and_arrive_unchanged(memory, tmp_path):
    folder = remote(tmp_path)
    written = {}
    whole = memory.pipe_file

    def pipe_file(self, path, value, **more):
        written[path.rpartition("/")[2]] = list(memory.puts)
        whole(self, path, value, **more)

    memory.pipe_file = pipe_file
    with folder.lock():
        save(folder, 5)
        here = {name: (folder.path / "checkpoint-5" / name).read_bytes() for name in [*FILES, MANIFEST]}
        assert folder.uploads.finish() == []
    assert complete(memory, folder) == [5]
    key = folder.uri.removeprefix(ROOT + "/")
    assert {name: objects(memory)[f"{key}/checkpoint-5/{name}"] for name in here} == here
    assert sorted(written[MANIFEST]) == sorted(f"{key}/checkpoint-5/{name}" for name in FILES)


def test_the_training_does_not_wait_for_a_slow_store(memory, tmp_path):
    memory.gate = threading.Event()
    folder = remote(tmp_path)
    with folder.lock():
        save(folder, 5)  # returns though nothing arrives
        assert complete(memory, folder) == []
        threading.Timer(0.5, memory.gate.set).start()
        assert folder.uploads.finish() == []
        assert memory.gate.is_set()
    assert complete(memory, folder) == [5]


def test_one_is_uploaded_at_a_time_and_those_that_would_be_deleted_are_passed_over(memory, tmp_path):
    memory.gate = threading.Event()
    folder = remote(tmp_path)
    with folder.lock():
        save(folder, 5, by_time=True)
        wait_for(lambda: (folder.path / module.SENDING / "checkpoint-5").is_dir())
        for step in (7, 9):
            save(folder, step, by_time=True)
        save(folder, 10)
        save(folder, 11, by_time=True)
        memory.gate.set()
        assert folder.uploads.finish() == []
    uploaded = list(dict.fromkeys(name.split("/")[-2] for name in memory.puts if "global" not in name))
    assert uploaded[0] == "checkpoint-5"  # it had begun, and something has to arrive at a store that is slow
    assert set(uploaded) == {"checkpoint-5", "checkpoint-10", "checkpoint-11"}
    assert complete(memory, folder) == [10, 11]


def test_the_rules_for_old_checkpoints_hold_in_the_store_also_after_a_restart(memory, tmp_path):
    first = remote(tmp_path, keep=2)
    with first.lock():
        for step in (5, 10, 15):
            save(first, step, keep=2, best=5)
            first.uploads.finish()
        assert complete(memory, first) == [5, 15]
        save(first, 17, by_time=True, keep=2, best=5)
        first.uploads.finish()
        assert complete(memory, first) == [5, 15, 17]
    second = remote(tmp_path, keep=2, out="another")  # it has nothing here but what it saves
    with second.lock():
        save(second, 20, keep=2, best=20)
        second.uploads.finish()
        assert complete(memory, second) == [15, 20]
        save(second, 25, keep=2, best=20)
        second.uploads.finish()
        assert complete(memory, second) == [20, 25]


def test_the_local_disk_holds_the_newest_and_the_best_only(memory, tmp_path):
    folder = remote(tmp_path)
    with folder.lock():
        for step in (5, 10, 15, 20):
            save(folder, step, best=10 if step >= 10 else 5)
            folder.uploads.finish()
        here = sorted(path.name for path in folder.path.glob("checkpoint-*"))
        assert here == ["checkpoint-10", "checkpoint-20"]
    assert complete(memory, folder) == [5, 10, 15, 20]
    assert not folder.work.exists()  # nothing is left here after a success


def test_a_newer_checkpoint_is_there_before_the_older_one_goes(memory, tmp_path):
    folder = remote(tmp_path)
    with folder.lock():
        save(folder, 5, by_time=True)
        folder.uploads.finish()
        memory.gate = threading.Event()
        save(folder, 7, by_time=True)
        time.sleep(0.2)
        assert complete(memory, folder) == [5]
        memory.gate.set()
        folder.uploads.finish()
        assert complete(memory, folder) == [7]


FAILURES = [
    OSError(5, "SlowDown"),
    ConnectionError("reset"),
    TimeoutError("no answer"),
    PermissionError("403"),
    RuntimeError("bug"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_failed_upload_is_told_once_and_tried_again(memory, tmp_path, caplog, failure):
    memory.failures = [failure] * 4
    folder = remote(tmp_path)
    with folder.lock():
        save(folder, 5)
        assert folder.uploads.finish() == []
    assert complete(memory, folder) == [5]
    assert caplog.text.count("WARNING checkpoints cannot be uploaded") == 1
    assert "checkpoints are uploaded to memory://bucket/checkpoints/chat_completion" in caplog.text


def test_a_store_that_fails_to_the_end_is_told_and_does_not_take_for_ever(memory, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(module, "FAILING_SECONDS", 0.5)
    folder = remote(tmp_path)
    save_all = module.Uploads.finish
    monkeypatch.setattr(module.Uploads, "finish", lambda self: save_all(self, 5.0, 0.5))
    with folder.lock():
        save(folder, 5)
        assert folder.uploads.finish() == []
        memory.failures = [OSError(5, "SlowDown")] * 1000
        save(folder, 10)
        began = time.monotonic()
        assert folder.saved() == f"{folder.uri}/checkpoint-5"
    assert time.monotonic() - began < LONG
    assert f"WARNING not uploaded to {folder.uri}: checkpoint-10. They are in {folder.path}" in caplog.text
    assert (folder.path / "checkpoint-10" / MANIFEST).is_file()
    assert complete(memory, folder) == [5]


def test_what_is_left_of_a_killed_upload_is_replaced_or_deleted(memory, tmp_path):
    folder = remote(tmp_path)
    for step in (5, 10):
        memory().pipe_file(folder.objects._opened[1] + f"/checkpoint-{step}/old-rank_7.pt", b"of another save")
    with folder.lock():
        save(folder, 10)
        folder.uploads.finish()
    assert complete(memory, folder) == [10]
    assert not [name for name in objects(memory) if "old-rank" in name]


def test_one_that_cannot_be_uploaded_does_not_hold_up_the_next(memory, tmp_path):
    folder = remote(tmp_path)
    whole = memory.put_file

    def put_file(self, lpath, rpath, **more):
        if "checkpoint-5/" in rpath:
            raise OSError(22, "a name that this store refuses")
        return whole(self, lpath, rpath, **more)

    memory.put_file = put_file
    with folder.lock():
        save(folder, 5)
        save(folder, 10)
        wait_for(lambda: complete(memory, folder) == [10])
        wait_for(lambda: folder.uploads.waiting() == ["checkpoint-5"])  # its own is told a moment after its last file
        memory.put_file = whole
        assert folder.uploads.finish() == []


def test_a_failed_upload_goes_on_with_the_files_that_are_missing(memory, tmp_path):
    memory.failures = [OSError(5, "SlowDown")] * 2
    folder = remote(tmp_path)
    with folder.lock():
        save(folder, 5)
        assert folder.uploads.finish() == []
    assert sorted(memory.puts) == sorted(set(memory.puts))
    assert len(memory.puts) == len(FILES)


def test_small_files_follow(memory, tmp_path):
    folder = remote(tmp_path)
    key = folder.uri.removeprefix(ROOT + "/")
    with folder.lock():
        folder.begin(tmp_path / "tuned")
        # The thread that uploads may have found no file a moment before, delete the object, and send the file after it.
        wait_for(lambda: str(tmp_path / "tuned").encode() in objects(memory).get(f"{key}/task.json", b""))
        (folder.path / "mlflow-run.json").write_text("{}")
        finish(folder.path)
        folder.uploads.finish()
        names = {name.removeprefix(f"{key}/") for name in objects(memory)}
        assert names == {"training.json", "task.json", "mlflow-run.json", "finished.json", "lock.json"}
        (folder.path / "finished.json").unlink()
        folder.uploads.finish()
        assert f"{key}/finished.json" not in objects(memory)
    assert f"{key}/lock.json" not in objects(memory)


def test_a_store_that_lost_a_part_is_noticed(memory, tmp_path, monkeypatch):
    folder = remote(tmp_path)
    whole = memory.put_file
    cut = []

    def put_file(self, lpath, rpath, **more):
        whole(self, lpath, rpath, **more)
        if not cut:
            cut.append(rpath)
            memory.pipe_file(self, rpath, b"x")

    memory.put_file = put_file
    with folder.lock():
        save(folder, 5)
        assert folder.uploads.finish() == []
    assert cut
    assert folder.stored.damage_of("checkpoint-5") == ""


def test_a_place_that_cannot_be_written_is_refused_before_the_training(memory, tmp_path):
    from steps.finetune.checkpoints import refuse_unwritable

    folder = remote(tmp_path)
    refuse_unwritable(folder)
    assert objects(memory) == {}
    memory.pipe_file = lambda *_, **__: (_ for _ in ()).throw(OSError(5, "SlowDown"))
    with pytest.raises(Outage, match=r"URI-E0401 checkpoint_dir: .*SlowDown"):
        refuse_unwritable(folder)


@pytest.mark.slow
def test_a_slow_store_takes_no_time_of_a_training(memory, model, data, tmp_path):
    """A checkpoint after every step, 2 s for each of its files: 10 files are more than the time of all 20 steps."""

    def seconds(out: str) -> float:
        wanted = CheckpointParams(checkpoint_dir=f"{ROOT}/{out}", save_minutes=1e-9)
        return train(settings_with(checkpoints=wanted), model, data, tmp_path / out)["seconds"]

    seconds("warm")
    fast = seconds("fast")
    memory.seconds = 2.0
    slow = seconds("slow")
    print(f"20 steps with a checkpoint each: {fast} s, with a store of 2 s for each file: {slow} s")
    assert slow < fast + 15  # to wait for one checkpoint of 10 files would take 20 s; a busy machine takes some more
    assert len({name.split("/")[-2] for name in memory.puts if name.startswith("slow/")}) >= 2
