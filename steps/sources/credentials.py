"""What a message says about credentials of a store: where to give them, and which are here; never what they hold."""

from __future__ import annotations

import os

from steps.sources.bucket_names import SAME

VARIABLES = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS",),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
    "hf": ("HF_TOKEN",),
}


def where_to_give(scheme: str) -> str:
    """Return what to do without credentials for a store."""
    if scheme == "hf":
        return "accept its terms on the Hub, and set HF_TOKEN or huggingface_token_secret"
    if scheme in ("az", "abfs", "abfss"):
        return "set AZURE_STORAGE_ACCOUNT_NAME, and a key or a service principal, by a secret or the environment"
    return f"provide them by a service account, a secret or the environment{here(scheme)}"


def here(scheme: str) -> str:
    """Return which variables with credentials are set, in brackets."""
    names = VARIABLES.get(SAME.get(scheme, scheme), ())
    given = [name for name in names if os.environ.get(name)]
    absent = [name for name in names if name not in given]
    told = [f"{' and '.join(some)} {word}" for some, word in ((given, "set"), (absent, "not set")) if some]
    return f" (here {', '.join(told)})" if told else ""
