"""A folder and an object store are the same for a training: what is resumed, what is refused, what is found out."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from stores import ROOT
from training_inputs import settings_with

from steps.artifacts import MANIFEST
from steps.errors import Outage, SecurityRefusal, UserError
from steps.finetune.checkpoints import (
    CheckpointFolder,
    best_of,
    finish,
    folder_for,
    is_by_time,
    is_finished,
    remove_finished,
    resume_point,
    seal,
    steps_done,
    unfinish,
)
from steps.finetune.checkpoints.sealing import linked
from steps.params.training import CheckpointParams

FILES = {
    "model.safetensors": b"weights",
    "optimizer.pt": b"moments",
    "rng_state_0.pth": b"first",
    "rng_state_1.pth": b"second",
    "global_step10/zero_pp_rank_0_mp_rank_00_optim_states.pt": b"shard",
    "pytorch_model_fsdp_0/__0_0.distcp": b"shard",
    "pytorch_model_fsdp_0/.metadata": b"plan of the shards",
}


class Place:
    """Checkpoints of one training, in a folder or in a store, and how a test makes and damages them there."""

    def __init__(self, tmp_path: Path, kind: str, memory):
        self.work = tmp_path / "out/checkpoints.unfinished"
        self.kind, self.memory, self.base = kind, memory, tmp_path / "volume"
        self.root = str(self.base) if kind == "folder" else ROOT
        self.folder = self.of()

    def of(self, work: Path | None = None, **training):
        """Return the folder of a training; in a store, with an empty local folder."""
        settings = settings_with(training, checkpoints=CheckpointParams(checkpoint_dir=self.root))
        return folder_for(settings, {"model": "m", "data": "d"}, work or self.work)

    @property
    def uri(self) -> str:
        return self.folder.place

    def save(
        self, step: int, task: Path | None = None, by_time=False, whole=True, best: int | None = None, folder=None
    ):
        """Write a checkpoint as a training does; in a store, only that has it afterwards."""
        folder = folder or self.folder
        path = folder.path / f"checkpoint-{step}"
        state = {
            "global_step": step,
            "best_model_checkpoint": str(folder.path / f"checkpoint-{best}") if best else None,
        }
        for name, content in {**FILES, "trainer_state.json": json.dumps(state).encode()}.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content + str(step).encode() if name != "trainer_state.json" else content)
        if whole:
            seal(path, task, by_time)
        if self.kind != "folder":
            if whole:
                folder.stored.upload(path, path.name)
            else:
                for file in FILES:
                    folder.objects.put(path / file, f"{path.name}/{file}")
            shutil.rmtree(path)
        return path

    def key(self, name: str) -> str:
        return "/" + self.uri.removeprefix("memory://") + "/" + name

    def names(self) -> set[str]:
        """Every file that is there, by its path in the training's folder."""
        if self.kind == "folder":
            found = (path for path in self.folder.path.rglob("*") if path.is_file())
            return {path.relative_to(self.folder.path).as_posix() for path in found}
        return {name.removeprefix(self.key("")) for name in self.memory.store if name.startswith(self.key(""))}

    def read(self, name: str) -> bytes:
        if self.kind == "folder":
            return (self.folder.path / name).read_bytes()
        return self.memory.store[self.key(name)].getvalue()

    def write(self, name: str, content: bytes) -> None:
        if self.kind == "folder":
            (self.folder.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder.path / name).write_bytes(content)
        else:
            self.folder.objects.write(name, content)

    def delete(self, name: str) -> None:
        if self.kind == "folder":
            (self.folder.path / name).unlink()
        else:
            del self.memory.store[self.key(name)]

    def left(self) -> list[int]:
        steps = {name.partition("/")[0] for name in self.names() if name.startswith("checkpoint-")}
        return sorted(int(name.rpartition("-")[2]) for name in steps)


@pytest.fixture(params=["folder", "store"])
def place(request, tmp_path, memory, monkeypatch) -> Place:
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    made = Place(tmp_path, request.param, memory)
    made.folder.path.mkdir(parents=True)
    return made


@pytest.fixture(autouse=True)
def warnings(caplog):
    caplog.set_level(logging.INFO, "finetune")
    logging.getLogger("finetune").propagate = True
    return caplog


def is_whole(checkpoint: Path | None, step: int) -> bool:
    """Whether a checkpoint is in a local folder with the content that was saved."""
    assert checkpoint is not None
    files = {name: (checkpoint / name).read_bytes() for name in FILES}
    return checkpoint.name == f"checkpoint-{step}" and files == {n: c + str(step).encode() for n, c in FILES.items()}


# Damage

EVERY_FILE = [*FILES, "trainer_state.json"]


def flipped(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


DAMAGES = {
    "flipped": flipped,
    "flipped at the end": lambda content: content[:-1] + bytes([content[-1] ^ 0x10]),
    "cut": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "missing": None,
}


def damage(place: Place, name: str, how) -> None:
    if how is None:
        place.delete(name)
    else:
        place.write(name, how(place.read(name)))


def marked(file: str, how: str):
    """Every file is damaged in one way and gone always, one in every way; the others with the long tests."""
    usual = how in ("flipped", "missing") or file == "optimizer.pt"
    return pytest.param(file, how, marks=() if usual else pytest.mark.long)


@pytest.mark.parametrize(("file", "how"), [marked(file, how) for file in EVERY_FILE for how in DAMAGES])
def test_damage_of_every_file_is_found_out_and_the_checkpoint_before_is_used(place, warnings, file, how):
    place.save(5)
    place.save(10)
    damage(place, f"checkpoint-10/{file}", DAMAGES[how])
    assert is_whole(resume_point(place.folder, "true"), 5)
    assert "WARNING skipping checkpoint-10: " in warnings.text
    assert file in warnings.text or "damaged" in warnings.text


def without(key: str):
    def damaged(content: bytes) -> bytes:
        told = json.loads(content)
        del told[key]
        return json.dumps(told).encode()

    return damaged


MANIFESTS = {
    **{name: how for name, how in DAMAGES.items() if name != "flipped at the end"},  # that is a blank or a line's end
    "a list": lambda content: b"[1]",
    "a text": lambda content: b'"manifest"',
    "null": lambda content: b"null",
    "not UTF-8": lambda content: b"\xff" + content,
    "endless brackets": lambda content: b"[" * 100_000,
    "of another kind": lambda content: content.replace(b'"checkpoint"', b'"model"'),
    "without files": without("files"),
    "without a digest": without("digest"),
    "with a list of files": lambda content: json.dumps({**json.loads(content), "files": ["a"]}).encode(),
    "with files without a size": lambda content: content.replace(b'"size"', b'"sise"'),
    "with a name outside": lambda content: content.replace(b"optimizer.pt", b"../../escaped"),
    "with other digests": lambda content: content.replace(b'"sha256": "', b'"sha256": "0'),
}


@pytest.mark.parametrize("how", MANIFESTS)
def test_a_damaged_manifest_is_found_out_and_the_checkpoint_before_is_used(place, warnings, how):
    place.save(5)
    place.save(10)
    damage(place, f"checkpoint-10/{MANIFEST}", MANIFESTS[how])
    assert is_whole(resume_point(place.folder, "true"), 5)
    assert "WARNING skipping checkpoint-10: " in warnings.text


NAMES = ["checkpoint-abc", "checkpoint-60 (copy)", "checkpoint-", "checkpoint--5", "checkpoint-060",
         "checkpoint-60.tmp", "checkpoint-6٠", "checkpoint-1e3"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_with_another_name_is_never_resumed_nor_deleted(place, warnings, name):
    place.save(5)
    for file in ("model.safetensors", MANIFEST):
        place.write(f"{name}/{file}", place.read(f"checkpoint-5/{file}"))
    before = {one for one in place.names() if one.startswith(f"{name}/")}
    assert len(before) == 2
    assert is_whole(resume_point(place.folder, "true"), 5)
    assert f"{name}: not the name" in warnings.text
    place.folder.clear()
    assert {one for one in place.names() if one.startswith("checkpoint-")} == before


def test_only_damaged_checkpoints_are_an_error_that_names_each(place, tmp_path):
    for step in (5, 10):
        place.save(step)
        damage(place, f"checkpoint-{step}/optimizer.pt", flipped)
    for wanted in ("true", "auto"):
        with pytest.raises(UserError, match=r"CHECKPOINT-E0101 .*checkpoint-10 \(optimizer.pt.*checkpoint-5 \(opt"):
            resume_point(place.folder, wanted)


def test_what_was_interrupted_while_it_was_saved_is_passed_over(place, warnings):
    place.save(5)
    place.save(10, whole=False)
    assert is_whole(resume_point(place.folder, "auto"), 5)
    assert "skipping checkpoint-10: no manifest.json" in warnings.text


def test_a_first_save_that_was_interrupted_is_no_error_with_auto(place):
    place.save(10, whole=False)
    assert resume_point(place.folder, "auto") is None
    with pytest.raises(UserError, match="CHECKPOINT-E0101"):
        resume_point(place.folder, "true")


# The best checkpoint


def test_the_best_checkpoint_is_where_the_state_says(place):
    place.save(5)
    place.save(10, best=5)
    shutil.rmtree(place.folder.path) if place.kind == "store" else None
    place.folder.path.mkdir(parents=True, exist_ok=True)
    found = resume_point(place.folder, "true")
    assert is_whole(found, 10)
    best = Path(json.loads((found / "trainer_state.json").read_text())["best_model_checkpoint"])
    assert is_whole(best, 5)


def test_a_folder_that_was_moved_has_its_best_checkpoint_with_it(place, tmp_path):
    place.save(5, best=5)
    place.save(10, best=5)
    if place.kind == "folder":
        place.base.rename(tmp_path / "elsewhere")
        place.root = str(tmp_path / "elsewhere")
    moved = place.of(tmp_path / "other/checkpoints.unfinished")
    assert moved.path != place.folder.path
    moved.path.mkdir(parents=True, exist_ok=True)
    found = resume_point(moved, "true")
    assert is_whole(found, 10)
    best = json.loads((found / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert best == str(moved.path / "checkpoint-5")
    assert is_whole(Path(best), 5)
    assert best_of(found) == "checkpoint-5"
    assert moved.damage_of("checkpoint-10") == ""  # the one that was saved is as it was


@pytest.mark.parametrize("how", DAMAGES)
def test_a_checkpoint_whose_best_is_damaged_is_not_resumed(place, warnings, how):
    place.save(5, best=5)
    place.save(10, best=10)
    place.save(15, best=10)
    damage(place, "checkpoint-10/model.safetensors", DAMAGES[how])
    assert is_whole(resume_point(place.folder, "true"), 5)
    assert "skipping checkpoint-15: the best checkpoint until then, checkpoint-10: " in warnings.text


def test_what_is_damaged_on_its_way_is_downloaded_again(tmp_path, memory, monkeypatch, warnings):
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    place = Place(tmp_path, "store", memory)
    place.folder.path.mkdir(parents=True)
    for step in (5, 10):
        place.save(step)
    whole, damaged = memory.get_file, []

    def get_file(self, rpath, lpath, **more):
        whole(self, rpath, lpath, **more)
        if rpath.endswith("optimizer.pt") and len(damaged) < times:
            damaged.append(rpath)
            Path(lpath).write_bytes(flipped(Path(lpath).read_bytes()))

    monkeypatch.setattr(memory, "get_file", get_file)
    times = 1
    assert is_whole(resume_point(place.folder, "true"), 10)
    assert len(damaged) == 1
    shutil.rmtree(place.folder.path / "checkpoint-10")
    times = 3
    assert is_whole(resume_point(place.folder, "true"), 5)
    assert "skipping checkpoint-10: optimizer.pt with other content" in warnings.text


def test_an_outage_while_resuming_is_no_damage(tmp_path, memory, monkeypatch):
    """A training must not go on from an older checkpoint, nor from step 0, because a store is down."""
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    place = Place(tmp_path, "store", memory)
    place.folder.path.mkdir(parents=True)
    for step in (5, 10):
        place.save(step)

    def fail(*_, **__):
        raise OSError(5, "SlowDown")

    for call in ("find", "cat_file", "get_file"):
        for wanted in ("true", "auto", "false"):
            with monkeypatch.context() as down:
                down.setattr(memory, call, fail)
                if (call, wanted) in (("cat_file", "false"), ("get_file", "false")):
                    continue  # nothing is read
                with pytest.raises(Outage, match=r"URI-E0401 .*SlowDown") as caught:
                    resume_point(place.folder, wanted)
                assert caught.value.transient
    assert place.left() == [5, 10]


def test_a_finished_task_downloads_nothing_to_delete(tmp_path, memory, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    place = Place(tmp_path, "store", memory)
    for step in (5, 10, 15):
        place.save(step, best=5)
    monkeypatch.setattr(memory, "get_file", None)
    with place.folder.lock():
        remove_finished(place.folder, CheckpointParams(checkpoint_dir=place.root))
    assert place.left() == [5, 15]


# The task, the switch, other trainings


@pytest.mark.parametrize("wanted", ["false", "auto", "true", "named"])
def test_a_task_finds_its_own_newest_checkpoint_again(place, tmp_path, wanted):
    place.save(4, tmp_path / "run-0/tuned")
    place.save(90, tmp_path / "run-0/tuned")
    with place.folder.lock():
        place.folder.begin(tmp_path / "run-1/tuned")
    place.save(8, tmp_path / "run-1/tuned", by_time=True)
    place.folder.path.mkdir(parents=True, exist_ok=True)
    asked = f"{place.uri}/checkpoint-4" if wanted == "named" else wanted
    with place.folder.lock():
        found = resume_point(place.folder, asked, tmp_path / "run-1/tuned")
    assert found is not None
    assert found.name == "checkpoint-8"
    assert place.left() == [4, 8, 90]


def test_another_run_starts_at_step_0_with_false_and_clears(place, tmp_path):
    with place.folder.lock():
        place.folder.begin(tmp_path / "run-1/tuned")
    place.save(8, tmp_path / "run-1/tuned")
    with place.folder.lock():
        assert resume_point(place.folder, "false", tmp_path / "run-2/tuned") is None
    assert place.left() == []


@pytest.mark.parametrize("name", ["optimizer.pt", MANIFEST])
@pytest.mark.parametrize("wanted", ["false", "auto", "true"])
def test_a_task_whose_own_checkpoints_are_all_damaged_does_not_start_again_in_silence(place, tmp_path, name, wanted):
    task = tmp_path / "run-1/tuned"
    with place.folder.lock():
        place.folder.begin(task)
    place.save(8, task)
    damage(place, f"checkpoint-8/{name}", flipped)
    with place.folder.lock(), pytest.raises(UserError, match=r"CHECKPOINT-E0101 .*checkpoint-8 \("):
        resume_point(place.folder, wanted, task)
    assert place.left() == [8]
    with place.folder.lock():
        assert resume_point(place.folder, "false", tmp_path / "run-2/tuned") is None


def test_a_damaged_record_of_the_task_does_not_lose_its_checkpoints(place, tmp_path):
    task = tmp_path / "run-1/tuned"
    place.save(8, task)
    for text in (b"", b"{", b"[]", b"{}", b"\xff"):
        place.write("task.json", text)
        with place.folder.lock():
            assert resume_point(place.folder, "false", task) is not None
            assert not place.folder.was_begun_by(tmp_path / "run-2/tuned")


def test_a_finished_training_is_remembered_in_its_place(place, tmp_path):
    with place.folder.lock():
        finish(place.folder.path)
    again = place.of(tmp_path / "another/checkpoints.unfinished")
    with again.lock():
        assert is_finished(again.path)
        unfinish(again.path)
    with place.of(tmp_path / "third/checkpoints.unfinished").lock() as _:
        assert not is_finished(place.of(tmp_path / "third/checkpoints.unfinished").path)


def test_other_settings_are_refused_with_what_differs(place, tmp_path):
    with place.folder.lock():
        pass
    place.save(5)
    other = place.of(tmp_path / "o/c.unfinished", learning_rate=9e-4)
    with other.lock():
        with pytest.raises(UserError, match=r"CHECKPOINT-E0102 .*learning_rate was 0.001, is 0.0009"):
            resume_point(other, "true")
        assert resume_point(other, "auto") is None
    place.write("finished.json", b"{}")
    with other.lock():
        assert resume_point(other, "true") is None  # nothing unfinished is there


def test_a_checkpoint_is_named_by_its_place(place, tmp_path):
    place.save(5, best=5)
    place.save(10, best=5)
    other = CheckpointFolder(tmp_path / "o/c.unfinished", place.folder.identity, tmp_path)
    other.path.mkdir(parents=True)
    found = resume_point(other, f"{place.uri}/checkpoint-10")
    assert is_whole(found, 10)
    best = Path(json.loads((found / "trainer_state.json").read_text())["best_model_checkpoint"])
    assert (best / "model.safetensors").read_bytes() == b"weights5"
    assert place.folder.holds(f"{place.uri}/checkpoint-10")
    assert not other.holds(f"{place.uri}/checkpoint-10")
    damage(place, "checkpoint-10/optimizer.pt", flipped)
    with pytest.raises(Outage, match=r"optimizer.pt with other content"):
        resume_point(other, f"{place.uri}/checkpoint-10")


@pytest.mark.parametrize(("name", "value"), [("learning_rate", 9e-4), ("max_steps", 999)])
def test_a_named_checkpoint_of_another_training_is_refused_with_what_differs(place, tmp_path, name, value):
    place.save(5)
    with place.folder.lock():  # it writes the settings
        pass
    other = place.of(tmp_path / "other/training", **{name: value})
    other.path.mkdir(parents=True)
    with pytest.raises(UserError, match=rf"CHECKPOINT-E0106.*checkpoint-5, of another training: {name} was .*, is "):
        resume_point(other, f"{place.uri}/checkpoint-5")
    same = CheckpointFolder(tmp_path / "same/training", place.folder.identity, tmp_path)
    same.path.mkdir(parents=True)
    assert is_whole(resume_point(same, f"{place.uri}/checkpoint-5"), 5)


@pytest.mark.parametrize("state", [b"[]", b'{"best_model_checkpoint": 5}', b'{"global_step": "ten"}', b"[" * 99_999])
def test_a_state_of_another_shape_is_no_state(tmp_path, state):
    path = tmp_path / "checkpoint-5"
    path.mkdir()
    (path / "trainer_state.json").write_bytes(state)
    assert best_of(path) == ""
    assert steps_done(path.rename(tmp_path / "renamed")) == 0


def test_pickled_weights_are_refused_before_anything_reads_them(place):
    path = place.save(5)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    (path / "pytorch_model.bin").write_bytes(b"pickle")
    seal(path)
    if place.kind == "store":
        place.folder.stored.upload(path, path.name)
        shutil.rmtree(path)
    with pytest.raises(SecurityRefusal):
        resume_point(place.folder, "true")


# What is deleted


@pytest.mark.parametrize(
    ("asked", "left"),
    [({}, [5, 15]), ({"keep_checkpoints": "true"}, [5, 10, 15]), ({"save_total_limit": 2}, [5, 10, 15])],
    ids=str,
)
def test_a_finished_pod_keeps_what_leads_to_the_result(place, asked, left):
    for step in (5, 10, 15):
        place.save(step, best=5)
    with place.folder.lock():
        finish(place.folder.path)
        remove_finished(place.folder, CheckpointParams(checkpoint_dir=place.root, **asked))
    assert place.left() == left


def test_a_local_run_that_finished_leaves_none(place, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    place.save(5)
    with place.folder.lock():
        remove_finished(place.folder, CheckpointParams(checkpoint_dir=place.root))
    assert place.left() == []


def test_deleting_begins_with_the_manifest(place, monkeypatch):
    """Whenever it is interrupted, what is left is no checkpoint."""
    place.save(5)
    if place.kind == "store":
        deleted = []
        whole = type(place.memory()).rm_file
        monkeypatch.setattr(place.memory, "rm_file", lambda self, path: (deleted.append(path), whole(self, path)))
        place.folder.clear()
        assert deleted[0].endswith(f"checkpoint-5/{MANIFEST}")
        assert len(deleted) == len(FILES) + 2
    else:
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            place.folder.clear()
        assert f"checkpoint-5/{MANIFEST}" not in place.names()


def test_facts_that_the_caller_knows_are_in_the_manifest(tmp_path):
    (tmp_path / "checkpoint-5/pytorch_model_fsdp_0").mkdir(parents=True)
    (tmp_path / "checkpoint-5/pytorch_model_fsdp_0/__0_0.distcp").write_bytes(b"x")
    seal(tmp_path / "checkpoint-5", tmp_path / "tuned", True, facts={"processes": 2, "strategy": "fsdp"})
    told = json.loads((tmp_path / "checkpoint-5" / MANIFEST).read_text())
    assert told["facts"] == {"processes": 2, "strategy": "fsdp", "task": str(tmp_path / "tuned"), "by_time": True}
    assert list(told["files"]) == ["pytorch_model_fsdp_0/__0_0.distcp"]
    assert is_by_time(tmp_path / "checkpoint-5")


def test_a_folder_without_hard_links_is_copied(tmp_path, monkeypatch):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(b"x")

    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    assert (linked(tmp_path / "a", tmp_path / "c/d") / "b/file").read_bytes() == b"x"


def test_an_object_whose_name_leaves_the_folder_is_refused(memory, tmp_path):
    from steps.sources import storage

    memory().pipe_file("/bucket/x/checkpoint-5/a", b"1")
    memory.store["/bucket/x/checkpoint-5/../../escaped"] = memory.store["/bucket/x/checkpoint-5/a"]
    with pytest.raises(SecurityRefusal, match="URI-E0103"):
        storage.fetch("resume_from_checkpoint", "memory://bucket/x/checkpoint-5", tmp_path / "deep/target")
    assert not list(tmp_path.rglob("escaped"))
