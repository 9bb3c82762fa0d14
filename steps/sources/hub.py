"""Resolve ids and revisions on the Hugging Face Hub to commits, and fetch files.

Uses huggingface_hub, so HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE and the local cache work as usual.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from steps.errors import Outage, OutOfResources, Problem, StepError, UserError
from steps.faults import TEMPORARY, known, same_again, status_of
from steps.sources import bounded, downloads, storage


@dataclass(frozen=True)
class HubModel:
    """One commit of a model repository."""

    repo_id: str
    commit: str
    files: dict[str, int]
    """Name → bytes."""

    def read(self, name: str) -> bytes:
        """Fetch one small file. Raises as `resolve`."""
        from huggingface_hub import hf_hub_download

        with explained(self.repo_id):
            file = _whole(self.repo_id, partial(hf_hub_download, self.repo_id, name, revision=self.commit))
            return Path(file).read_bytes()

    def read_start(self, name: str, count: int) -> bytes:
        """Read only the first `count` bytes of a file. Raises as `storage.read_bytes`."""
        if here := self.cached(name):
            with open(here, "rb") as stream:
                return stream.read(count)
        return storage.read_bytes("huggingface_id", f"hf://{self.repo_id}@{self.commit}/{name}", count)

    def cached(self, name: str) -> Path | None:
        """Return the path of a file in the local cache; None if it is not there."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo_id, name, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def download(self, names: list[str]) -> Path:
        """Fetch files into the Hub cache and return their folder. Raises as `resolve`."""
        from huggingface_hub import constants, snapshot_download

        offline = constants.is_offline_mode()
        download = partial(
            snapshot_download, self.repo_id, revision=self.commit, allow_patterns=names, local_files_only=offline
        )
        with explained(self.repo_id):
            return Path(_whole(self.repo_id, download))


def resolve(repo_id: str, revision: str) -> HubModel:
    """Resolve an id and a branch, tag or commit to a commit; offline, to the commit in the local cache.

    Raises UserError for a repository that does not exist or that the token may not read, Outage when the Hub does not
    answer.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    with explained(repo_id):
        if constants.is_offline_mode():
            folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
            files = {str(f.relative_to(folder)): f.stat().st_size for f in folder.rglob("*") if f.is_file()}
            return HubModel(repo_id, folder.name, files)
        info = _asked(partial(HfApi().model_info, repo_id, revision=revision, files_metadata=True))
        return HubModel(repo_id, str(info.sha), {item.rfilename: item.size or 0 for item in info.siblings or []})


def resolve_dataset(parameter: str, name: str, revision: str) -> str:
    """Resolve a data set's id and a branch, tag or commit to a commit. Raises as `resolve`."""
    from huggingface_hub import HfApi, constants, snapshot_download

    with explained(name, parameter):
        if constants.is_offline_mode():
            folder = snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
            return Path(folder).name
        return str(_asked(partial(HfApi().dataset_info, name, revision=revision)).sha)


def _whole(repo_id: str, download: Callable[[], str]) -> str:
    """Return what a download of a model's files returns; those that it brought have the content that the Hub names.

    Raises bounded.NoAnswer if too few bytes arrive in the Hub's cache, OSError for a file that arrives twice with other
    bytes: huggingface_hub compares sizes only.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo_id, repo_type="model"), "blobs")
    before = set(blobs.glob("*"))
    wrong: list[Path] = []
    for _ in range(2):
        found = _moving(blobs, download)
        wrong = [blob for blob in sorted(set(blobs.glob("*")) - before) if _differs(blob)]
        if not wrong:
            return found
        for blob in wrong:
            blob.unlink(missing_ok=True)
    raise OSError(f"{wrong[0].name} arrived twice with other bytes than those of this digest")


def _differs(blob: Path) -> bool:
    """Return whether a file of the cache is another one than its name says: its sha256, or git's digest of it."""
    if not downloads.BLOB.fullmatch(blob.name):
        return False  # incomplete, or another kind of etag
    with open(blob, "rb") as stream:
        return not downloads.is_blob(blob.name, blob.stat().st_size, iter(partial(stream.read, downloads.BLOCK), b""))


def _moving(blobs: Path, download: Callable[[], str]) -> str:
    """Return what a download returns; raises bounded.NoAnswer if too few bytes arrive in a folder."""

    def moved() -> int:
        found = 0
        for file in blobs.glob("*"):
            with suppress(OSError):  # it got its final name meanwhile
                found += file.stat().st_size
        return found

    return bounded.again(partial(bounded.moving, download, moved), _passes)


def _asked(call: Callable[[], Any]) -> Any:
    """Return the Hub's answer to a question."""
    return bounded.again(partial(bounded.ended, call), _passes)


def _passes(error: Exception) -> bool:
    """Return whether another try may succeed: the Hub's client repeats only some of its requests."""
    from huggingface_hub import constants

    if constants.is_offline_mode() or _is_refusal(error) or same_again(error):
        return False
    return isinstance(error, json.JSONDecodeError) or isinstance(known(error, ""), Outage)


@contextmanager
def explained(repo_id: str, parameter: str = "huggingface_id") -> Iterator[None]:
    """Turn errors of the Hub into our errors, which say who must act."""
    try:
        yield
    except StepError:
        raise
    except Exception as error:
        raise explanation(error, repo_id, parameter) or error from error


def explanation(error: BaseException, repo_id: str, parameter: str) -> StepError | None:
    """Return our error for one that was raised while the Hub was asked; None if the Hub did not cause it.

    UserError for what does not exist or may not be read, OutOfResources for a full disk, Outage without an answer.
    """
    from huggingface_hub import constants, errors

    where = f"{parameter} {repo_id!r}"
    kind, folder = ("model", "pytorch_model_path") if parameter == "huggingface_id" else ("data set", parameter)
    found = known(error, where)
    if isinstance(found, OutOfResources):
        return found
    if isinstance(error, errors.GatedRepoError):
        return UserError(
            Problem("HUB-E0204", where, f"a gated {kind}", "a token that may read it",
                    f"accept its terms on its page at {constants.ENDPOINT}, and set HF_TOKEN or "
                    "huggingface_token_secret")
        )  # fmt: skip
    if isinstance(error, errors.HFValidationError):
        return UserError(Problem("HUB-E0202", where, str(error), "an id of the form name or owner/name", "correct it"))
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled) and constants.is_offline_mode():
        return UserError(
            Problem("HUB-E0203", where, "no copy in the local cache, and HF_HUB_OFFLINE is set",
                    f"access to the Hub, or a copy of the {kind}",
                    f"unset HF_HUB_OFFLINE, or set {folder} to a folder with the files")
        )  # fmt: skip
    if isinstance(error, errors.HfHubHTTPError | errors.LocalEntryNotFoundError) and _is_refusal(error):
        return UserError(
            Problem("HUB-E0201", where, type(error).__name__, f"a {kind} that exists and is readable with HF_TOKEN",
                    f"check the id, accept the {kind}'s licence on the Hub, or set huggingface_token_secret")
        )  # fmt: skip
    if isinstance(found, UserError):  # the folder of its cache
        return found
    silent = errors.HfHubHTTPError | errors.LocalEntryNotFoundError | OSError | json.JSONDecodeError
    if isinstance(found, Outage) or isinstance(error, silent):
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Outage(
            Problem("HUB-E0401", where, said, f"an answer from the Hub, {constants.ENDPOINT}",
                    f"run again; without the Hub, set {folder} to a folder with the files")
        )  # fmt: skip
    return found


def _is_refusal(error: BaseException) -> bool:
    """Return whether the Hub answered that there is nothing, or that it may not be read."""
    from huggingface_hub import errors

    # Without a copy in the cache, a download says so in place of the reason.
    reason = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    status = status_of(reason) if reason else None
    return status is not None and 400 <= status < 500 and status not in TEMPORARY
