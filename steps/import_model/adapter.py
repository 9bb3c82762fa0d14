"""Import the adapter that is given with a model: merged, or stored beside the model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from steps.adapters.folders import open_adapter, open_base
from steps.adapters.layout import ADAPTER_FOLDER, AdapterLayout, read_adapter
from steps.adapters.merging import merge
from steps.adapters.planning import plan_merge
from steps.import_model.bringing import bring
from steps.models.layout import PROCESSOR_NAMES, ModelLayout, read_layout
from steps.params.settings import AdapterFound, ImportSettings

PARAMETER = "adapter_path"


@contextmanager
def with_adapter(
    settings: ImportSettings, folder: Path, layout: ModelLayout, scratch: Path, near: Path
) -> Iterator[tuple[Path, ModelLayout]]:
    """Yield the folder and the layout of the model with its adapter; without an adapter, those of the model.

    The merged model is written to the folder `near`, which has enough space for a model. Raises UserError if the
    adapter does not fit, NumericError if the merged weights are not finite or equal the base's.
    """
    if settings.adapter is None:
        yield folder, layout
        return
    adapter, found = _adapter(settings.adapter, scratch / "adapter-source")
    if settings.adapter.use != "merge":
        yield _beside(layout, folder, adapter, found, scratch, settings.adapter.use == "continue")
        return
    base = _linked(folder, layout.files, scratch / "base")
    own = _linked(adapter, found.files, scratch / "adapter")
    near.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=near, prefix=".merged-") as room:
        merged = Path(room, "model")
        manifest = merge(base, own, merged)
        names = {name: entry["size"] for name, entry in manifest.files.items()}
        made = read_layout(PARAMETER, "pytorch", names, lambda name: (merged / name).read_bytes())
        yield merged, replace(made, left_out=layout.left_out)


def _adapter(found: AdapterFound, scratch: Path) -> tuple[Path, AdapterLayout]:
    return bring(PARAMETER, found.kind, found.source, scratch, partial(read_adapter, PARAMETER))


def _beside(
    layout: ModelLayout, folder: Path, adapter: Path, found: AdapterLayout, scratch: Path, inside: bool
) -> tuple[Path, ModelLayout]:
    """Give the model the tokenizer that the adapter was trained with; `inside` puts the adapter into a subfolder."""
    model = _linked(folder, {**layout.weights, **layout.model_files}, scratch / "model")
    own = _linked(adapter, found.adapter_files, (model if inside else scratch) / ADAPTER_FOLDER)
    plan_merge(open_base(model), open_adapter(own))  # type: ignore[arg-type]
    # Files of two tokenizers must not be mixed, so a complete tokenizer replaces all of the base's files but those that
    # say how images are prepared.
    kept = {name: path for name, path in layout.tokenizer_files.items() if name not in found.tokenizer_files}
    if found.has_tokenizer:
        kept = {name: path for name, path in kept.items() if name in PROCESSOR_NAMES}
    _linked(folder, kept, model)
    _linked(adapter, found.tokenizer_files, model)
    kept_with = {f"{ADAPTER_FOLDER}/{name}": f"{ADAPTER_FOLDER}/{name}" for name in found.adapter_files if inside}
    return model, replace(
        layout,
        weights={name: name for name in layout.weights},
        model_files={name: name for name in layout.model_files} | kept_with,
        tokenizer_files={name: name for name in (*kept, *found.tokenizer_files)},
        tokenizer_config=found.tokenizer_config if found.has_tokenizer else layout.tokenizer_config,
    )


def _linked(source: Path, files: Mapping[str, str], folder: Path) -> Path:
    """Create a folder of links to files, each under its name in the artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to((source / path).resolve())
    return folder
