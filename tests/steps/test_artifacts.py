"""An artifact folder is complete or does not exist."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from steps.artifacts import new_artifact, read_manifest
from steps.errors import Outage, OutOfResources, UserError


def make(path, text="hello"):
    with new_artifact(path, "data") as draft:
        (draft / "rows").mkdir()
        (draft / "rows/a.txt").write_text(text)


def draft_then_fail(folder, error, seen):
    def write():
        with new_artifact(folder / "x", "data") as draft:
            (draft / "half").write_text("h")
            raise error

    with pytest.raises(seen):
        write()


def test_what_was_written_can_be_read_and_has_a_content_digest(tmp_path):
    for name, text in (("one", "hello"), ("two", "hello"), ("three", "other")):
        make(tmp_path / name, text)
    digests = [read_manifest(tmp_path / name, "data").digest for name in ("one", "two", "three")]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_that_a_library_wrote_for_its_owner_alone_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with new_artifact(tmp_path / "x", "data") as draft:
            (draft / "inside").mkdir(mode=0o700)
            for name in ("model.safetensors", "inside/part"):
                (draft / name).touch(mode=0o600)
            (draft / "inside").chmod(0o2700)  # a folder whose files keep its group
            (draft / "link").symlink_to("nowhere")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "x").rglob("*") if path.name != "link"}
    file, folder = 0o666 & ~umask, 0o777 & ~umask
    assert modes == {"model.safetensors": file, "part": file, "manifest.json": file, "inside": folder | 0o2000}


def test_an_error_while_writing_leaves_nothing(tmp_path):
    draft_then_fail(tmp_path, RuntimeError(), RuntimeError)
    assert list(tmp_path.iterdir()) == []


def test_a_second_writing_replaces_the_first_and_removes_what_a_killed_one_left(tmp_path):
    make(tmp_path / "x", "old")
    (tmp_path / "x.tmp-999999").mkdir()
    make(tmp_path / "x", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x/rows/a.txt").read_text() == "new"


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path):
    draft_then_fail(tmp_path, OSError(28, "No space left on device"), OutOfResources)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["delete", "cut", "flip"])
def test_damage_is_found_and_names_the_file(tmp_path, damage):
    make(tmp_path / "x")
    file = tmp_path / "x/rows/a.txt"
    {"delete": file.unlink, "cut": lambda: file.write_text("hel"), "flip": lambda: file.write_text("jello")}[damage]()
    with pytest.raises(Outage, match=r"rows/a\.txt"):
        read_manifest(tmp_path / "x")


def test_a_folder_without_manifest_does_not_exist_for_a_reader(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(Outage, match=r"manifest\.json"):
        read_manifest(tmp_path / "x")


def test_the_wrong_kind_of_artifact_is_the_callers_mistake(tmp_path):
    make(tmp_path / "x")
    with pytest.raises(UserError, match="found a folder of kind data; expected model"):
        read_manifest(tmp_path / "x", "model")


def test_kill_at_any_moment_shows_the_old_folder_or_the_new_one(tmp_path):
    script = (
        "import sys, pathlib\nfrom steps.artifacts import new_artifact\n"
        "n = 0\nwhile True:\n"
        "    n += 1\n"
        "    with new_artifact(pathlib.Path(sys.argv[1]), 'data') as draft:\n"
        "        for i in range(5):\n            (draft / str(i)).write_text(str(n) * 5000)\n"
        "        draft.facts = {'n': n}\n"
    )
    path = tmp_path / "x"
    for trial in range(8):
        process = subprocess.Popen([sys.executable, "-c", script, str(path)], env={**os.environ, "PYTHONPATH": "."})
        until = time.monotonic() + 300
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.013 * trial)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if path.exists():  # a kill between removing the old and showing the new leaves none, never a torn one
            manifest = read_manifest(path, "data")
            assert {(path / str(i)).read_text()[:1] for i in range(5)} == {str(manifest.facts["n"])[:1]}


def test_the_manifest_is_plain_json_with_its_digest(tmp_path):
    make(tmp_path / "x")
    raw = json.loads((tmp_path / "x/manifest.json").read_text())
    assert raw["kind"] == "data"
    assert raw["digest"] == read_manifest(tmp_path / "x").digest


def test_another_name_of_a_file_is_another_digest(tmp_path):
    for name in ("a", "b"):
        with new_artifact(tmp_path / name, "data") as draft:
            (draft / f"{name}.txt").write_text("hello")
    assert read_manifest(tmp_path / "a").digest != read_manifest(tmp_path / "b").digest


@pytest.mark.parametrize("name", ["step.py", "reports/page.html", "reports/page.css", "chat_templates/poro.jinja"])
def test_the_codes_digest_follows_every_file_that_changes_a_result(tmp_path, monkeypatch, name):
    from steps import artifacts

    monkeypatch.setattr(artifacts, "__file__", str(tmp_path / "artifacts.py"))
    digests = set()
    for place, text in ((name, "one"), (name, "two"), (f"moved/{name}", "two")):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
        digests.add(artifacts.code_digest.__wrapped__())
    assert len(digests) == 3


@pytest.mark.parametrize("name", ["adapter_config.json", "chat_template.jinja", "adapter/adapter_model.safetensors",
                                  "tokens/validation.parquet", "modeling.py"])  # fmt: skip
def test_a_file_that_the_manifest_does_not_list_is_told_once_if_libraries_would_read_it(tmp_path, name, caplog):
    make(tmp_path / "x")
    (tmp_path / "x" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "x" / name).write_text("{}")
    read_manifest(tmp_path / "x")
    read_manifest(tmp_path / "x")
    assert [one.getMessage().split(" is not in")[0] for one in caplog.records] == [f"WARNING {tmp_path / 'x' / name}"]


@pytest.mark.parametrize(
    "name", ["trainjob.yaml", "NOTES.md", ".DS_Store", ".hidden.json", "checkpoints/checkpoint-1/a.json"]
)
def test_other_files_in_an_artifact_are_passed_over(tmp_path, name, caplog):
    make(tmp_path / "x")
    digest = read_manifest(tmp_path / "x").digest
    (tmp_path / "x" / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / "x" / name).write_text("{}")
    assert read_manifest(tmp_path / "x").digest == digest
    assert caplog.text == ""
