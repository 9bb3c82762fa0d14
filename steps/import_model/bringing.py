"""Fetch the needed files of a source, after checking its digest against the plan's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from steps.errors import Problem, SecurityRefusal, UserError
from steps.params.settings import Resolved, SourceKind
from steps.sources import hub, storage
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
    _refuse_change(parameter, source, storage.digest_of(parameter, source.uri))
    folder = storage.fetch(parameter, source.uri, scratch)
    names = {name: info["size"] for name, info in storage.find_files(parameter, str(folder)).items()}
    _refuse_escaping_links(parameter, folder, names)
    return folder, judge(names, lambda name: (folder / name).read_bytes())


def _refuse_change(parameter: str, source: Resolved, now: str) -> None:
    if now != source.digest:
        raise UserError(
            Problem("MODEL-E0110", parameter, f"content {now[:12]} at {source.uri}",
                    f"{source.digest[:12]}, as planned", "run again: the model changed after the plan checked it")
        )  # fmt: skip


def _refuse_escaping_links(parameter: str, folder: Path, names: Mapping[str, int]) -> None:
    root = folder.resolve()
    # A Hub cache links its snapshots to blobs two levels up; no other link may leave the folder.
    allowed = root.parent.parent if root.parent.name == "snapshots" else root
    for name in names:
        if not (folder / name).resolve().is_relative_to(allowed):
            raise SecurityRefusal(
                Problem("MODEL-E0303", parameter, f"{name}, a link that leaves the folder", "files in the folder",
                        "copy the file into the folder")
            )  # fmt: skip
