"""The form of a provenance: an in-toto statement with SLSA's provenance predicate, as JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from steps.params.text_file import any_json

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD = "urn:finetune-pipelines:training:v1"  # meaning of the parameters in a statement
TAGS = "finetune_tags"  # SLSA's rule for fields of one's own: a prefix and an underscore
_SHA256 = re.compile("[0-9a-f]{64}")
_COMMIT = re.compile("[0-9a-f]{40}")


def write(digests: dict[str, str], predicate: dict[str, Any]) -> str:
    """Return the text of the statement that these files (path → sha256) came about as the predicate says."""
    subject = [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(digests.items())]
    told = {"_type": TYPE, "subject": subject, "predicateType": PREDICATE, "predicate": predicate}
    return json.dumps(told, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def read(content: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """Return files and predicate of a statement. Raises ValueError for anything else."""
    try:
        told = any_json(content)
        if (told["_type"], told["predicateType"]) != (TYPE, PREDICATE):
            raise ValueError(f"a statement of the type {told['predicateType']}")
        files = {one["name"]: one["digest"]["sha256"] for one in told["subject"]}
        predicate = told["predicate"]
        if not all(isinstance(name, str) and _SHA256.fullmatch(one) for name, one in files.items()):
            raise ValueError("a file without a sha256")
        if len(files) != len(told["subject"]) or not isinstance(predicate["runDetails"][TAGS], dict):
            raise ValueError("a file that is listed twice, or no tags")
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no provenance of a registered version ({type(error).__name__})") from None
    return files, predicate


def resource(name: str, uri: str, digest: str) -> dict[str, Any]:
    """Return in-toto's description of something that was used; the digest is one of files, or a commit."""
    kind = "sha256" if _SHA256.fullmatch(digest) else "gitCommit" if _COMMIT.fullmatch(digest) else "other"
    told: dict[str, Any] = {"name": name, "uri": uri}
    return {**told, "digest": {kind: digest}} if digest else told
