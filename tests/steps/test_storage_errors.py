"""Errors of stores and of local paths: which parameter, who must act, with which code."""

import errno
import os
from pathlib import Path

import pytest
from client_errors import like

from steps.errors import Outage, OutOfResources, StepError, UserError
from steps.sources import bounded, storage


def answered(status: int) -> dict:
    return {"response": {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": "X"}}}


ERRORS = {
    "refused": (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), Outage),
    "reset": (ConnectionResetError(errno.ECONNRESET, "reset"), Outage),
    "timeout": (TimeoutError("timed out"), Outage),
    "no route": (OSError(errno.EHOSTUNREACH, "no route"), Outage),
    "busy": (OSError(errno.EBUSY, "SlowDown"), Outage),
    "s3 endpoint": (like("botocore.exceptions", "EndpointConnectionError"), Outage),
    "s3 503": (like("botocore.exceptions", "ClientError", **answered(503)), Outage),
    "s3 400": (like("botocore.exceptions", "ClientError", **answered(400)), UserError),
    "s3 403": (like("botocore.exceptions", "ClientError", **answered(403)), UserError),
    "s3 credentials": (like("botocore.exceptions", "NoCredentialsError"), UserError),
    "gs dns": (like("aiohttp.client_exceptions", "ClientConnectorDNSError"), Outage),
    "gs 503": (like("gcsfs.retry", "HttpError", status=503), Outage),
    "gs credentials": (like("google.auth.exceptions", "DefaultCredentialsError"), UserError),
    "gs transport": (like("google.auth.exceptions", "TransportError"), Outage),
    "az account": (ValueError("unable to connect to account for Must provide either a connection_string or account_name"
                              " with credentials!!"), UserError),
    "az authentication": (like("azure.core.exceptions", "ClientAuthenticationError"), UserError),
    "az request": (like("azure.core.exceptions", "ServiceRequestError"), Outage),
    "az 404": (like("azure.core.exceptions", "ResourceNotFoundError", status_code=404), StepError),
    "s3 bucket": (like("botocore.exceptions", "ParamValidationError"), UserError),
    "hub id": (type("HfUriError", (ValueError,), {"__module__": "huggingface_hub.errors"})("no"), UserError),
    "s3 root": (ValueError("Cannot traverse all of S3"), UserError),
    "hub": (like("httpx", "ConnectError"), Outage),
    "hub gated": (like("huggingface_hub.errors", "GatedRepoError"), UserError),
    "denied": (PermissionError(errno.EACCES, "denied"), UserError),
    "nothing": (FileNotFoundError(errno.ENOENT, "nothing"), UserError),
    "disk": (OSError(errno.ENOSPC, "No space left on device"), OutOfResources),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), OutOfResources),
    "file size": (OSError(errno.EFBIG, "File too large"), OutOfResources),
    "a bug": (KeyError("x"), KeyError),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch):
    monkeypatch.setattr(bounded, "WAITS", (0.0, 0.0))


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("call", ["find", "read", "digest"])
def test_an_error_of_a_store_says_who_must_act(monkeypatch, name, call):
    error, expected = ERRORS[name]

    class Failing:
        def info(self, path: str) -> None:
            raise error

        def open(self, path: str, mode: str) -> None:
            raise error

    monkeypatch.setattr(storage, "filesystem_of", lambda uri: (Failing(), uri))
    calls = {"find": storage.find_files, "read": storage.read_bytes, "digest": storage.digest_of}
    with pytest.raises(expected) as caught:
        calls[call]("train_file_path", "s3://bucket/x")
    if isinstance(caught.value, StepError):
        assert len(caught.value.problems) == 1
        assert "train_file_path" in caught.value.problems[0].where


PLACES = ["s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/name/x", "s3://a.b_c-D/x[1].txt", "gs://a.b_c/x#1",
          "az://$web/x", "hf://datasets/a.b/c_d@refs%2Fpr%2F1/x", "hf://gpt2/config.json", "hf://a/b@v1.0/x",
          "hf://spaces/a/b/x", "s3://bucket/*/[a]?.jsonl"]  # fmt: skip


@pytest.mark.parametrize("uri", PLACES)
def test_a_bucket_that_a_store_can_have_is_let_through(uri):
    assert storage.check_uri("train_file_path", uri) == []


@pytest.mark.parametrize("uri", ["S3://bucket/x", "abfss://c@account.dfs.core.windows.net/x", "gcs://b/x"])
def test_a_scheme_may_be_written_in_capitals_and_as_each_client_calls_it(uri):
    assert storage.check_uri("train_file_path", uri) == []


@pytest.mark.parametrize(
    ("uri", "fix"),
    [("s3a://b/x", "write s3://"), ("http://host/x", "copy the file"), ("wasbs://c@a/x", "write abfss://"),
     ("hdfs://h/x", "copy the file"), ("memory://x", "copy the file")],
)  # fmt: skip
def test_an_unknown_scheme_is_refused_with_those_that_there_are(uri, fix):
    (problem,) = storage.check_uri("train_file_path", uri)
    assert problem.expected == "a path, or one of abfs, abfss, az, gcs, gs, hf, s3"
    assert fix in problem.fix


NO_PLACES = [
    "gs://[x", "gs://[x/a", "s3://[x/a", "s3://a b/x", "s3://b%/x", "s3://*/x", "s3://key:secret@b/x", "gs://ü/x",
    "gs://b*/x", "az://[x/y", "az://a_b/x", "abfs://c@/x", "abfs://@a/x", "abfss://c@a@b/x", "hf://[x",
    "hf://datasets/[x/y", "hf://a b/c", "hf://a/b@/x", "hf://datasets/a/b@[/x", f"s3://{'x' * 300}/y",
]  # fmt: skip


@pytest.mark.parametrize("uri", ["s3://", "s3:///x", "az:///c/x", "hf:///x", "gs://", *NO_PLACES])
def test_a_uri_without_a_bucket_that_a_store_can_have_is_refused(uri):
    (problem,) = storage.check_uri("train_file_path", uri)
    assert problem.code == "URI-E0205"
    assert "secret" not in str(problem)


@pytest.fixture
def odd(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere", "nothing at 'nowhere'"),
        ("dangling", "nothing at 'dangling'"),
        ("loop", "a link that leads to itself"),
        ("loop/x", "a link that leads to itself"),
        ("file/x", "a file where a folder belongs"),
        ("x" * 300, "a path that is too long"),
        ("folder", "a folder where a file belongs"),
        ("pipe", "nothing at 'pipe'"),
        ("/dev/null", "nothing at '/dev/null'"),
        ("s3:/bucket/x", "write s3://bucket/x, with two slashes"),
    ],
)
def test_a_path_that_is_no_file_is_the_users_to_correct(odd, path, words):
    with pytest.raises(UserError) as caught:
        storage.read_bytes("evaluation_config", path)
    assert words in str(caught.value)
    assert caught.value.problems[0].where == "evaluation_config"


def test_an_unreadable_file_is_the_users_to_open(odd, monkeypatch):
    import builtins

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "file")

    monkeypatch.setattr(builtins, "open", denied)
    with pytest.raises(UserError, match="train_file_path: found no access to 'file'"):
        storage.read_bytes("train_file_path", "file")
