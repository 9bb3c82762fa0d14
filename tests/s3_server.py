"""An S3 server in a process of its own, which refuses everybody without its key."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """Where the server is, and the one key that it takes."""

    url: str
    access_key: str
    secret_key: str

    def files(self) -> Any:
        """Return its file system (fsspec)."""
        import s3fs

        return s3fs.S3FileSystem(
            key=self.access_key,
            secret=self.secret_key,
            endpoint_url=self.url,
            skip_instance_cache=True,
            use_listings_cache=False,
        )


@contextmanager
def s3_server(folder: Path, *buckets: str) -> Iterator[S3Server]:
    """Start the server, make the buckets, and end it again; its log is in `folder`."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", url.rpartition(":")[2]]
    with serving(command, f"{url}/moto-api/", folder / "s3.log"):
        access_key, secret_key = _only_key(url)
        server = S3Server(url, access_key, secret_key)
        for bucket in buckets:
            server.files().mkdir(bucket)
        yield server


def _only_key(url: str) -> tuple[str, str]:
    """Make a user who may use S3, and from then on let nobody else in."""
    import botocore.session

    iam = botocore.session.get_session().create_client(
        "iam", endpoint_url=url, region_name=REGION, aws_access_key_id="first", aws_secret_access_key="first"
    )
    iam.create_user(UserName="pipelines")
    made = iam.create_access_key(UserName="pipelines")["AccessKey"]
    allowed = [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]
    policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
    iam.put_user_policy(UserName="pipelines", PolicyName="s3", PolicyDocument=policy)
    plain = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", plain)).read()
    return made["AccessKeyId"], made["SecretAccessKey"]


@contextmanager
def serving(command: list[str], answers: str, log: Path, environment: dict[str, str] | None = None) -> Iterator[None]:
    """Run a server until the end of the block, which begins when the address `answers`."""
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment or dict(os.environ))
    try:
        deadline = time.monotonic() + 300
        while not _answers(answers):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(timeout=300)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
