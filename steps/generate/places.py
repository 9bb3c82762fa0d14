"""Where the answers are kept until all are there, and who may use them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from steps.artifacts import write_durably
from steps.generate.journal import Journal
from steps.generate.stored import StoredJournal
from steps.params.settings import GenerateSettings
from steps.running import LOCAL_ROOT
from steps.sources.locks import locked
from steps.sources.object_folder import ObjectFolder
from steps.sources.storage import join, local_path
from steps.stopping import passing_over
from steps.writing import write_error

FOLDER = "generate"  # below checkpoint_dir
IDENTITY, LOCK = "generation.json", ".lock"
FORM = 1  # of the journal's lines; another one is another journal
WHO = "another process that answers the same rows"
UPLOAD_SECONDS = 60.0  # a part is closed and uploaded after that long
# Parameters of engines that change how answers are computed, and no answer.
UNSEEN = {
    "test_batch_size", "cpu_offload", "tensor_parallel_size", "vllm_gpu_memory_utilization", "enable_prefix_caching",
    "inference_processes", "endpoint_key_secret", "endpoint_concurrency", "endpoint_requests_per_minute",
    "endpoint_timeout_seconds",
}  # fmt: skip


def identity_of(settings: GenerateSettings, inputs: dict[str, str]) -> dict[str, Any]:
    """Return everything that affects the answers."""
    own = settings.model_dump(
        mode="json", exclude={"gpus": True, "checkpoint_dir": True, "upload_dir": True, "engine": UNSEEN}
    )
    own["decoding"].pop("use_cache")
    return {"settings": own, "inputs": inputs, "form": FORM}


@contextmanager
def journal_for(settings: GenerateSettings, inputs: dict[str, str], result: Path) -> Iterator[Journal]:
    """Yield the journal of a run, locked; it is below checkpoint_dir, else the local root, else beside `result`.

    It is deleted if the block ends without an error: the result is whole then. Raises UserError if the place cannot be
    written, Outage if another process uses it or a store does not answer.
    """
    identity = identity_of(settings, inputs)
    key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    beside = result.with_name(f"{result.name}.unfinished")
    here = Path(os.environ[LOCAL_ROOT], "checkpoints") if LOCAL_ROOT in os.environ else beside
    wanted = settings.checkpoint_dir
    root = local_path(wanted) if wanted else here
    folder = (root or here) / FOLDER / key
    if error := write_error("GEN-E0224", "checkpoint_dir", folder):
        raise error
    # Without its journal, a task that is stopped would ask for every answer again.
    with ExitStack() as to_the_end, _locked_folder(folder):
        write_durably(folder / IDENTITY, json.dumps(identity, indent=1, sort_keys=True))
        if root is None:
            objects = ObjectFolder("checkpoint_dir", join(join(wanted, FOLDER), key))
            with StoredJournal(folder, objects, str(result.absolute())).used():
                yield _begun(Journal(folder, UPLOAD_SECONDS, objects.uri))
                to_the_end.enter_context(passing_over())
        else:
            yield _begun(Journal(folder))
            to_the_end.enter_context(passing_over())
        shutil.rmtree(folder, ignore_errors=True)
    for empty in (folder.parent, beside):
        _remove_empty(empty)


def _begun(journal: Journal) -> Journal:
    journal.close_leftovers()
    return journal


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Lock a folder that its owner deletes at the end: a lock on a deleted file is none."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        held = locked(folder / LOCK, WHO)
        if _is_there(held, folder / LOCK):
            break
        held.close()
    with held:
        yield


def _is_there(held: IO[str], file: Path) -> bool:
    try:
        return os.fstat(held.fileno()).st_ino == file.stat().st_ino
    except FileNotFoundError:
        return False


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # of other runs, or not there
        return
