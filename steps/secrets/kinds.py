"""Secrets that have a form of their own: one table for refusing parameters, scanning rows and hiding in texts.

Searches take a time that grows with the length of the text, whatever stands in it: an expression begins with fixed
characters and takes all that may follow; what was taken is judged afterwards (`told`).
"""

from __future__ import annotations

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
    leads: tuple[str, ...] = ()
    """Strings of which every part has one, for a fast search."""
    told: str = ""
    """What a part has to match from its beginning to be hidden from what is told of paths, modules and digests, if
    `part` also matches those."""
    apart: bool = False
    """Whether a letter, a digit, + or / before it shows there that it is a piece of something else."""
    length: int = 0
    """Characters of a complete one, if all have as many; it is found across the end of a line."""


# A digit and a capital, or digits in a long piece: no title of a page, such as sk-learn-tutorial-2024.
_KEY = r"(?=.*\d)(?=.*[A-Z])|(?=(?:\D*\d){4})(?:.*[-_])?[a-z0-9]{12}|(?=(?:\D*\d){8})"
_GITLAB = "gl(?:agent|cbt|dt|ffct|ft|imt|oas|ptt|rt|rtr|soat|fk)"  # before its other kinds of tokens
_OTHERS = {  # what stands before keys of other services → what follows
    "npm_": "[A-Za-z0-9]{24,}",
    "pypi-AgE": "[A-Za-z0-9_-]{16,}",
    "dapi": "[0-9a-f]{24,}",
    "sk_live_": "[A-Za-z0-9]{16,}",
    "rk_live_": "[A-Za-z0-9]{16,}",
    "sk_test_": "[A-Za-z0-9]{16,}",
    "nvapi-": "[A-Za-z0-9_-]{24,}",
    "gsk_": "[A-Za-z0-9]{24,}",
    "xai-": "[A-Za-z0-9]{24,}",
    "pplx-": "[A-Za-z0-9]{24,}",
    "r8_": "[A-Za-z0-9]{24,}",
    "hvs.": "[A-Za-z0-9_-]{20,}",
    "dckr_pat_": "[A-Za-z0-9_-]{16,}",
    "dop_v1_": "[0-9a-f]{24,}",
    "glsa_": "[A-Za-z0-9_]{24,}",
    "whsec_": "[A-Za-z0-9]{20,}",
    "lin_api_": "[A-Za-z0-9]{24,}",
    "shpat_": "[0-9a-fA-F]{24,}",
    "ATATT3x": "[A-Za-z0-9_=-]{24,}",
    "AGE-SECRET-KEY-1": "[A-Z0-9]{24,}",
    "ABSK": "[A-Za-z0-9+/]{60,}",
    "hf_oauth_": "[A-Za-z0-9_.-]{16,}",
    "api_org_": "[A-Za-z0-9]{24,}",
    "rk_test_": "[A-Za-z0-9]{16,}",
    "xwfp-": "[A-Za-z0-9-]{16,}",
    "tgp_v1_": "[A-Za-z0-9_-]{24,}",
    "ntn_": "[A-Za-z0-9]{32,}",
    "lsv2_pt_": "[0-9a-f_]{24,}",
    "lsv2_sk_": "[0-9a-f_]{24,}",
    "sntrys_": "[A-Za-z0-9+/=_]{24,}",
    "pul-": "[0-9a-f]{40,}",
    "dp.st.": "[A-Za-z0-9._-]{24,}",
    "dp.pt.": "[A-Za-z0-9]{24,}",
    "atlasv1.": "[A-Za-z0-9]{24,}",
    "wandb_v1_": "[A-Za-z0-9_]{24,}",
    "hvb.": "[A-Za-z0-9_-]{20,}",
    "hvr.": "[A-Za-z0-9_-]{20,}",
}

SECRETS = (
    Secret("a Hugging Face token", r"hf_[A-Za-z0-9]{30,}", r"hf_[A-Za-z0-9]{8,}", ("hf_",), leads=("hf_",),
           told=r"...[A-Za-z0-9]*[0-9A-Z]|...[a-z]{24}", length=37),
    Secret("an API key",  # of OpenAI, Anthropic and others
           r"sk-(?:[a-z]+-){0,3}(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}", r"sk-[A-Za-z0-9_-]{16,}", ("sk-",),
           sure=r"sk-(?=[A-Za-z0-9_-]*[0-9])(?=[A-Za-z0-9_-]*[A-Z])[A-Za-z0-9_-]{32,}",
           leads=("sk-",), told=_KEY, apart=True),
    Secret("an AWS access key", r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])", r"(?:AKIA|ASIA)[A-Z0-9]{12,}",
           ("KIA", "SIA"), leads=("AKIA", "ASIA"), told=r"....[A-Z]*\d", length=20),
    Secret("a GitHub token", r"gh[pousr]_[A-Za-z0-9]{36,}", r"gh[pousr]_[A-Za-z0-9]{8,}",
           ("hp_", "ho_", "hu_", "hs_", "hr_"), leads=("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), told=r".*\d",
           length=40),
    Secret("a GitHub token", r"github_pat_[A-Za-z0-9_]{40,}", r"github_pat_[A-Za-z0-9_]{16,}", ("ub_",),
           leads=("github_pat_",)),
    Secret("a GitLab token", r"glpat-[A-Za-z0-9_-]{20,}", r"glpat-[A-Za-z0-9_.-]{8,}", ("at-",), leads=("glpat-",)),
    Secret("a GitLab token", rf"{_GITLAB}-[A-Za-z0-9_.-]{{20,}}", rf"{_GITLAB}-[A-Za-z0-9_.-]{{16,}}", leads=("gl",),
           told=_KEY, apart=True),
    Secret("a Slack token", r"xapp-\d-[A-Za-z0-9-]{20,}", r"xapp-\d-[A-Za-z0-9-]{16,}", leads=("xapp-",)),
    Secret("a Slack address", r"hooks\.slack\.com/(?:services|workflows)/[\w/]{20,}",
           r"hooks\.slack\.com/(?:services|workflows)/[\w/]{12,}", leads=("hooks.slack.com",)),
    Secret("a Slack token", r"xox[abcdeprs]-[A-Za-z0-9-]{20,}", r"xox[abcdeprs][-.][A-Za-z0-9.-]{16,}",
           ("xa-", "xb-", "xc-", "xd-", "xe-", "xp-", "xr-", "xs-"), leads=("xox",)),
    Secret("a Google API key", r"AIza[A-Za-z0-9_-]{35}", r"AIza[A-Za-z0-9_-]{16,}", ("AIz",), leads=("AIza",),
           apart=True, length=39),
    Secret("a Google token", r"(?:ya29\.|GOCSPX-)[A-Za-z0-9_-]{20,}", r"(?:ya29\.|GOCSPX-)[A-Za-z0-9_-]{16,}",
           leads=("ya29.", "GOCSPX-")),
    Secret("a Google token", r"1//0[A-Za-z0-9_-]{30,}", r"1//0[A-Za-z0-9_-]{24,}", leads=("1//0",), told=_KEY,
           apart=True),
    Secret("an AWS session token", r"(?:FwoGZXIvYXdz|IQoJb3JpZ2lu)[A-Za-z0-9+/=]{40,}",
           r"(?:FwoGZXIvYXdz|IQoJb3JpZ2lu)[A-Za-z0-9+/=%]{8,}", leads=("FwoGZXIvYXdz", "IQoJb3JpZ2lu")),
    Secret("an Azure client secret", r"[A-Za-z0-9_.~-]{3}[78]Q~[A-Za-z0-9_.~-]{31,}", r"[78]Q~[A-Za-z0-9_.~-]{16,}",
           leads=("Q~",)),
    *(Secret("an API key", f"{lead.replace('.', r'[.]')}{rest}",
             f"{lead.replace('.', r'[.]')}{rest[: rest.rindex('{')]}{{8,}}", leads=(lead,), told=r".*\d", apart=True)
      for lead, rest in _OTHERS.items()),
    Secret("an API key", r"SG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}", r"SG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{8,}",
           leads=("SG.",), apart=True),
    # With its text: `private_keys` of credentials.py.
    Secret("a private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----", r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY", ("EY-",),
           leads=("PRIVATE KEY",)),
    # Rows are not scanned for these: texts about the web contain many that are not valid. The part may have no dot:
    # it is judged afterwards, as a search for one would begin anew at each eyJ of a long text.
    Secret("a JSON web token", r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}", r"eyJ[\w.-]+", leads=("eyJ",),
           told=r"eyJ[\w-]{8,}\.\.?[\w-]{8,}"),
    # What is left of these is found by what stands around them (credentials.py).
    Secret("a URI with a password", r"://[^/\s:@]*:[^/\s@]+@"),
    Secret("a signed URI", r"(?:X-(?:Amz|Goog)-Signature=[\w%]{8,}|[?&](?:sig|Signature)=[\w%+/=-]{16,})"),
    Secret("a storage key", r"(?:Account|SharedAccess)Key=[A-Za-z0-9+/=]{16,}"),
    Secret("a bearer token", r"[Bb]earer +(?=[\w.~+/=-]*\d)[\w.~+/=-]{16,}"),
)  # fmt: skip
