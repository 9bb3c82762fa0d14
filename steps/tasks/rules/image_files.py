"""Where the images of a row are, and whether they can be used: files beside the rows, bytes, data URIs.

Nothing is fetched from an address, and no path leaves the folder that the file with the rows is in. Every image is
decoded once, with bounds, because verl would decode it on the GPUs for the first time.
"""

from __future__ import annotations

import base64
import binascii
import re
import stat
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

from steps.tasks import Fault, as_found, kind_of

FORMATS = ("PNG", "JPEG", "WEBP")
LARGEST = 32 * 1024 * 1024  # bytes of one image as a file
MOST_PIXELS = 89_478_485  # Pillow's own bound, above which it speaks of a decompression bomb
MOST_STRETCHED = 200  # longer side by shorter side; what prepares images for Qwen's models refuses more
ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")
DATA_URI = re.compile(r"data:[^,;]*;base64,")
BROKEN = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, struct.error,
          zlib.error)  # fmt: skip
KEPT = "as PNG, JPEG or WEBP: its bytes, a data URI, or a path beside the file with the rows"


class Unusable(Exception):
    """An image that cannot be used, as a fault of its row."""

    def __init__(self, fault: Fault):
        super().__init__(fault.found)
        self.fault = fault


def image_bytes(source: Any, path: str, folder: Path | None) -> bytes:
    """Return the bytes of an image of a row, which `path` names in messages.

    A source is bytes, a text (a path below `folder`, or a data URI), or an object with one of them as bytes, path or
    image, as the library datasets writes it. Raises Unusable.
    """
    if type(source) is dict:
        return _of_object(source, path, folder)
    if type(source) is bytes:
        return decoded(source, path)
    if type(source) is not str or not source.strip():
        raise _no_image(as_found(source) if type(source) is not list else kind_of(source), path)
    if uri := DATA_URI.match(source):
        return decoded(_from_base64(source[uri.end() :], path), path)
    return decoded(_from_file(source, path, folder), path)


def _of_object(source: dict[str, Any], path: str, folder: Path | None) -> bytes:
    for name in ("bytes", "image", "path", "url"):
        if (inner := source.get(name)) is not None:
            if name == "bytes" and type(inner) is str:  # JSON has no bytes
                uri = DATA_URI.match(inner)
                return decoded(_from_base64(inner[uri.end() if uri else 0 :], f"{path}.bytes"), f"{path}.bytes")
            return image_bytes(inner, f"{path}.{name}", folder)
    raise _no_image(f"an object with {', '.join(map(str, source))[:80] or 'no key'}", path)


def _no_image(found: str, path: str) -> Unusable:
    return Unusable(Fault("DATA-E1549", path, found, "an image", f"write it {KEPT}"))


def _from_base64(text: str, path: str) -> bytes:
    if len(text) > LARGEST * 4 // 3 + 4:
        raise _too_large(path, len(text) * 3 // 4)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unusable(Fault("DATA-E1550", path, f"text that is not base64 ({error})"[:120], "the bytes of an image "
                             "in base64", "encode the image again")) from None  # fmt: skip


def _from_file(name: str, path: str, folder: Path | None) -> bytes:
    """Read a file below the folder of the rows. Raises Unusable for every other place, and for what is no file."""
    inside = "a path inside the folder of the file with the rows"
    if ADDRESS.match(name):
        raise Unusable(Fault("DATA-E1540", path, as_found(name), inside, "download the image, and name its file or "
                             "store its bytes: addresses are never fetched"))  # fmt: skip
    if folder is None:
        raise Unusable(Fault("DATA-E1540", path, as_found(name), "the bytes of the image, as the file with the rows "
                             "is fetched alone", "store the images in the rows (parquet with bytes, or data URIs)")
                       )  # fmt: skip
    root = folder.resolve()
    try:
        file = (root / name).resolve()
        if Path(name).is_absolute() or not file.is_relative_to(root):
            raise Unusable(Fault("DATA-E1540", path, f"{as_found(name)}, which is outside", inside,
                                 "copy the image beside the rows, and write its relative path"))  # fmt: skip
        about = file.stat()
        if not stat.S_ISREG(about.st_mode):
            raise Unusable(Fault("DATA-E1540", path, f"{as_found(name)}, which is no file", inside, "name a file"))
        if about.st_size > LARGEST:
            raise _too_large(path, about.st_size)
        return file.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # no such file, no permission, U+0000, links in a circle
        said = getattr(error, "strerror", None) or str(error)
        raise Unusable(Fault("DATA-E1540", path, f"{as_found(name)}: {said}"[:160], inside,
                             "correct the path, or add the file")) from None  # fmt: skip


def decoded(data: bytes, path: str) -> bytes:
    """Return the bytes of an image after decoding it once. Raises Unusable if that is not possible within bounds."""
    from PIL import Image, UnidentifiedImageError

    if len(data) > LARGEST:
        raise _too_large(path, len(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the same bound is an error below
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                _refuse_shape(image.size, path)
                image.load()
    except UnidentifiedImageError:
        raise Unusable(Fault("DATA-E1539", path, f"{len(data):,} bytes that start with {data[:8]!r}",
                             f"an image in one of the formats {', '.join(FORMATS)}",
                             "convert the image, or remove the row")) from None  # fmt: skip
    except Image.DecompressionBombError:
        raise Unusable(_too_many_pixels(path, f"more than {2 * MOST_PIXELS:,} pixels")) from None
    except BROKEN as error:
        said = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise Unusable(Fault("DATA-E1539", path, f"{len(data):,} bytes that cannot be decoded ({said})",
                             "a complete image", "upload the image again; it is truncated or damaged")
                       ) from None  # fmt: skip
    return data


def _refuse_shape(size: tuple[int, int], path: str) -> None:
    width, height = size
    if width * height > MOST_PIXELS:
        raise Unusable(_too_many_pixels(path, f"{width:,} × {height:,} pixels"))
    if max(size) > MOST_STRETCHED * min(size):
        raise Unusable(Fault("DATA-E1548", path, f"an image of {width} × {height} pixels",
                             f"a longer side of at most {MOST_STRETCHED} times the shorter one",
                             "cut it into parts, or remove the row"))  # fmt: skip


def _too_many_pixels(path: str, found: str) -> Fault:
    return Fault("DATA-E1547", path, found, f"at most {MOST_PIXELS:,} pixels", "make the image smaller")


def _too_large(path: str, size: int) -> Unusable:
    return Unusable(Fault("DATA-E1546", path, f"an image of {size:,} bytes", f"at most {LARGEST:,} bytes",
                          "compress the image, or make it smaller"))  # fmt: skip
