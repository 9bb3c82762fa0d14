"""Download objects whole: each of one version, with the size and the digest that its store lists.

A client can return half of a body, or one with a flipped bit, without an error; and an object can be replaced while it
is read. What is wrong is fetched once more, and what is wrong again is an outage.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from steps.sources import bounded

AT_ONCE = 8  # transfers
EXPIRED = "FileExpired"  # what s3fs raises for an object that was replaced
BLOCK = 4 * 1024 * 1024  # of an object of S3: all transfers bring one within bounded.SILENCE at 0.6 MB/s
MD5 = re.compile(r"[0-9a-f]{32}")
BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
PARTS = re.compile(r"[0-9a-f]{32}-\d+")
MOST_PARTS = 200  # of an object whose parts have several sizes; each costs a request


class WrongBytes(OSError):
    """An object that arrived with other bytes than its store lists, again and again."""


class Replaced(OSError):
    """An object that is another one than the one that was listed."""


@dataclass
class Wanted:
    """An object, what its store lists about it, and the file for it."""

    path: str
    info: dict[str, Any]
    """As `storage.find_files` returns it."""
    place: Path
    draft: Path = field(init=False)
    """The file while it is incomplete: a transfer that was given up may still write to its own."""
    wrong: str = ""

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Take another draft."""
        self.draft = self.place.with_name(f".{secrets.token_hex(6)}.part")

    def moved(self) -> int:
        """Return the bytes so far, of a file that may have its full length from the beginning."""
        with suppress(OSError):
            there = (self.draft if self.draft.exists() else self.place).stat()
            return there.st_size + there.st_blocks * 512
        return 0


def bring(filesystem: Any, every: list[Wanted]) -> None:
    """Download objects, several at a time.

    Raises Replaced for one that was replaced meanwhile, OSError for one that arrived twice with wrong bytes,
    bounded.NoAnswer if nothing arrives any more, and what the client raises.
    """
    try:
        _bring(filesystem, every)
        if wrong := [one for one in every if one.wrong]:
            for one in wrong:
                one.draft.unlink(missing_ok=True)
                one.renew()
            _bring(filesystem, wrong)
            if still := next((one for one in wrong if one.wrong), None):
                raise WrongBytes(f"{still.path} arrived twice with {still.wrong}")
    finally:
        for one in every:
            with suppress(OSError):
                one.draft.unlink(missing_ok=True)


def read(filesystem: Any, path: str, limit: int = -1) -> bytes:
    """Return the first `limit` bytes of an object, or all of it with -1. Raises as `bring`."""
    wrong = ""
    for _ in range(2):
        content, wrong = bounded.ended(partial(_read, filesystem, path, limit))
        if not wrong:
            return content
        with suppress(AttributeError):
            filesystem.invalidate_cache()
    raise WrongBytes(f"{path} arrived twice with {wrong}")


def listed(info: dict[str, Any]) -> dict[str, Any]:
    """Return what a store lists of an object under the same names for every store.

    These are the size, an identity (etag, version or commit; empty for local files), the MD5 digest, S3's etag and the
    Hub's digest.
    """
    named = ("VersionId", "ETag", "etag", "sha256", "blob_id")  # the last is the Hub's
    identity = next((info[name] for name in named if info.get(name)), "")
    etag = str(info.get("ETag") or "")
    plain = etag.strip('"').lower()
    return {
        "size": info["size"],
        "identity": str(identity).strip('"'),
        "md5": plain if MD5.fullmatch(plain) else _listed_md5(info),
        "etag": etag,
        "blob": _listed_blob(info),
    }


def _listed_blob(info: dict[str, Any]) -> str:
    """Return the digest that the Hub lists: sha256 of a large file, git's of others; empty if it lists none."""
    found = str(getattr(info.get("lfs"), "sha256", None) or info.get("blob_id") or "")
    return found if BLOB.fullmatch(found) else ""


def is_blob(digest: str, size: int, blocks: Iterator[bytes]) -> bool:
    """Return whether a digest that the Hub lists is that of a content."""
    made = hashlib.sha256() if len(digest) == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for block in blocks:
        made.update(block)
    return made.hexdigest() == digest


def _listed_md5(info: dict[str, Any]) -> str:
    """Return the MD5 digest that Google's or Azure's store lists for an object, as hex; empty if it lists none."""
    found = info.get("md5Hash") or info.get("content_md5") or (info.get("content_settings") or {}).get("content_md5")
    if not found:
        return ""
    return (base64.b64decode(found) if isinstance(found, str) else bytes(found)).hex()


def _read(filesystem: Any, path: str, limit: int) -> tuple[bytes, str]:
    try:
        with filesystem.open(path, "rb") as stream:
            content = stream.read(limit)
            info = listed(getattr(stream, "details", None) or filesystem.info(path))
    except Exception as error:
        if wrong := _wrong_bytes(error):
            return b"", wrong
        raise
    refuse_other_machine(filesystem, path, info)
    size = info["size"]
    due = size if limit < 0 or size is None else min(limit, size)
    if due is not None and len(content) != due:
        return content, f"{len(content)} of {due} bytes"
    if len(content) != size:
        return content, ""
    return content, _difference(filesystem, path, info, lambda: iter([content]))


def _bring(filesystem: Any, every: list[Wanted]) -> None:
    for one in every:
        one.wrong = ""
    hashed = [0]

    def moved() -> int:
        return hashed[0] + sum(one.moved() for one in every)

    def check(one: Wanted) -> None:
        def blocks() -> Iterator[bytes]:
            with open(one.draft, "rb") as stream:
                while block := stream.read(BLOCK):
                    hashed[0] += len(block)
                    yield block

        if one.wrong:
            return  # and perhaps there is no file
        size = one.draft.stat().st_size
        right = size == one.info["size"]
        one.wrong = (
            _difference(filesystem, one.path, one.info, blocks) if right else f"{size} of {one.info['size']} bytes"
        )
        if not one.wrong:
            os.replace(one.draft, one.place)

    bounded.all_of((call for one in every for call in _transfers(filesystem, one)), AT_ONCE, moved)
    bounded.all_of((partial(check, one) for one in every), AT_ONCE, moved)


def _transfers(filesystem: Any, one: Wanted) -> Iterator[Callable[[], None]]:
    one.place.parent.mkdir(parents=True, exist_ok=True)
    refuse_other_machine(filesystem, one.path, one.info)
    size = one.info["size"]
    if not (one.info.get("etag") and hasattr(filesystem, "call_s3") and size):
        yield partial(_whole, filesystem, one)
        return
    one.draft.touch()
    for start in range(0, size, BLOCK):
        yield partial(_block, filesystem, one, start, min(start + BLOCK, size))


def refuse_other_machine(filesystem: Any, path: str, info: dict[str, Any]) -> None:
    """Raise OSError for an answer without an etag: S3 gives one, but not a network where one has to log in first."""
    if hasattr(filesystem, "call_s3") and info["size"] and not info["etag"]:
        raise OSError(f"the answer for {path} has no etag, as if it were not of an object store")


def _whole(filesystem: Any, one: Wanted) -> None:
    try:
        filesystem.get_file(one.path, str(one.draft))
    except Exception as error:
        one.wrong = _wrong_bytes(error)
        if not one.wrong:
            raise


def _block(filesystem: Any, one: Wanted, start: int, end: int) -> None:
    """Fetch a part of an object of S3 on the condition that it is still the object that was listed."""
    with filesystem.open(one.path, "rb", cache_type="none") as stream:
        if stream.details.get("ETag") != one.info["etag"]:
            raise Replaced(errno.EBUSY, f"{one.path} was replaced while it was downloaded")
        stream.seek(start)
        try:
            content = stream.read(end - start)
        except Exception as error:
            if type(error).__name__ == EXPIRED:
                raise Replaced(errno.EBUSY, f"{one.path} was replaced while it was downloaded") from error
            one.wrong = _wrong_bytes(error)
            if not one.wrong:
                raise
            return
    with open(one.draft, "r+b") as file:
        file.seek(start)
        file.write(content)
    if len(content) != end - start:
        one.wrong = f"{len(content)} of {end - start} bytes of a part"


def _wrong_bytes(error: Exception) -> str:
    """Return what a client says who compared bytes by itself; empty for another error."""
    if type(error).__name__ == EXPIRED:
        return "another object than the one that was listed"
    return f"other bytes ({error})" if "Checksum" in type(error).__name__ else ""


def _difference(filesystem: Any, path: str, info: dict[str, Any], blocks: Callable[[], Iterator[bytes]]) -> str:
    """Compare content with the digest that the store lists; return how they differ, empty if they agree.

    S3's etag of an object that was uploaded in one part is its MD5 digest, and otherwise made of those of its parts;
    but not where a key of its own encrypts it. Stores that offer nothing are taken at their word.
    """
    if info["blob"]:
        same = is_blob(info["blob"], info["size"], blocks())
        return "" if same else f"another digest than {info['blob']}, which the Hub lists"
    expected = info["md5"] or info["etag"].strip('"')
    if info["md5"]:
        digest = hashlib.md5(usedforsecurity=False)
        for block in blocks():
            digest.update(block)
        found = digest.hexdigest()
    elif PARTS.fullmatch(expected) and hasattr(filesystem, "call_s3"):
        found = _digest_of_parts(filesystem, path, expected, blocks)
    else:
        return ""
    if found == expected or (info["etag"] and _encrypted_with_key(filesystem, path)):
        return ""
    return f"the MD5 digest {found} where the store lists {expected}"


def _digest_of_parts(filesystem: Any, path: str, etag: str, blocks: Callable[[], Iterator[bytes]]) -> str:
    """Return the digest of an object that was uploaded in parts; `etag` itself if the store tells no sizes of them."""
    bucket, _, key = path.partition("/")
    count = int(etag.rpartition("-")[2])

    def size_of(part: int) -> int:
        head = filesystem.call_s3("head_object", Bucket=bucket, Key=key, PartNumber=part)
        return int(head["ContentLength"]) if head.get("PartsCount") == count else 0

    try:
        first = size_of(1)
    except OSError as error:  # a stand-in that refuses the number of a part
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
        first = 0
    if not first:
        return etag
    found = _of_parts(blocks(), [first] * (count - 1))
    if found != etag and count > MOST_PARTS:
        return etag  # whether its parts have one size is not worth so many requests
    return found if found == etag else _of_parts(blocks(), [size_of(part) for part in range(1, count)])


def _of_parts(blocks: Iterator[bytes], sizes: list[int]) -> str:
    """Return the etag of content whose parts have these sizes; the rest is the last part."""
    digests, digest, left = b"", hashlib.md5(usedforsecurity=False), list(sizes)
    for block in blocks:
        while left and len(block) >= left[0]:
            digest.update(block[: left[0]])
            block = block[left.pop(0) :]
            digests += digest.digest()
            digest = hashlib.md5(usedforsecurity=False)
        if left:
            left[0] -= len(block)
        digest.update(block)
    digests += digest.digest()
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(sizes) + 1}"


def _encrypted_with_key(filesystem: Any, path: str) -> bool:
    """Return whether S3 encrypts an object with a key of its own, so that its etag is not a digest of the content."""
    bucket, _, key = path.partition("/")
    head = filesystem.call_s3("head_object", Bucket=bucket, Key=key)
    return bool(head.get("SSECustomerAlgorithm")) or str(head.get("ServerSideEncryption", "")).startswith("aws:kms")
