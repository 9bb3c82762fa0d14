"""What a secret looks like: one table for refusing parameters, scanning rows, and cutting what is shown or stored.

Parameters are public (YAML, logs, the tracking server), so nothing that looks like a secret may be one
(`secret_in`). Messages and whatever is stored are read by more people than the data, so secrets are cut out of them,
down to pieces of one (`without_secrets`). Rows are scanned for whole ones (`steps/prepare_data/check/secret_scan.py`).
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Secret:
    """One kind of secret, as regular expressions; they hold for text and for its bytes in UTF-8 alike."""

    kind: str
    """As a message names it."""
    whole: str = ""
    """A whole one; empty: it is only cut."""
    part: str = ""
    """What may be a piece of one, in a text that was cut off; empty: whole ones only."""
    signs: tuple[str, ...] = ()
    """Three ASCII characters each, one of which stands in every whole one: how rows are searched; empty: they are not.
    The last character is rare in texts, or the middle one is the letter I."""
    sure: str = ""
    """What a parameter must hold to be refused, where whole ones would be found in paths too; empty: a whole one."""


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
    # Rows are not scanned for these: texts about the web hold many that open nothing.
    Secret("a JSON web token", r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}", r"eyJ[\w-]{8,}\.[\w.-]+"),
    Secret("a URI with a password", r"://[^/\s:@]+:[^/\s@]+@"),
    Secret("an e-mail address", part=r"[\w.+-]+@[\w-]+\.[\w.-]+"),
)  # fmt: skip

# Who a URI logs in as; a name alone is no secret, but it is nobody's business.
USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")

_PARTS = re.compile("|".join(one.part for one in SECRETS if one.part))


def _alone(pattern: str) -> str:
    """A word of this form, not the end of a longer one; what starts with a sign may stand anywhere."""
    return pattern if pattern[0] in "-:" else rf"\b{pattern}"


_REFUSED = [(one.kind, re.compile(_alone(one.sure or one.whole))) for one in SECRETS if one.whole]


def secret_in(value: object) -> str:
    """Say what kind of secret a value holds; empty when it holds none."""
    text = str(value)
    return next((kind for kind, pattern in _REFUSED if pattern.search(text)), "")


def without_secrets(text: str) -> str:
    """Cut secrets, pieces of them, credentials in URIs and e-mail addresses out of a text that is shown or stored."""
    return _PARTS.sub("…", USERINFO.sub("***", text))
