"""Import an adapter into a run."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from steps.adapters.fitting import described, not_an_adapter
from steps.adapters.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, open_adapter
from steps.artifacts import Manifest, new_artifact, read_manifest
from steps.errors import Problem, UserError
from steps.models.layout import CONFIG, GENERATION, TOKENIZER_NAMES
from steps.params.settings import AdapterSettings
from steps.sources import storage

log = logging.getLogger("finetune")

LINK_OUT = "ADAPTER-E0401"

# Settings and weights, the tokenizer, a new head's configuration, generation settings, the training history.
TAKEN = {ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, GENERATION, "README.md", "LICENSE", "history.json"} | TOKENIZER_NAMES


def import_adapter(settings: AdapterSettings, adapter: Path) -> Manifest:
    """Copy a checked adapter to `adapter`; without a source, the artifact has no adapter and the fact given=false.

    The lineage of an artifact of this project is kept. Raises UserError if the source is not an adapter or changed
    since the plan, SecurityRefusal for links out of it, Outage if it is not available.
    """
    source = settings.source
    if source is None:
        with new_artifact(adapter, "adapter") as draft:
            draft.facts = {"given": False}
        log.info("no adapter: the tool uses the base")
        return read_manifest(adapter)
    now = storage.digest_of("adapter_path", source.uri)
    if now != source.digest:
        raise UserError(
            Problem("ADAPTER-E0102", "adapter_path", f"content {now[:12]} at {source.uri}",
                    f"{source.digest[:12]}, as planned", "run again: the adapter changed after the plan checked it")
        )  # fmt: skip
    with TemporaryDirectory() as scratch:
        folder = storage.fetch("adapter_path", source.uri, Path(scratch) / "source")
        found = open_adapter(folder)
        if isinstance(found, Manifest):
            raise not_an_adapter(source.uri)
        history = found.manifest.lineage if found.manifest else {}
        lineage = {**history, "source": source.uri, "source_digest": source.digest}
        lineage.pop("code", None)
        with new_artifact(adapter, "adapter", lineage) as draft:
            draft.facts = dict(found.manifest.facts) if found.manifest else {}
            taken = sorted(TAKEN & {*found.others, *found.weights})
            storage.refuse_links_out("adapter_path", str(folder), taken, LINK_OUT)
            for name in taken:
                (draft / name).write_bytes((folder / name).read_bytes())
        log.info("imported %s: %s", source.uri, described(found))
    return read_manifest(adapter)
