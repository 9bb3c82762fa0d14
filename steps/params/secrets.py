"""Patterns of secrets: one table for refusing parameters, scanning rows and redacting messages.

Parameters are public (YAML, logs, the tracking server), so a value that looks like a secret is refused (`secret_in`).
Messages and stored files are read by more people than the data, so secrets, and parts of them, are removed
(`without_secrets`). Rows are scanned for complete secrets (`steps/prepare_data/check/secret_scan.py`).
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Secret:
    """One kind of secret, as regular expressions that work on text and on its UTF-8 bytes."""

    kind: str
    """Name in messages."""
    whole: str = ""
    """A complete secret; empty: it is only redacted, never refused."""
    part: str = ""
    """A secret or the part of it left in a truncated text, to be redacted; empty: not redacted by this table."""
    signs: tuple[str, ...] = ()
    """Strings of three ASCII characters; every complete secret contains one. Used to search rows; empty: rows are not
    searched. The last character is rare in texts, or the middle one is the letter I."""
    sure: str = ""
    """Stricter pattern for refusing parameters, if `whole` also matches paths; empty: `whole` is used."""


SECRETS = (
    Secret("a Hugging Face token", r"hf_[A-Za-z0-9]{30,}", r"hf_[A-Za-z0-9]{8,}", ("hf_",)),
    Secret("an API key",  # of OpenAI, Anthropic and others
           r"sk-(?:[a-z]+-){0,3}(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}", r"sk-[A-Za-z0-9_-]{16,}", ("sk-",),
           sure=r"sk-(?=[A-Za-z0-9_-]*[0-9])(?=[A-Za-z0-9_-]*[A-Z])[A-Za-z0-9_-]{32,}"),
    Secret("an AWS access key", r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])", r"(?:AKIA|ASIA)[A-Z0-9]{12,}",
           ("KIA", "SIA")),
    Secret("a GitHub token", r"gh[pousr]_[A-Za-z0-9]{36,}", r"gh[pousr]_[A-Za-z0-9]{16,}",
           ("hp_", "ho_", "hu_", "hs_", "hr_")),
    Secret("a GitHub token", r"github_pat_[A-Za-z0-9_]{40,}", r"github_pat_[A-Za-z0-9_]{16,}", ("ub_",)),
    Secret("a GitLab token", r"glpat-[A-Za-z0-9_-]{20,}", r"glpat-[A-Za-z0-9_-]{16,}", ("at-",)),
    Secret("a Slack token", r"xox[abprs]-[A-Za-z0-9-]{20,}", r"xox[abprs]-[A-Za-z0-9-]{16,}",
           ("xa-", "xb-", "xp-", "xr-", "xs-")),
    Secret("a Google API key", r"AIza[A-Za-z0-9_-]{35}", r"AIza[A-Za-z0-9_-]{16,}", ("AIz",)),
    Secret("a private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----", r"-----BEGIN [A-Z ]*PRIVATE KEY", ("EY-",)),
    # Rows are not scanned for these: texts about the web contain many that are not valid.
    Secret("a JSON web token", r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}", r"eyJ[\w-]{8,}\.[\w.-]+"),
    Secret("a URI with a password", r"://[^/\s:@]+:[^/\s@]+@"),
    Secret("an e-mail address", part=r"[\w.+-]+@[\w-]+\.[\w.-]+"),
)  # fmt: skip

# Credentials in a URI; a user name alone is not secret, but it is removed for privacy.
USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")

_PARTS = re.compile("|".join(one.part for one in SECRETS if one.part))


def _alone(pattern: str) -> str:
    """Require a word boundary before the pattern, unless it starts with "-" or ":"."""
    return pattern if pattern[0] in "-:" else rf"\b{pattern}"


_REFUSED = [(one.kind, re.compile(_alone(one.sure or one.whole))) for one in SECRETS if one.whole]


def secret_in(value: object) -> str:
    """Return the kind of secret that a value contains; empty if it contains none."""
    text = str(value)
    return next((kind for kind, pattern in _REFUSED if pattern.search(text)), "")


def without_secrets(text: str) -> str:
    """Remove secrets, parts of them, credentials in URIs and e-mail addresses from a text to be shown or stored."""
    return _PARTS.sub("…", USERINFO.sub("***", text))
