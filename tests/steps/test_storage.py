"""URIs: which may be opened, how they are resolved, and complete transfers."""

import os
from pathlib import Path

import pytest

from steps.errors import SecurityRefusal, UserError
from steps.sources import storage

BUCKET = "data"


@pytest.fixture(scope="module")
def s3():
    """An S3 server on this machine, found through the usual environment variables."""
    from moto.server import ThreadedMotoServer

    patch = pytest.MonkeyPatch()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # one made before does not know these credentials
    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.mkdir(BUCKET)
    yield filesystem
    server.stop()
    patch.undo()
    s3fs.S3FileSystem.clear_instance_cache()


def test_missing_credentials_are_the_users_to_give(monkeypatch):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match="no credentials"):
        storage.find_files("train_file_path", "s3://bucket/train.jsonl")
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_whose_client_is_not_installed_says_so():
    with pytest.raises(UserError, match="client package is missing"):
        storage.find_files("train_file_path", "gs://bucket/train.jsonl")


def test_a_folder_in_object_storage_is_listed_digested_and_fetched(s3, tmp_path):
    s3.pipe(f"{BUCKET}/model/config.json", b"{}")
    s3.pipe(f"{BUCKET}/model/deep/weights.bin", b"w" * 100_000)
    s3.pipe(f"{BUCKET}/model/.DS_Store", b"litter")
    uri = f"s3://{BUCKET}/model"
    assert set(storage.find_files("p", uri)) == {"config.json", "deep/weights.bin"}
    before = storage.digest_of("p", uri)
    folder = storage.fetch("p", uri, tmp_path / "here")
    assert (folder / "deep/weights.bin").read_bytes() == b"w" * 100_000
    assert not (folder / ".DS_Store").exists()
    s3.pipe(f"{BUCKET}/model/config.json", b"[]")
    s3.invalidate_cache()
    assert storage.digest_of("p", uri) != before


def test_one_file_in_object_storage_is_fetched_under_the_wanted_name(s3, tmp_path):
    s3.pipe(f"{BUCKET}/rows.jsonl", b"{}\n")
    assert storage.fetch("p", f"s3://{BUCKET}/rows.jsonl", tmp_path / "train.jsonl").read_bytes() == b"{}\n"


def test_bytes_that_went_missing_on_the_way_are_noticed(s3, tmp_path, monkeypatch):
    from steps.errors import Outage

    s3.pipe(f"{BUCKET}/cut.jsonl", b"0123456789")
    real = storage._filesystem

    def lying(uri):
        filesystem, path = real(uri)
        monkeypatch.setattr(filesystem, "get_file", lambda _, place: Path(place).write_bytes(b"01234"), raising=False)
        return filesystem, path

    monkeypatch.setattr(storage, "_filesystem", lying)
    with pytest.raises(Outage, match="5 of 10 bytes"):
        storage.fetch("p", f"s3://{BUCKET}/cut.jsonl", tmp_path / "x")


def test_a_missing_object_is_the_users_to_mend(s3):
    with pytest.raises(UserError, match="nothing at"):
        storage.find_files("train_file_path", f"s3://{BUCKET}/nowhere.jsonl")


def test_a_missing_path_names_the_nearest_folder_that_exists(tmp_path):
    with pytest.raises(UserError, match=f"the nearest folder that exists is {tmp_path}"):
        storage.find_files("train_file_path", str(tmp_path / "no" / "such" / "file.jsonl"))


@pytest.mark.parametrize("uri", ["http://169.254.169.254/latest", "https://host/x", "ftp://host/x", "memory://x"])
def test_schemes_that_reach_other_hosts_are_refused(uri):
    assert storage.check_uri("train_file_path", uri)
    with pytest.raises(SecurityRefusal):
        storage.find_files("train_file_path", uri)


@pytest.mark.parametrize("uri", ["a\\b", "a'b", "a\nb", "a\x00b"])
def test_characters_that_break_quoting_are_refused(uri):
    (problem,) = storage.check_uri("train_file_path", uri)
    assert problem.where == "train_file_path"


def test_a_local_digest_is_of_the_content_not_of_its_place_or_date(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("same")
    assert storage.digest_of("p", str(tmp_path / "a")) == storage.digest_of("p", f"file://{tmp_path}/b")
    (tmp_path / "b" / "x").write_text("else")
    assert storage.digest_of("p", str(tmp_path / "a")) != storage.digest_of("p", str(tmp_path / "b"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_the_users_to_mend(tmp_path):
    (tmp_path / "x").write_text("rows")
    (tmp_path / "x").chmod(0)
    with pytest.raises(UserError, match="no access"):
        storage.digest_of("train_file_path", str(tmp_path / "x"))


def test_other_content_on_the_hub_is_another_source(monkeypatch):
    class Hub:
        """Tells of a file what huggingface_hub 1.x does: its blob, and neither etag nor version."""

        blob = "a1"

        def isfile(self, path):
            return True

        def info(self, path):
            return {"name": path, "type": "file", "size": 3, "blob_id": self.blob, "lfs": None, "security": None}

    hub = Hub()
    monkeypatch.setattr(storage, "_filesystem", lambda uri: (hub, uri))
    before = storage.digest_of("p", "hf://owner/name/adapter.safetensors")
    assert before == storage.digest_of("p", "hf://owner/name/adapter.safetensors")
    hub.blob = "b2"
    assert before != storage.digest_of("p", "hf://owner/name/adapter.safetensors")
