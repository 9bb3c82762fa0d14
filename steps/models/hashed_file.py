"""A file that is hashed while it is written, on a second thread."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

BLOCK = 256 * 1024  # larger blocks leave the CPU cache before they are hashed and written
BUFFERS = 4  # one is being filled, the others wait to be written


class HashedFile:
    """A file whose blocks are written and hashed by a second thread while the caller computes the next ones."""

    def __init__(self, path: Path):
        self.stream = open(path, "wb", buffering=0)  # noqa: SIM115, closed by __exit__
        self.hash = hashlib.sha256()
        self.writer = ThreadPoolExecutor(1)
        self.pending: deque[Future[None]] = deque()
        # Buffers are reused: page faults of newly allocated ones would take as long as writing.
        self.free: SimpleQueue[bytearray] = SimpleQueue()
        for _ in range(BUFFERS):
            self.free.put(bytearray(BLOCK))

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.shutdown(cancel_futures=error is not None)
        self.stream.close()
        if error is None:
            self._raise_failures()

    def fill(self, length: int, put: Callable[[memoryview], None]) -> None:
        """Let `put` write `length` bytes into a buffer, and append them to the file."""
        self._raise_failures()
        buffer = self.free.get()
        if length > len(buffer):  # a row that is larger than a block
            buffer = bytearray(length)
        put(memoryview(buffer)[:length])
        self.pending.append(self.writer.submit(self._append, buffer, length))

    def append(self, content: bytes) -> None:
        """Append bytes from memory."""
        for start in range(0, len(content), BLOCK):
            part = content[start : start + BLOCK]

            def put(view: memoryview, part: bytes = part) -> None:
                view[:] = part

            self.fill(len(part), put)

    def _append(self, buffer: bytearray, length: int) -> None:
        try:
            rest = memoryview(buffer)[:length]
            self.hash.update(rest)
            while rest:
                rest = rest[self.stream.write(rest) :]
        finally:
            self.free.put(buffer)

    def _raise_failures(self) -> None:
        while self.pending and self.pending[0].done():
            self.pending.popleft().result()


def copy_bytes(file: Path, start: int, stop: int, out: HashedFile) -> None:
    """Append bytes `start` to `stop` of `file`."""
    for begin in range(start, stop, BLOCK):
        out.fill(min(BLOCK, stop - begin), partial(read_into, file, begin))


def read_into(file: Path, start: int, view: memoryview) -> None:
    """Fill `view` with the bytes of `file` from `start`. Raises OSError when the file is too short."""
    with open(file, "rb", buffering=0) as stream:
        stream.seek(start)
        while view:
            count = stream.readinto(view)
            if not count:
                raise OSError(f"{file} was truncated while it was read")
            view = view[count:]
