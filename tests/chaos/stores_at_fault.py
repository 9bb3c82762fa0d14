"""An S3 server behind the fault proxy, and the trials with it."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from chaos_row import Row
from fault_proxy import Fault, FaultProxy, fault_proxy
from s3_server import REGION, S3Server, free_port, s3_server

from steps.errors import Outage, StepError, UserError
from steps.sources import bounded, downloads, storage
from steps.sources.object_folder import ObjectFolder

BUCKET = "data"
SMALL = 40_000  # bytes of a block in these trials
SIZE = 150_000
FORMS = ("checksum", "plain", "parts")  # stored with a checksum, without one, in parts without one
LIMIT = 2.0  # seconds, in place of bounded.LONGEST and bounded.SILENCE
BREAKS = ("reset", "reset body", "truncate", "garbage")
OUTAGES = ("hang", "trickle", "refused", "503", "500", "reset", "trickle head", "stall", "garbage", "loop", "truncate")


@dataclass
class Store:
    """The server, the proxy before it and a folder for downloads."""

    server: S3Server
    proxy: FaultProxy
    folder: Path
    content: dict[str, bytes]
    environment: dict[str, str]
    """Variables for a connection through the proxy: what a test sets is set back after it."""

    def uri(self, form: str) -> str:
        return f"s3://{BUCKET}/{form}/weights.bin"

    def put(self, key: str, content: bytes) -> None:
        self.server.files().pipe(f"{BUCKET}/{key}", content)

    def fetched(self, uri: str) -> bytes:
        """Fetch one file and read it."""
        place = self.folder / "fetched" / "x"
        shutil.rmtree(place.parent, ignore_errors=True)
        return storage.fetch("pytorch_model_path", uri, place).read_bytes()

    def getting(self, form: str, reads: bool) -> Callable[[], bytes]:
        """Return a call that reads an object or fetches it as a file."""
        return partial(storage.read_bytes if reads else self.fetched, *(["p"] if reads else []), self.uri(form))

    def outcome(self, call: Callable[[], bytes | None], **more: str) -> tuple[bytes | StepError | None, float]:
        """Return what a call returned or raised, and its seconds."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**self.environment, **more}.items():
                patch.setenv(name, value)
            storage.filesystem_of(self.uri("plain"))[0].invalidate_cache()
            began = time.monotonic()
            try:
                told: bytes | StepError | None = call()
            except StepError as error:
                told = error
            return told, time.monotonic() - began


@contextmanager
def store_at_fault(folder: Path) -> Iterator[Store]:
    """Run server and proxy, with an object in each form; the product's limits are shorter meanwhile."""
    content = {form: random.Random(form).randbytes(SIZE) for form in FORMS}
    with s3_server(folder, BUCKET) as server, fault_proxy(server.url) as proxy, pytest.MonkeyPatch.context() as patch:
        named = {"AWS_ENDPOINT_URL": proxy.url, "AWS_ACCESS_KEY_ID": server.access_key, "AWS_DEFAULT_REGION": REGION,
                 "AWS_SECRET_ACCESS_KEY": server.secret_key, "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
        store = Store(server, proxy, folder, content, named)
        _fill(store, patch)
        import s3fs

        patch.setattr(downloads, "BLOCK", SMALL)
        patch.setattr(bounded, "WAITS", (0.1, 0.3))
        patch.setattr(s3fs.S3FileSystem, "read_timeout", 1)
        yield store
        s3fs.S3FileSystem.clear_instance_cache()


def _fill(store: Store, patch: pytest.MonkeyPatch) -> None:
    store.put("checksum/weights.bin", store.content["checksum"])
    patch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    store.put("plain/weights.bin", store.content["plain"])
    large = store.content["parts"] * (6 * 2**20 // SIZE)
    store.content["parts"] = large
    with store.server.files().open(f"{BUCKET}/parts/weights.bin", "wb", block_size=5 * 2**20) as stream:
        stream.write(large)
    patch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION")


def judged(store: Store, form: str, told: bytes | StepError | None, survives: bool) -> str:
    """Return what is wrong with an outcome: other bytes, another error than an outage, or an outage of few faults."""
    if isinstance(told, bytes):
        return "" if told == store.content[form] else f"{len(told)} wrong bytes without an error"
    if not isinstance(told, Outage):
        return f"another error than an outage: {told}"
    return f"an outage after few faults: {told}" if survives else ""


def wrong_bytes(store: Store, trial: int, draw: random.Random) -> str:
    """Bodies are cut, changed or replaced, without an error, for one, two or all requests."""
    form, kind = draw.choice(FORMS), draw.choice(["lie", "flip", "page"])
    times = draw.choice([1, 2, 1_000_000])
    fetching = draw.random() < 0.6
    first = draw.randint(1, 3) if fetching else 1
    methods = () if kind == "page" else ("GET",)
    store.proxy.play(Fault(kind, "weights", methods, first, first + times - 1))
    told, _ = store.outcome(store.getting(form, not fetching))
    played = [asked for asked in store.proxy.seen if asked.fault]
    if played and not any(asked.changed for asked in played):
        return f"{kind} changed nothing"
    if first == 1 and not played:
        return f"{kind} was not played"
    return said(judged(store, form, told, survives=times == 1), form, kind, times, fetching)


def few(*kinds: str) -> Callable[[Store, int, random.Random], str]:
    """Make a trial in which one to five requests, any of them, fail with one of these faults, and the rest passes."""

    def trial(store: Store, trial: int, draw: random.Random) -> str:
        form, kind, times = draw.choice(FORMS[:2]), draw.choice(kinds), draw.randint(1, 5 if trial >= 4 else 2)
        first = draw.randint(1, 3)
        store.proxy.play(Fault(kind, "", (), first, first + times - 1))
        told, _ = store.outcome(lambda: store.fetched(store.uri(form)))
        return said(judged(store, form, told, survives=True), form, kind, times)

    return trial


def outage(store: Store, trial: int, draw: random.Random) -> str:
    """Every request, or every download, fails or hangs: an outage when the limit is over, and few requests."""
    import s3fs

    kind, everywhere = OUTAGES[trial % len(OUTAGES)], draw.random() < 0.5
    where = ("", ()) if everywhere else ("weights", ("GET",))
    store.proxy.play(Fault(kind, *where, seconds=0.3 if "trickle" in kind else 600))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded, "LONGEST", LIMIT)
        patch.setattr(bounded, "SILENCE", LIMIT)
        read = draw.random() < 0.5
        nobody = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"} if kind == "refused" else {}
        told, seconds = store.outcome(store.getting("plain", read), **nobody)
    s3fs.S3FileSystem.clear_instance_cache()  # what hangs keeps a connection
    if isinstance(told, bytes):
        return said("it succeeded", kind, everywhere, read)
    if seconds > 5 * LIMIT + 20:  # a busy machine
        return said(f"it took {seconds:.0f} s", kind, everywhere, read)
    return said("" if isinstance(told, Outage) else f"another error: {told}", kind, everywhere, read)


def stall(store: Store, trial: int, draw: random.Random) -> str:
    """A body stops half-way; the client asks again when its own limit is over."""
    store.proxy.play(Fault("stall", "weights", ("GET",), 1, draw.randint(1, 2), seconds=600))
    told, seconds = store.outcome(lambda: store.fetched(store.uri("plain")))
    return judged(store, "plain", told, survives=True) or ("" if seconds < 60 else f"it took {seconds:.0f} s")


def refused(store: Store, trial: int, draw: random.Random) -> str:
    """The store refuses: at once, with at most three requests and a way out; what is missing is looked for as more."""
    kind, read = draw.choice(["400", "401", "403", "404"]), draw.random() < 0.5
    store.proxy.play(Fault(kind))
    told, _ = store.outcome(store.getting("plain", read))
    if not isinstance(told, UserError):
        return said(f"no UserError: {told!r}", kind, read)
    asked = [one for one in store.proxy.seen if "plain" in one.path]  # a trial before may have left a transfer
    if len(asked) > (8 if kind == "404" else 3):  # a file, a folder, a bucket
        return said(f"{len(asked)} requests", kind, read)
    return said("" if kind in ("400", "404") or "AWS_ACCESS_KEY_ID" in str(told) else f"no secret: {told}", kind, read)


def lost_answer(store: Store, trial: int, draw: random.Random) -> str:
    """The server stores an object and its answer is lost: one object with the right bytes."""
    kind, new = draw.choice(["lost", "500post"]), draw.random() < 0.5
    content, name = draw.randbytes(3000), f"{trial}.bin"
    folder = ObjectFolder("checkpoint_dir", f"s3://{BUCKET}/written/{trial}")
    store.proxy.play(Fault(kind, name, ("PUT",), 1, draw.randint(1, 3)))
    file = store.folder / name
    file.write_bytes(content)
    write = partial(folder.write, name, content) if new else partial(folder.put, file, name)
    told, _ = store.outcome(write)
    found = store.server.files().find(f"{BUCKET}/written/{trial}")
    if isinstance(told, StepError):
        return said(f"an error: {told}", kind, new)
    if len(found) != 1 or store.server.files().cat(found[0]) != content:
        return said(f"{found} with other bytes", kind, new)
    return ""


def replaced(store: Store, trial: int, draw: random.Random) -> str:
    """An object is replaced between two of its parts, once or again and again: never a mix of two."""
    versions = [bytes([65 + number]) * SIZE for number in range(40)]
    key, written = f"moving-{trial}/weights.bin", [0]
    store.put(key, versions[0])

    def swap() -> None:
        written[0] += 1
        store.put(key, versions[min(written[0], 39)])

    often = draw.random() < 0.3
    first = draw.randint(1, 4)
    store.proxy.play(Fault("action", "moving", ("GET",), first, 1_000_000 if often else first, action=swap))
    told, _ = store.outcome(lambda: store.fetched(f"s3://{BUCKET}/{key}"))
    if isinstance(told, bytes):
        return "" if told in versions else said(f"a mix of {sorted(set(told))}", often, first)
    return "" if often and isinstance(told, Outage) else said(f"an error: {told}", often, first)


def said(what: str, *about: object) -> str:
    """Return what did not hold with the case; "" if nothing."""
    return f"{what} ({', '.join(map(str, about))})" if what else ""


ROWS = [
    Row(1, "a store answers with errors for a while", few("503", "500"), "store", short=2, long=40),
    Row(2, "a store is away", outage, "store", short=3, long=40),
    Row(
        3, "connections to a store break", few("reset", "reset body", "truncate", "garbage"), "store", short=2, long=40
    ),
    Row(4, "wrong bytes without an error", wrong_bytes, "store", short=16, long=200),
    Row(5, "a download stands still", stall, "store", short=1, long=20),
    Row(6, "the answer to a write is lost", lost_answer, "store", short=3, long=40),
    Row(7, "an object is replaced meanwhile", replaced, "store", short=4, long=60),
    Row(9, "a store refuses access", refused, "store", short=4, long=20),
]
