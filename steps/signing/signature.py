"""Sign the digests of files, and check a signature, with the library model-signing.

The signature is a Sigstore bundle over an in-toto statement with the sha256 of each file: what `model_signing verify
key` reads. The library would hash the files itself; the digests are known here, and weights may be elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steps.params.text_file import any_json
from steps.signing.keys import Key

Digests = Mapping[str, str]
"""Path inside the signed folder → sha256."""


class NotSigned(Exception):
    """A signature that is not of this key, or not of what it says."""


def sign(digests: Digests, key: Key, name: str, file: Path) -> None:
    """Write the signature of these files. The same files and key give the same bytes."""
    from model_signing import signing

    config = signing.Config().use_elliptic_key_signer(private_key=key.file)
    signer: Any = config._signer
    # Two processes that register the same model at once write the same file to the same place: ECDSA by RFC 6979 has no
    # random part, and the library (1.1.1) has no option for it.
    signer._private_key = _Repeatable(signer._private_key)
    config.set_hashing_config(_known(digests)).sign(Path(name), file)


def signed_digests(content: bytes, key: Key, scratch: Path) -> dict[str, str]:
    """Return what a signature says about files. Raises NotSigned if it is not a signature of this key's holder."""
    from model_signing._signing.sign_ec_key import Verifier
    from model_signing._signing.sign_sigstore_pb import Signature

    if (hint := hint_of(content)) != key.fingerprint:
        by = f"made with the key {hint[:12]}…, not {key.fingerprint[:12]}…" if hint else "no signature with a key"
        raise NotSigned(by)
    file = scratch / "signature"
    file.write_bytes(content)
    try:
        manifest = Verifier(key.file).verify(Signature.read(file))
    except Exception as error:  # the file is anybody's: the library raises ValueError, KeyError, pydantic's and others
        raise NotSigned(f"not valid ({type(error).__name__})") from None
    return {one.identifier: one.digest.digest_hex for one in manifest.resource_descriptors()}


def hint_of(content: bytes) -> str | None:
    """Return the fingerprint of the key that a signature names; None if it names none, or is no signature."""
    try:
        told = any_json(content)["verificationMaterial"]["publicKey"]["hint"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return told if isinstance(told, str) else None


class _Repeatable:
    """A private key whose signatures of the same bytes are the same."""

    def __init__(self, own: Any):
        self.own = own

    def public_key(self) -> Any:
        return self.own.public_key()

    def sign(self, data: bytes, algorithm: Any) -> Any:
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

        return self.own.sign(data, ECDSA(algorithm.algorithm, deterministic_signing=True))


def _known(digests: Digests) -> Any:
    """Return a configuration of the library's hashing that hashes nothing: the digests are given."""
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest

    class Known(hashing.Config):
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            kind: Any = manifest.SerializationType.from_args(
                {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
            )
            items = [kind.new_item(name, Digest("sha256", bytes.fromhex(one))) for name, one in digests.items()]
            return manifest.Manifest(Path(model_path).name, items, kind)

    return Known()
