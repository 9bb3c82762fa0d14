"""The plan of batch inference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from steps.generation.engine_rules import engine_notes
from steps.kinds.recipe import Recipe
from steps.params.data import DataSource, Preprocessing
from steps.params.evaluation_config import EvaluationOptions
from steps.params.generation import DecodingParams, EngineParams
from steps.params.group import Group
from steps.params.pipelines.batch_inference import BatchInferenceParameters
from steps.params.quantisation import QuantisationParams
from steps.params.reading import Reading, read_parameters
from steps.params.settings import (
    ENDPOINT,
    AdapterSettings,
    DataSettings,
    GenerateSettings,
    ImportSettings,
    Resolved,
    ScoreSettings,
)
from steps.params.wording import in_words, in_words_of
from steps.plan.deciding import Trouble, asked_for
from steps.plan.evaluation_options import options_of_answers
from steps.plan.hardware import Hardware, inference_hardware, instance_types
from steps.plan.inference_checks import Asked, problems_of, warnings_of
from steps.plan.inference_memory import InferenceMemory, is_asked_for, longest, memory_of, needs_of
from steps.plan.machine import gpu_memory_here
from steps.plan.need import Need
from steps.plan.recipes import recipe_of_rows
from steps.plan.requests import request_of, requested, small_machine_notes
from steps.plan.seen import runs_here
from steps.plan.sources import DataFound, ModelFound, function_digest, look_at_asked_model, look_at_rows
from steps.plan.summary import reading_told
from steps.plan.templates import TemplateFound, look_at_template
from steps.sources import data_sources
from steps.sources.model_files import ModelFiles
from steps.tasks import load_task

PROMPTS = "test"  # the split that the prompts are


@dataclass(frozen=True)
class Decisions:
    """Everything that was read and decided."""

    reading: Reading
    """The requested parameters, and the effective ones with `auto` resolved."""
    recipe: Recipe
    model: ModelFound | None
    """None if a server has it."""
    data: dict[str, DataFound]
    """The rows with prompts; empty for prompts that are a parameter."""
    source: DataSource
    """Their parameters with Hub revisions pinned."""
    template: TemplateFound
    function_digest: str
    options: EvaluationOptions
    hardware: dict[str, Hardware]
    """Request of each task group."""
    needs: dict[str, Need]
    """What each task needs, by its name."""
    memory: InferenceMemory | None
    """None if a server has the model."""
    warnings: list[str]

    @property
    def parameters(self) -> BatchInferenceParameters:
        """The effective parameters."""
        return _parameters(self.reading)

    @property
    def adapter(self) -> ModelFiles | None:
        """The adapter that is served beside its base."""
        found = self.model.adapter if self.model else None
        return found.files if found and self.parameters.adapter_separate else None

    @property
    def rows(self) -> int | None:
        """Number of prompts, if it is known."""
        return len(self.parameters.asked) or self.data[PROMPTS].rows


def decide(pipeline: str, arguments: dict[str, Any]) -> Decisions:
    """Check everything that needs no weights and no GPU.

    Raises UserError with all problems that the user can fix; else the first refusal or outage.
    """
    reading = _resolved(read_parameters(pipeline, asked_for(pipeline, arguments)))
    with in_words_of(reading.parameters.names_told):
        return _decided(reading)


def _decided(reading: Reading) -> Decisions:
    trouble = Trouble()
    p = _parameters(reading)
    gpus = p.number_of_gpu_to_use_inference if p.needs_model else 0
    model = trouble.gather(lambda: look_at_asked_model(p)) if p.needs_model else None
    data = trouble.gather(lambda: {} if p.asked else look_at_rows(p.data_source, p.rows_task))
    source = trouble.gather(lambda: data_sources.pinned_split(PROMPTS, p.data_source))
    template = trouble.gather(lambda: look_at_template(p, model)) if p.needs_model else None
    function = trouble.gather(lambda: function_digest(p))
    options = trouble.gather(lambda: options_of_answers(p))
    most = trouble.gather(lambda: inference_hardware(p, gpus))
    recipe = recipe_of_rows(p.rows_task, model.layout.config if model else {})
    memory = memory_of(p, recipe, model, most["generate"], gpus) if model and most else None
    asked = Asked(p, recipe, model, template or TemplateFound(), data or {}, memory, _generation(p, recipe, gpus))
    trouble.add(problems_of(asked))
    trouble.raise_if_any()
    assert data is not None
    assert source is not None
    assert options is not None
    assert most is not None
    own = model.adapter.files if model and model.adapter and p.adapter_separate else None
    needs = needs_of(p, model, own, data, memory)
    notes = [*warnings_of(asked), *engine_notes(asked.settings), *options.notes]
    warnings = [*reading.warnings, *(in_words(note, p.names_told) for note in notes)]
    if not runs_here():
        warnings += small_machine_notes(most, needs, instance_types(p))
    return Decisions(
        reading, recipe, model, data, source, template or TemplateFound(), function or "", options.options,
        requested(most, needs), needs, memory, warnings,
    )  # fmt: skip


def _parameters(reading: Reading) -> BatchInferenceParameters:
    assert isinstance(reading.parameters, BatchInferenceParameters)
    return reading.parameters


def _resolved(reading: Reading) -> Reading:
    """Replace inference_type=auto: vllm where it is installed and a GPU computes, else accelerate.

    Of a cluster's image only this project's own content is known, which is without vllm.
    """
    p = _parameters(reading)
    if p.inference_type != "auto":
        return reading
    here = runs_here() and not is_asked_for(p) and p.number_of_gpu_to_use_inference and gpu_memory_here()
    engine = "vllm" if here and find_spec("vllm") else "accelerate"
    return replace(reading, parameters=p.model_copy(update={"inference_type": engine}))


def settings_of(decisions: Decisions) -> dict[str, Group]:
    """Return one settings value for each later step, by the name of the plan's output."""
    p, recipe = decisions.parameters, decisions.recipe
    server = ImportSettings(kind=ENDPOINT, source=Resolved(uri=p.endpoint_url, digest=p.endpoint_model))
    found = decisions.data.get(PROMPTS)
    return {
        "model": decisions.model.settings if decisions.model else server,
        "adapter": AdapterSettings(source=decisions.adapter.resolved if decisions.adapter else None),
        "data": DataSettings(
            task=p.rows_task,
            kind=recipe.kind.name,
            columns=_columns(p),
            test=found.resolved if found else None,
            asked=p.asked,
            source=decisions.source,
            processing_digest=decisions.function_digest,
            preprocessing=Preprocessing(chat_template=p.chat_template),
            chat_template_digest=decisions.template.digest,
        ),
        "generation": _generation(p, recipe, int(decisions.hardware["generate"].gpu_count)),
        "scoring": ScoreSettings(options=decisions.options),
    }


def _generation(p: BatchInferenceParameters, recipe: Recipe, gpus: int) -> GenerateSettings:
    return GenerateSettings(
        kind=recipe.kind.name,
        task=p.rows_task,
        columns=_columns(p),
        decoding=DecodingParams.of(p),
        engine=EngineParams.of(p),
        quantisation=QuantisationParams.of(p),
        gpus=gpus,
        checkpoint_dir=p.checkpoint_dir,
        upload_dir=p.s3_upload_dir,
    )


def _columns(p: BatchInferenceParameters) -> dict[str, Any]:
    return {key: getattr(p, key) for key in load_task(p.rows_task).Columns.model_fields}


def summary_of(decisions: Decisions) -> dict[str, Any]:
    """Return the plan as data, in the form of every pipeline's plan.json."""
    p, memory = decisions.parameters, decisions.memory
    return {
        "pipeline": decisions.reading.pipeline,
        "task": p.rows_task,
        "requested": decisions.reading.requested,
        "effective": p.model_dump(mode="json", exclude={"overrides"}),
        "translations": [vars(translation) for translation in decisions.reading.translations],
        "warnings": decisions.warnings,
        "tasks": [request_of(task, what, decisions.hardware, decisions.needs)
                  for task, what in _tasks(decisions).items()],
        "arithmetic": _arithmetic(decisions),
        "sources": list(_sources(decisions)),
        "reading": reading_told(decisions.source),
        "memory": None if memory is None else {
            "title": "memory of the engine",
            "needed_bytes": memory.needed,
            "parts": memory.parts,
            "available_bytes": memory.available or None,
            "available_in": memory.where,
            "note": f"for prompts and answers of {longest(p, decisions.model):,} tokens" if decisions.model else "",
            "on_cpu_bytes": memory.on_cpu,
            "processes": 1,
        },
        "tracking": "none: no model is trained",
    }  # fmt: skip


def _tasks(decisions: Decisions) -> dict[str, str]:
    p, model = decisions.parameters, decisions.model
    merged = model is not None and model.settings.needs_torch
    bits = f", in {p.bits} bits" if p.bits else ""
    how = f"draw with temperature {p.temperature:g}" if p.do_sample else "take the most probable tokens"
    how = f"{p.num_beams} beams" if p.num_beams > 1 else how
    count = f", {p.num_return_sequences} answers to each prompt" if p.num_return_sequences > 1 else ""
    copied = f"; copied to {p.s3_upload_dir}" if p.s3_upload_dir else ""
    imported = f"check and copy the model{', merge its adapter' if merged else ''}"
    return {
        "import_model": imported if model else f"nothing: {p.endpoint_url} has the model",
        "import_adapter": "check and copy the adapter" if decisions.adapter else "nothing to import",
        "prepare_data": "check every row; render the conversations for a test",
        "generate": f"{p.inference_type}{bits}: {how}{count}{copied}",
        "score": "compare answers with the right ones, if there are any",
    }


def _arithmetic(decisions: Decisions) -> list[dict[str, Any]]:
    p, rows = decisions.parameters, decisions.rows
    lines: list[dict[str, Any]] = []
    if rows is not None:
        lines.append({"name": "prompts", "value": rows, "how": "rows" if decisions.data else "prompt_conf"})
        answers = rows * p.num_return_sequences
        lines.append({"name": "answers", "value": answers, "how": f"prompts × {p.num_return_sequences}"})
        if p.max_new_tokens:
            how = f"answers × {p.max_new_tokens:,} tokens at most"
            lines.append({"name": "generated tokens, at most", "value": answers * p.max_new_tokens, "how": how})
    if p.needs_model and p.inference_type != "vllm":
        lines.append({"name": "prompts at a time", "value": p.test_batch_size, "how": "test_batch_size"})
    return lines


def _sources(decisions: Decisions) -> Any:
    if model := decisions.model:
        settings = model.settings
        found_by, source = settings.registered, settings.source
        uri = f"{found_by} at {source.uri}" if found_by not in ("", source.uri) else source.uri
        yield {"what": "model", "uri": uri, "digest": source.digest, "bytes": model.bytes}
        if adapter := model.adapter:
            yield {"what": "adapter", "uri": adapter.files.uri, "digest": adapter.files.digest, "bytes": adapter.bytes}
    else:
        p = decisions.parameters
        yield {"what": "endpoint", "uri": p.endpoint_url, "digest": p.endpoint_model, "bytes": 0}
    for found in decisions.data.values():
        yield {"what": "prompts", "uri": found.resolved.uri, "digest": found.resolved.digest, "bytes": found.bytes}
