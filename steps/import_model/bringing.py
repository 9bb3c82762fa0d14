"""Fetch the needed files of a source, after checking its digest against the plan's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from steps.errors import Problem, UserError
from steps.params.settings import Resolved, SourceKind
from steps.sources import hub, storage
from steps.sources.model_files import open_files
from steps.tracking.registered import StoredModel, is_registered, open_mlflow


class Layout(Protocol):
    """The files of a source, known before they are fetched."""

    @property
    def files(self) -> dict[str, str]:
        """Name in the artifact → path inside the source."""
        ...


L = TypeVar("L", bound=Layout)
Judge = Callable[[Mapping[str, int], Callable[[str], bytes]], L]


def bring(
    parameter: str, kind: SourceKind, source: Resolved, scratch: Path, judge: Judge[L], mlflow_server_uri: str = ""
) -> tuple[Path, L]:
    """Fetch the files that `judge` selects from names (→ bytes) and contents; local folders are not copied.

    Raises UserError if the source changed since the plan, SecurityRefusal for links out of it, Outage if it is not
    available, and the errors of `judge`.
    """
    if kind == "huggingface":
        repository = hub.resolve(source.uri, source.digest)
        layout = judge(repository.files, repository.read)
        return repository.download(sorted(set(layout.files.values()))), layout
    if is_registered(source.uri):
        stored = open_mlflow(source.uri, mlflow_server_uri)
        _refuse_change(parameter, source, stored.digest)
        assert isinstance(stored.repository, StoredModel)
        layout = judge(stored.names, stored.read)
        return stored.repository.download(sorted(set(layout.files.values())), scratch), layout
    # Judged before the digest, which reads every byte, and again as it was fetched.
    there = open_files(parameter, kind, source.uri)
    judge(there.names, there.read)
    _refuse_change(parameter, source, there.digest)
    folder = storage.fetch(parameter, source.uri, scratch)
    names = {name: info["size"] for name, info in storage.find_files(parameter, str(folder)).items()}
    return folder, judge(names, lambda name: (folder / name).read_bytes())


def _refuse_change(parameter: str, source: Resolved, now: str) -> None:
    if now != source.digest:
        raise UserError(
            Problem("MODEL-E0110", parameter, f"content {now[:12]} at {source.uri}",
                    f"{source.digest[:12]}, as planned", "run again: the model changed after the plan checked it")
        )  # fmt: skip
