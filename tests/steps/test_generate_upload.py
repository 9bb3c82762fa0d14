"""Finished answers are copied to a folder or an object store, whole or not at all."""

import errno
import json
import os
from pathlib import Path

import echo_engine  # noqa: F401  (it is named below)
import pytest
from prompt_rows import text_row, write_prompts

from steps.artifacts import read_manifest
from steps.errors import UserError
from steps.generate import rows, uploading
from steps.generate.step import generate
from steps.generate.uploading import upload
from steps.generation import engines
from steps.params.generation import DecodingParams
from steps.params.settings import GenerateSettings


@pytest.fixture(autouse=True)
def echo(monkeypatch, tmp_path):
    monkeypatch.setitem(engines.ENGINES, "accelerate", "echo_engine")
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("ECHO_LOG", str(tmp_path / "asked"))
    monkeypatch.setattr(rows, "SEGMENT", 4)


def answered(tmp_path: Path, count: int, target: str, name: str = "made") -> Path:
    data = write_prompts(tmp_path / f"data-{name}", [text_row(row) for row in range(count)])
    settings = GenerateSettings(decoding=DecodingParams(), upload_dir=target)
    generate(settings, None, data, tmp_path / name)
    return tmp_path / name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_gets_the_whole_artifact(tmp_path, scheme):
    made = answered(tmp_path, 9, f"{scheme}{tmp_path}/copy/here")
    assert contents(tmp_path / "copy/here") == contents(made)
    assert len(list((tmp_path / "copy/here").glob("generations_*.parquet"))) == 3
    read_manifest(tmp_path / "copy/here", "generations")


def test_a_shorter_copy_leaves_nothing_of_a_longer_one_and_nothing_else_is_touched(tmp_path):
    copy = tmp_path / "copy"
    answered(tmp_path, 9, str(copy), "long")
    (copy / "generations_mine.parquet").write_text("mine")
    made = answered(tmp_path, 3, str(copy), "short")
    assert contents(copy) == {**contents(made), "generations_mine.parquet": b"mine"}


def test_a_manifest_of_somebody_else_names_nothing_to_delete(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for number, told in enumerate(["no json", "[]", '{"kind": "model", "files": {"own": {}}}',
                                   '{"kind": "generations", "files": {"../outside": {}, "/etc/x": {}}}',
                                   '{"kind": "generations", "files": {"a\\u0000b": {}, "": {}}}']):  # fmt: skip
        (tmp_path / "outside").write_text("kept")
        (copy / "own").write_text("kept")
        (copy / "manifest.json").write_text(told)
        answered(tmp_path, 2, str(copy), f"made-{number}")
        assert (copy / "own").read_text() == (tmp_path / "outside").read_text() == "kept"


def test_a_copy_that_breaks_off_has_no_manifest_and_the_next_run_answers_nothing_again(tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    answered(tmp_path, 5, str(copy), "before")
    usual = uploading._copy

    def broken(file: Path, target: Path) -> None:
        if file.name == "answers.yaml":
            raise OSError("gone")
        usual(file, target)

    monkeypatch.setattr(uploading, "_copy", broken)
    data = write_prompts(tmp_path / "data", [text_row(row) for row in range(6)])
    settings = GenerateSettings(upload_dir=str(copy))
    with pytest.raises(OSError, match="gone"):
        generate(settings, None, data, tmp_path / "made")
    assert not (copy / "manifest.json").exists()
    monkeypatch.setattr(uploading, "_copy", usual)
    monkeypatch.setenv("ECHO_LOG", str(tmp_path / "asked again"))
    generate(settings, None, data, tmp_path / "again")
    assert not (tmp_path / "asked again").exists()
    read_manifest(copy, "generations")


def test_copies_that_broke_off_leave_nothing_of_the_longer_one_before(tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    answered(tmp_path, 17, str(copy), "longest")
    usual = uploading._copy

    def broken(file: Path, target: Path) -> None:
        if file.name == broken.at:
            raise OSError("gone")
        usual(file, target)

    for count, broken.at in ((9, "generations_00002.parquet"), (6, "answers.yaml"), (3, "manifest.json")):
        monkeypatch.setattr(uploading, "_copy", broken)
        with pytest.raises(OSError, match="gone"):
            answered(tmp_path, count, str(copy), f"broken-{count}")
    monkeypatch.setattr(uploading, "_copy", usual)
    assert contents(copy) != contents(answered(tmp_path, 3, "", "short"))
    upload(tmp_path / "short", str(copy))
    assert contents(copy) == contents(tmp_path / "short")


@pytest.mark.parametrize("inside", ["", "copy"])
def test_the_result_is_not_copied_onto_itself(tmp_path, inside):
    made = answered(tmp_path, 3, "")
    (tmp_path / "link").symlink_to(made)
    for place in (made / inside, tmp_path / "link" / inside):
        with pytest.raises(UserError, match="GEN-E0227 s3_upload_dir"):
            upload(made, str(place))
    read_manifest(made, "generations")


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    made = answered(tmp_path, 1, "")
    with pytest.raises(UserError, match=r"GEN-E0226 s3_upload_dir"):
        upload(made, str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"GEN-E0225 s3_upload_dir"):
        upload(made, "hf://datasets/owner/name")


@pytest.mark.slow
def test_an_object_store_gets_the_same(tmp_path, monkeypatch):
    from s3_server import REGION, s3_server

    with s3_server(tmp_path, "bucket") as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key, "AWS_DEFAULT_REGION": REGION,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        answered(tmp_path, 9, "s3://bucket/answers", "long")
        made = answered(tmp_path, 3, "s3://bucket/answers", "short")
        files = server.files()
        there = {name.removeprefix("bucket/answers/"): files.cat_file(name) for name in files.find("bucket/answers")}
        assert there == contents(made)
        assert json.loads(there["manifest.json"])["kind"] == "generations"


@pytest.mark.parametrize("number", range(4))
def test_a_full_disk_leaves_no_half_of_a_copied_file(tmp_path, monkeypatch, number):
    made = answered(tmp_path, 9, str(tmp_path / "first"))
    flushed, fsync = [], os.fsync

    def full(stream: int) -> None:
        flushed.append(stream)
        if len(flushed) > number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(stream)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        upload(made, str(tmp_path / "copy"))
    assert str(raised.value.filename).startswith(str(tmp_path / "copy"))
    monkeypatch.undo()
    assert contents(tmp_path / "copy").items() <= {**contents(made), **earlier(tmp_path / "copy")}.items()
    assert not (tmp_path / "copy/manifest.json").exists()
    upload(made, str(tmp_path / "copy"))
    assert contents(tmp_path / "copy") == contents(made)


def earlier(folder: Path) -> dict[str, bytes]:
    file = folder / uploading.EARLIER
    return {file.name: file.read_bytes()} if file.is_file() else {}
