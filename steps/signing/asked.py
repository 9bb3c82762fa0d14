"""Checks by the plan of the key that signs the registered version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from steps.errors import Problem, UserError
from steps.params.pipeline import SupervisedParameters
from steps.signing.keys import signing_key


class Seen(Protocol):
    """The attribute of the plan's view that these checks read."""

    @property
    def parameters(self) -> SupervisedParameters: ...


def key_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse a key that could not sign the version at the end of the run."""
    if seen.parameters.register_tuned_model:
        try:
            signing_key()
        except UserError as error:
            yield from error.problems


def key_notes(seen: Seen) -> Iterator[str]:
    """Tell that the version will be signed, and by whose key; `key_problems` has refused any other key."""
    if seen.parameters.register_tuned_model:
        try:
            key = signing_key()
        except UserError:
            return
        if key:
            yield f"the registered version is signed with the key {key.fingerprint[:12]}…"
