"""URIs: which may be opened, how they are resolved, and complete transfers."""

import hashlib
import os
import sys
from pathlib import Path

import pytest
from fault_proxy import Fault, fault_proxy

from steps.errors import Outage, SecurityRefusal, UserError
from steps.sources import downloads, storage

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

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.makedirs(BUCKET, exist_ok=True)  # a worker may come to this module twice
    yield filesystem
    server.stop()
    patch.undo()


def test_missing_credentials_are_the_users_to_give(monkeypatch):
    without_credentials(monkeypatch)
    with pytest.raises(UserError, match="no credentials"):
        storage.find_files("train_file_path", "s3://bucket/train.jsonl")


def test_credentials_that_come_later_are_used_and_those_that_go_are_not(s3, tmp_path, monkeypatch):
    s3.pipe(f"{BUCKET}/late.txt", b"1")
    uri = f"s3://{BUCKET}/late.txt"
    for _ in range(2):
        with monkeypatch.context() as patched:
            without_credentials(patched)
            with pytest.raises(UserError, match="no credentials"):
                storage.find_files("train_file_path", uri)
        assert list(storage.find_files("train_file_path", uri)) == [""]
    without_credentials(monkeypatch)
    given = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(given))
    with pytest.raises(UserError, match="no credentials"):
        storage.find_files("train_file_path", uri)
    given.write_text("[default]\naws_access_key_id = test\naws_secret_access_key = test\n")
    assert list(storage.find_files("train_file_path", uri)) == [""]


def without_credentials(patch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        patch.delenv(name, raising=False)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_CONFIG_FILE", "/nowhere")
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")


def test_a_store_whose_client_is_not_installed_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
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


def test_a_missing_object_is_the_users_to_correct(s3):
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


@pytest.mark.parametrize("uri", ["a\\b", "C:\\data\\train.jsonl", "a\nb", "a\x00b"])
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


def test_a_digest_tells_which_file_has_which_content(tmp_path):
    for name, first, second in (("a", "one", "two"), ("b", "two", "one"), ("c", "one", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(first)
        (tmp_path / name / ("y" if name != "c" else "z")).write_text(second)
    assert len({storage.digest_of("p", str(tmp_path / name)) for name in "abc"}) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_the_users_to_correct(tmp_path):
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
    monkeypatch.setattr(storage, "filesystem_of", lambda uri: (hub, uri))
    before = storage.digest_of("p", "hf://owner/name/adapter.safetensors")
    assert before == storage.digest_of("p", "hf://owner/name/adapter.safetensors")
    hub.blob = "b2"
    assert before != storage.digest_of("p", "hf://owner/name/adapter.safetensors")


@pytest.fixture
def proxy(s3, monkeypatch):
    """A proxy before the server, which the next connection finds."""
    with fault_proxy(os.environ["AWS_ENDPOINT_URL"]) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        yield made


@pytest.fixture
def plain(s3, monkeypatch):
    """Stores objects without a checksum."""
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    yield type(s3)(skip_instance_cache=True)
    type(s3).clear_instance_cache()


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("fault", ["flip", "lie"])
def test_wrong_bytes_on_the_way_are_fetched_again(plain, proxy, folder, fault, tmp_path):
    plain.pipe(f"{BUCKET}/once/rows.jsonl", b"r" * 1000)
    proxy.play(Fault(fault, "rows", ("GET",), 1, 1))
    uri = f"s3://{BUCKET}/once" if folder else f"s3://{BUCKET}/once/rows.jsonl"
    fetched = storage.fetch("train_file_path", uri, tmp_path / "x")
    file = fetched / "rows.jsonl" if folder else fetched
    assert file.read_bytes() == b"r" * 1000
    assert [one.name for one in file.parent.iterdir()] == [file.name]
    assert any(asked.changed for asked in proxy.seen)


@pytest.mark.parametrize(
    ("fault", "said"),
    [("flip", "the MD5 digest [0-9a-f]{32} where the store lists"), ("lie", "500 of 1000 bytes")],
)
def test_wrong_bytes_that_arrive_every_time_end_in_an_outage(plain, proxy, fault, said, tmp_path):
    plain.pipe(f"{BUCKET}/always/rows.jsonl", b"r" * 1000)
    proxy.play(Fault(fault, "rows", ("GET",)))
    uri = f"s3://{BUCKET}/always/rows.jsonl"
    with pytest.raises(Outage, match=f"arrived twice with {said}"):
        storage.fetch("p", uri, tmp_path / "x" / "rows")
    with pytest.raises(Outage, match=f"arrived twice with {said}"):
        storage.read_bytes("p", uri)
    assert list((tmp_path / "x").iterdir()) == []


@pytest.mark.parametrize("encrypted", [{"ServerSideEncryption": "aws:kms"}, {"SSECustomerAlgorithm": "AES256"}, {}])
@pytest.mark.parametrize("etag", ["0" * 32, f"{'0' * 32}-2"])
def test_the_etag_of_an_object_with_a_key_of_its_own_is_no_digest(encrypted, etag):
    class Store:
        def call_s3(self, method, PartNumber=0, **where):
            return {"ContentLength": 3, "PartsCount": 2} if PartNumber else encrypted

    info = downloads.listed({"size": 5, "ETag": f'"{etag}"'})
    told = downloads._difference(Store(), "bucket/key", info, lambda: iter([b"hello"]))
    assert bool(told) is not bool(encrypted)


@pytest.mark.parametrize("sizes", [[3], [1, 2], [2, 2], []])
def test_the_etag_of_several_parts_is_made_of_their_digests(sizes):
    content, parts, start = b"hello", [], 0
    for size in sizes:
        parts.append(content[start : start + size])
        start += size
    parts.append(content[start:])
    expected = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()

    class Store:
        def call_s3(self, method, PartNumber=0, **where):
            return {"ContentLength": len(parts[PartNumber - 1]), "PartsCount": len(parts)} if PartNumber else {}

    for count, flipped in ((1, False), (5, False), (1, True)):
        blocks = [content[at : at + count] for at in range(0, 5, count)]
        if flipped:
            blocks[2] = b"L"
        info = downloads.listed({"size": 5, "ETag": f'"{expected}-{len(parts)}"'})
        assert bool(downloads._difference(Store(), "bucket/key", info, lambda: iter(blocks))) is flipped  # noqa: B023


def test_an_object_of_several_parts_is_fetched_whole(s3, tmp_path):
    parts = b"p" * (11 * 2**20)
    with s3.open(f"{BUCKET}/parts/weights.bin", "wb", block_size=5 * 2**20) as stream:
        stream.write(parts)
    assert "-" in s3.info(f"{BUCKET}/parts/weights.bin")["ETag"]
    assert (storage.fetch("p", f"s3://{BUCKET}/parts", tmp_path / "x") / "weights.bin").read_bytes() == parts


@pytest.mark.parametrize(
    "listed",
    [{"md5Hash": "XUFAKrxLKna5cZ2REBfFkg=="}, {"content_md5": bytes.fromhex("5d41402abc4b2a76b9719d911017c592")},
     {"content_settings": {"content_md5": bytearray.fromhex("5d41402abc4b2a76b9719d911017c592")}},
     {"ETag": '"5d41402abc4b2a76b9719d911017c592"'}],
)  # fmt: skip
def test_the_digest_is_read_as_each_store_lists_it(listed):
    assert downloads.listed({"size": 5, **listed})["md5"] == "5d41402abc4b2a76b9719d911017c592"  # of "hello"


@pytest.mark.parametrize("listed", [{}, {"ETag": '"5d41402abc4b2a76b9719d911017c592-2"'}, {"etag": "0x8DC"}])
def test_a_store_without_a_digest_says_so(listed):
    assert downloads.listed({"size": 5, **listed})["md5"] == ""


def test_an_object_that_is_replaced_again_and_again_is_an_outage_not_a_wrong_uri():
    """A store answers 412 then, which is no more the user's mistake than an error 503."""
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": "PreconditionFailed"}, "ResponseMetadata": {"HTTPStatusCode": 412}}
    told = downloads.Replaced(16, "weights.bin was replaced while it was downloaded")
    with pytest.raises(Outage, match="was replaced while"), storage.explained("train_file_path", "s3://data/x"):
        raise told from ClientError(answer, "GetObject")


@pytest.mark.parametrize("path", ["~nobody-is-called-so", "~nobody-is-called-so/a", "~\x01", "~ "])
def test_a_home_of_nobody_is_a_name_like_any_other(path):
    assert storage.local_path(path) == Path(path)


def test_the_home_of_the_user_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert storage.local_path("~/a") == storage.local_path("file://~/a") == Path("/somewhere/a")
