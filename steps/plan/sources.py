"""Resolve the sources: a digest of each, and what can be checked without downloading much."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from steps.adapters.input_adapter import ComesWith, look_at_adapter, source_of, with_tokenizer
from steps.errors import Outage, Problem, StepError, UserError
from steps.models.headers import Shape, read_distant, read_shapes
from steps.models.layout import ModelLayout, read_layout
from steps.params.data import DataSource, RowReading
from steps.params.model_source import SOURCE_PARAMETER, ModelSource
from steps.params.pipeline import SupervisedParameters
from steps.params.pipelines.batch_inference import BatchInferenceParameters
from steps.params.settings import AdapterFound, ImportSettings, ModelSourceFound, Resolved, SourceKind
from steps.params.splits import SPLITS
from steps.plan.recipes import recipe_for, recipe_of_rows
from steps.plan.reference import tokenizer_problems
from steps.plan.row_counts import exact_rows, most_rows
from steps.remembered import remembered
from steps.sources import data_sources, storage, user_code
from steps.sources.model_files import ModelFiles, open_files
from steps.tasks import load_task
from steps.tracking.registered import is_registered, open_mlflow

AdapterUse = Literal["merge", "continue", "separate"]
BYTES_PER_PARAMETER = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
PACKED = 5  # the rows of a .gz or Parquet file have about so many times its bytes


@dataclass(frozen=True)
class ModelFound:
    """The model source, as read by the plan."""

    settings: ImportSettings
    layout: ModelLayout
    bytes: int
    """Size of the weights."""
    files: ModelFiles
    shapes: Mapping[str, Shape | None] = field(default_factory=dict)
    """Tensor → shape, by the headers of the weights; None where only the name is known, empty where nothing is."""
    adapter: ComesWith | None = None
    """The adapter given with the model."""

    @property
    def parameters(self) -> int:
        """Number of weights by the headers; where they are not known, by size and the configuration's data type.

        Approximate for new weights.
        """
        if self.settings.new_weights:
            return self.layout.size
        if self.shapes and None not in self.shapes.values():
            return sum(math.prod(shape) for shape in self.shapes.values() if shape is not None)
        dtype = str(self.layout.config.get("dtype") or self.layout.config.get("torch_dtype") or "float32")
        return self.bytes // BYTES_PER_PARAMETER.get(dtype, 4)

    @property
    def tokenizer(self) -> tuple[ModelFiles, dict[str, str]]:
        """Source and names of the tokenizer files: the adapter's if it has a complete tokenizer."""
        if self.adapter and self.adapter.layout.has_tokenizer:
            return self.adapter.files, self.adapter.layout.tokenizer_files
        return self.files, self.layout.tokenizer_files


@dataclass(frozen=True)
class DataFound:
    """One data source, as read by the plan."""

    resolved: Resolved
    bytes: int
    rows: int | None
    """Lines of local jsonl files; None if counting needs the whole source to be read."""
    most: int | None = None
    """Highest number of rows that the files can have; None if that is not known."""
    unpacked: int | None = None
    """Bytes of the rows when they are unpacked, about; None if that is not known."""
    distant: int = 0
    """Bytes of the files that have to be fetched."""
    warnings: tuple[str, ...] = ()
    """Warnings about the source."""


def look_at_base(parameters: ModelSource) -> ModelFound:
    """Resolve and check the model source alone. Raises as `read_layout` and `open_files`."""
    return with_server(_found(_named(parameters)), parameters)


def look_at_model(parameters: SupervisedParameters) -> ModelFound:
    """Resolve and check the model source and the adapter given with it.

    Raises the errors of `look_at_base` and `look_at_adapter`.
    """
    files, own = source_of(parameters, _named(parameters))
    found = with_server(_found(files, getattr(parameters, "new_weights", False)), parameters)
    if parameters.apply_lora and parameters.targets and not found.shapes:
        with suppress(Outage):  # finetune checks the names again
            found = replace(found, shapes=read_distant(files, found.layout))
    if own is None:
        return found
    adapter = look_at_adapter(parameters, recipe_for(parameters, found.layout.config), files, found.layout, own)
    return _with_adapter(found, adapter, parameters.adapter_use)


def look_at_asked_model(parameters: BatchInferenceParameters) -> ModelFound:
    """Do the same for a model that is not trained; its adapter is merged, or served beside it.

    Raises the errors of `look_at_base` and `look_at_adapter`.
    """
    files, own = source_of(parameters, _named(parameters))
    found = with_server(_found(files), parameters)
    if own is None:
        return found
    recipe = recipe_of_rows(parameters.rows_task, found.layout.config)
    adapter = look_at_adapter(parameters, recipe, files, found.layout, own)
    return _with_adapter(found, adapter, "separate" if parameters.adapter_separate else "merge")


def _with_adapter(found: ModelFound, adapter: ComesWith, use: AdapterUse) -> ModelFound:
    comes = AdapterFound(kind=adapter.files.kind, source=adapter.files.resolved, use=use)
    settings = found.settings.model_copy(update={"adapter": comes})
    return replace(found, settings=settings, layout=with_tokenizer(found.layout, adapter.layout), adapter=adapter)


def with_server(found: ModelFound, parameters: ModelSource) -> ModelFound:
    """Add the MLflow server to the settings of import_model if it has to fetch the model from there."""
    if not is_registered(found.settings.source.uri):
        return found
    server = getattr(parameters, "mlflow_server_uri", "")
    return replace(found, settings=found.settings.model_copy(update={"mlflow_server_uri": server}))


def _named(parameters: ModelSource) -> ModelFiles:
    kind = next(kind for kind, name in SOURCE_PARAMETER.items() if getattr(parameters, name))
    parameter = SOURCE_PARAMETER[kind]
    uri = getattr(parameters, parameter).strip()
    if kind == "mlflow":
        return _opened_mlflow(uri, getattr(parameters, "mlflow_server_uri", ""))
    return opened(parameter, cast(SourceKind, kind), uri, parameters.huggingface_revision)


# Open files keep the digest that they computed.
opened = remembered(open_files)
_opened_mlflow = remembered(open_mlflow)


def _found(files: ModelFiles, new_weights: bool = False) -> ModelFound:
    layout = read_layout(files.parameter, files.kind, files.names, files.read, with_weights=not new_weights)
    shapes = read_shapes(files, layout)  # before the digest, which reads every byte
    settings = ImportSettings(
        kind=files.kind,
        source=files.resolved,
        registered=files.registered,
        sha256={path: files.sha256[path] for path in layout.files.values() if path in files.sha256},
        new_weights=new_weights,
    )
    return ModelFound(settings, layout, _weights(files, layout), files, shapes)


def look_at_reference(parameters: SupervisedParameters, model: ModelFound) -> ModelFound | None:
    """Resolve a separate reference model; None without one. Raises as `look_at_base`, and UserError."""
    uri = getattr(parameters, "reference_model_path", "").strip()
    if not uri:
        return None
    files = opened("reference_model_path", "pytorch", uri)
    found = _found(files)
    problems = list(tokenizer_problems(files, found.layout, *model.tokenizer))
    if problems:
        raise UserError(problems)
    return found


def with_reference(model: ModelFound, reference: ModelFound | None) -> ModelFound:
    """Add the reference model to the settings of import_model."""
    if reference is None:
        return model
    found = ModelSourceFound(kind=reference.settings.kind, source=reference.settings.source)
    return replace(model, settings=model.settings.model_copy(update={"reference": found}))


def _weights(files: ModelFiles, layout: ModelLayout) -> int:
    return sum(files.names[path] for name, path in layout.weights.items() if name.endswith(".safetensors"))


def look_at_data(parameters: SupervisedParameters) -> dict[str, DataFound]:
    """Resolve every given data source. Raises UserError with the problems of all of them."""
    return look_at_rows(DataSource.of(parameters), parameters.rows_task)


def look_at_rows(given: DataSource, task: str) -> dict[str, DataFound]:
    """Resolve the data sources of a task. Raises as `look_at_data`."""
    found: dict[str, DataFound] = {}
    problems: list[Problem] = []
    errors: list[StepError] = []
    texts = getattr(load_task(task), "PLAIN_TEXTS", False)
    for split in SPLITS:
        if not (uri := data_sources.description(split, given)):
            continue
        try:
            found[split] = _look(split, uri, given.model_dump_json(), texts)
        except UserError as error:
            problems += error.problems
        except StepError as error:
            errors.append(error)
    if problems:
        raise UserError(problems)
    if errors:
        raise errors[0]
    return found


@remembered
def _look(split: str, uri: str, source: str, texts: bool) -> DataFound:
    """Resolve one split of a DataSource, as JSON; refuse files without rows. With `texts`, plain text has some."""
    given = DataSource.model_validate_json(source)
    notes: list[str] = []
    found = data_sources.look(split, given, lambda code, what: notes.append(what) if "-W" in code else None)
    files = [one for one in found if isinstance(one, data_sources.DataFile)]
    problems = [problem for file in files for problem in _file_problems(file, texts)]
    if problems:
        raise UserError(problems)
    resolved = Resolved(uri=uri, digest=data_sources.digest(found))
    rows = [exact_rows(one.uri) if isinstance(one, data_sources.DataFile) else None for one in found]
    counted = [count for count in rows if count is not None]
    drawn_anew = split == "train" and (given.training_data or given.dedup)
    changed = given.processing_function or drawn_anew  # some rows may be dropped or repeated
    whole = len(counted) == len(rows) and not changed
    limits = [most_rows(file.uri, file.header) for file in files]
    known = [limit for limit in limits if limit is not None]
    bounded = len(known) == len(found) and not given.processing_function and not given.training_data
    return DataFound(
        resolved,
        sum(file.size for file in files),
        sum(counted) if whole else None,
        sum(known) if bounded else None,
        sum(_unpacked(file) for file in files) if len(files) == len(found) else None,
        sum(file.size for file in files if storage.local_path(file.uri) is None),
        tuple(notes),
    )


def _unpacked(file: data_sources.DataFile) -> int:
    packed = file.uri.lower().endswith((".gz", ".parquet")) or file.format == "parquet"
    return file.size * (PACKED if packed else 1)


def _file_problems(file: data_sources.DataFile, texts: bool) -> Iterator[Problem]:
    known = {*data_sources.SUFFIXES, *((data_sources.TEXT_SUFFIX,) if texts else ())}
    if file.size == 0:
        yield Problem("DATA-E0101", file.uri, "an empty file", "rows", "upload the file again")
    elif not file.format and data_sources.suffix_of(file.uri) not in known:
        formats = ", ".join([*data_sources.SUFFIXES, *sorted(known - data_sources.SUFFIXES.keys())])
        yield Problem("DATA-E0107", file.parameter, file.uri.rsplit("/", 1)[-1], f"a file ending in {formats}, or in "
                      "one of these and .gz", "rename the file")  # fmt: skip


def pinned_source(parameters: SupervisedParameters) -> DataSource:
    """Return the data parameters with every Hub revision pinned. Raises as `hub.resolve_dataset`."""
    return data_sources.pinned(DataSource.of(parameters))


def function_digest(parameters: RowReading) -> str:
    """Check the processing function without running it; return its file's digest, or "". Raises UserError."""
    if not parameters.processing_function:
        return ""
    return user_code.check_function("processing_function", parameters.processing_function).digest


def refuse_bad_uri(parameter: str, uri: str) -> None:
    if problems := storage.check_uri(parameter, uri):
        raise UserError(problems)
