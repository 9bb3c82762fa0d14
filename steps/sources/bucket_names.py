"""Names of buckets, containers and repositories that a store can have.

Asked for another one, some clients try again and again (gcsfs 2026.10).
"""

from __future__ import annotations

import re

NAMES = {
    "s3": r"[\w.-]{1,255}|arn:aws[\w-]*:[\w:/.-]+",
    "gs": r"[\w.-]{1,222}",
    "az": r"[A-Za-z0-9$-]{1,63}(@[A-Za-z0-9.-]+)?",
    "hf": r"[\w.-]{1,96}(@[^@\[\]{}<>|^`\s]+)?",
}
SAME = {"gcs": "gs", "abfs": "az", "abfss": "az"}
KINDS = ("datasets", "models", "spaces", "buckets")  # of repositories of the Hub, before owner and name


def wrong_name(scheme: str, place: str) -> str:
    """Return the first name of a place, a URI without its scheme, that no store can have; empty for none."""
    names = place.split("/")
    names = names[:1] if scheme != "hf" else names[: 3 if names[0] in KINDS else 2]
    kind = re.compile(NAMES.get(SAME.get(scheme, scheme), ".*"), re.ASCII)
    return next((name for name in names if name and not kind.fullmatch(name)), "")
