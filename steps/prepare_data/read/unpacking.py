"""Unpack gzip files in pieces, up to a limit.

zlib is used instead of gzip.open because it tells exactly where valid data end.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from steps.errors import OutOfResources, Problem, UserError
from steps.exhausted import exhausted

MAGIC = b"\x1f\x8b"
PIECE = 1024 * 1024
FREE = 64 * 1024 * 1024  # bytes; below it the ratio is not checked, as equal rows compress a thousandfold
GZIP = 31  # zlib's window bits for a gzip header and checksum


def unpack(file: Path, name: str, target: Path, max_expand: int) -> Path:
    """Write the content of a gzip file to `target`; `name` is the file as the user wrote it.

    Raises UserError if the file is truncated, damaged or expands to more than `max_expand` times its size,
    OutOfResources if the disk is full.
    """
    size = file.stat().st_size
    limit = max(FREE, size * max_expand)
    written = 0
    try:
        with open(target, "wb") as out:
            for piece in _pieces(file, name):
                written += len(piece)
                if written > limit:
                    raise UserError(_too_large(name, size, max_expand))
                out.write(piece)
    except OSError as error:
        if not (full := exhausted(error, name, target)):
            raise
        found = f"{full.problems[0].found}, after {written:,} bytes"
        raise OutOfResources(
            Problem("DATA-E0120", name, found, "space for the unpacked file",
                    f"{full.problems[0].fix}; or pass smaller files")
        ) from error  # fmt: skip
    return target


def _too_large(name: str, size: int, max_expand: int) -> Problem:
    """Return the problem of a small file that expands too much for disk or memory."""
    limit = max(FREE, size * max_expand) >> 20
    return Problem("DATA-E0116", name, f"{size:,} bytes that unpack to more than {limit} MiB",
                   f"at most {max_expand} times its size, max_expand",
                   f"raise max_expand above {max_expand} if you trust the file")  # fmt: skip


def _pieces(file: Path, name: str) -> Iterator[bytes]:
    """Yield the unpacked bytes of every member of a gzip file; pigz and bgzip write several."""
    good = 0
    with open(file, "rb") as stream:
        packed = stream.read(PIECE)
        while packed:
            member = zlib.decompressobj(GZIP)
            while not member.eof:
                try:
                    piece = member.decompress(packed, PIECE)
                except zlib.error as error:
                    raise UserError(_damaged(name, good, str(error))) from None
                good += len(piece)
                yield piece
                packed = member.unconsumed_tail or (b"" if member.eof else stream.read(PIECE))
                if not packed and not member.eof and not piece:
                    raise UserError(_cut(name, good, file.stat().st_size))
            packed = _next_member(member.unused_data or stream.read(PIECE), stream.read, name, good)


def _next_member(rest: bytes, read: object, name: str, good: int) -> bytes:
    """Return the bytes at which the next member starts; tape drives write zeros between members."""
    while rest and not rest.strip(b"\0"):
        rest = read(PIECE)  # type: ignore[operator]
    rest = rest.lstrip(b"\0")
    if len(rest) == 1:
        rest += read(PIECE)  # type: ignore[operator]
    if rest and not rest.startswith(MAGIC):
        raise UserError(_damaged(name, good, "bytes after the end that are not gzip"))
    return rest


def _cut(name: str, good: int, size: int) -> Problem:
    return Problem("DATA-E0114", name, f"a gzip file that ends after {size:,} bytes; {good:,} bytes could be unpacked",
                   "a complete file", "upload the file again; it is truncated")  # fmt: skip


def _damaged(name: str, good: int, said: str) -> Problem:
    return Problem("DATA-E0115", name, f"a damaged gzip file ({said[:60]}); {good:,} bytes could be unpacked",
                   "an intact file", "upload the file again; it is damaged")  # fmt: skip
