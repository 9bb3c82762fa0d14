"""Keys on elliptic curves, in files. No message has anything of a key's content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError
from steps.params.registration import SIGNING_KEY

CURVES = ("secp256r1", "secp384r1", "secp521r1")  # those of the library model-signing
MOST_BYTES = 64 * 1024
MAKE = "make one with `openssl ecparam -name prime256v1 -genkey -noout -out key.pem`"
PRIVATE = "a private key on the curve P-256, P-384 or P-521, as PEM without a password"
PUBLIC = "the public key of the signature, as PEM"
EXTRACT = "write it with `openssl ec -in key.pem -pubout -out public.pem`"


@dataclass(frozen=True)
class Key:
    """A key that was read."""

    file: Path
    fingerprint: str
    """sha256 of the public key's PEM; the same for both keys of a pair, and the hint in a signature."""


def signing_key() -> Key | None:
    """Return the key that FINETUNE_SIGNING_KEY names; None if the variable is empty or not set.

    Raises UserError for anything but an elliptic curve's private key without a password.
    """
    named = os.environ.get(SIGNING_KEY, "").strip()
    return read_private(SIGNING_KEY, Path(named)) if named else None


def read_private(where: str, file: Path) -> Key:
    """Read a private key. Raises UserError."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _content(where, file, "SIGN-E0101", PRIVATE, "correct the path, or the Kubernetes secret that holds it")
    if b"PUBLIC KEY" in content and b"PRIVATE KEY" not in content:
        raise _refused("SIGN-E0102", where, f"a public key in {file}", PRIVATE, "name the private key of the pair")
    try:
        key = load_pem_private_key(content, None)
    except TypeError:
        raise _refused("SIGN-E0103", where, f"a private key with a password in {file}", PRIVATE,
                       "store it without one: `openssl ec -in key.pem -out plain.pem`") from None  # fmt: skip
    except Exception as error:  # of many classes, some of them without a common one
        raise _refused("SIGN-E0104", where, f"{file}, which is no private key ({type(error).__name__})", PRIVATE,
                       MAKE) from None  # fmt: skip
    curve = getattr(getattr(key, "curve", None), "name", type(key).__name__.strip("_").removesuffix("PrivateKey"))
    if curve not in CURVES:
        raise _refused("SIGN-E0105", where, f"a key of the kind {curve} in {file}", PRIVATE, MAKE)
    return Key(file, _fingerprint(key.public_key()))


def read_public(where: str, file: Path) -> Key:
    """Read a public key. Raises UserError."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _content(where, file, "SIGN-E0106", PUBLIC, "correct the path")
    if b"PRIVATE KEY" in content:
        raise _refused("SIGN-E0107", where, f"a private key in {file}", PUBLIC, EXTRACT)
    try:
        key: Any = load_pem_public_key(content)
    except Exception as error:  # as above
        raise _refused("SIGN-E0108", where, f"{file}, which is no public key ({type(error).__name__})", PUBLIC,
                       EXTRACT) from None  # fmt: skip
    curve = getattr(getattr(key, "curve", None), "name", type(key).__name__.strip("_").removesuffix("PublicKey"))
    if curve not in CURVES:
        raise _refused("SIGN-E0109", where, f"a key of the kind {curve} in {file}", PUBLIC, EXTRACT)
    return Key(file, _fingerprint(key))


def _content(where: str, file: Path, code: str, expected: str, fix: str) -> bytes:
    """Read a small file. Raises UserError for none, a folder, a pipe, or one that cannot be read or is too large."""
    try:
        if not file.is_file():
            found = "no file" if not file.exists() else "no plain file"
            raise _refused(code, where, f"{found} at {file}", expected, fix)
        with open(file, "rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise _refused(code, where, f"{file}, which cannot be read ({reason})", expected, fix) from None
    if len(content) > MOST_BYTES:
        raise _refused(code, where, f"{file} with more than {MOST_BYTES:,} bytes", expected, fix)
    return content


def _fingerprint(public: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


_refused: Callable[[str, str, str, str, str], UserError] = lambda *parts: UserError(Problem(*parts))  # noqa: E731
