"""Parameters are public (YAML, logs, the tracking server), so nothing that looks like a secret may be one."""

import re

PATTERNS = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "an AWS access key": re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,}"),
    "a JSON web token": re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a URI with a password": re.compile(r"://[^/\s:@]+:[^/\s@]+@"),
}


def secret_in(value: object) -> str:
    """Say what kind of secret a value holds; empty when it holds none."""
    text = str(value)
    return next((kind for kind, pattern in PATTERNS.items() if pattern.search(text)), "")
