"""What the plan of batch inference refuses, and what it warns of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steps.errors import Problem, UserError, nearest, shown
from steps.generation.asked import end_tokens_asked
from steps.generation.decoding_rules import decoding_problems, split, unknown_ids
from steps.generation.engine_rules import engine_problems, own_decoding
from steps.kinds.recipe import Recipe
from steps.models.chat_templates import set_at_the_server, undecided
from steps.models.layout import vocabulary_rows
from steps.models.tokenizer_files import TOKENIZER, TokenizerFiles
from steps.params.pipelines.batch_inference import BatchInferenceParameters
from steps.params.quantisation import PACKAGE
from steps.params.settings import GenerateSettings
from steps.plan.images import text_problems
from steps.plan.inference_memory import InferenceMemory, longest
from steps.plan.need import GIB
from steps.plan.packages import image_notes, missing_for, missing_here
from steps.plan.place import kept_problems, names_problems
from steps.plan.row_counts import first_row
from steps.plan.sources import DataFound, ModelFound
from steps.plan.templates import KEEP, TemplateFound, notes_on, problems_of_syntax
from steps.plan.tokenizer import file_problems_of, package_problems_of
from steps.plan.vocabulary import problems_of_tokens
from steps.sources import data_sources
from steps.tasks import load_task

PROMPTS = "test"


@dataclass(frozen=True)
class Asked:
    """What the plan has read; None or empty where reading failed and its problems were recorded."""

    parameters: BatchInferenceParameters
    recipe: Recipe
    model: ModelFound | None
    template: TemplateFound
    data: dict[str, DataFound]
    memory: InferenceMemory | None
    settings: GenerateSettings


def problems_of(asked: Asked) -> Iterator[Problem]:
    """Yield everything that would fail, or would not be what was asked for."""
    p = asked.parameters
    yield from names_problems(p)
    yield from kept_problems("checkpoint_dir", p.checkpoint_dir)
    yield from kept_problems("s3_upload_dir", p.s3_upload_dir)
    yield from _package_problems(p)
    wrong = decoding_problems(asked.settings.decoding)
    yield from wrong
    yield from (problem for problem in engine_problems(asked.settings) if problem.where not in {w.where for w in wrong})
    yield from _gpu_problems(p)
    yield from _length_problems(asked)
    yield from _template_problems(asked)
    if asked.model:
        yield from text_problems(p.inference_type == "vllm", asked.model.layout.config, asked.model.files.parameter)
        yield from package_problems_of(asked.model)
        yield from file_problems_of(asked.model)
        yield from _token_problems(asked.model, asked.recipe)
        if not wrong:
            yield from _end_token_problems(asked.settings, asked.model)
    yield from _memory_problems(asked)


def _package_problems(p: BatchInferenceParameters) -> Iterator[Problem]:
    if package := missing_for(p.inference_type):
        yield Problem("PLAN-E0401", "inference_type", f"{p.inference_type}, but the package {package} is missing",
                      f"{package} installed", f"install it (pip install {package}), or set inference_type=accelerate"
                      )  # fmt: skip
    if p.bits and missing_here(PACKAGE):
        name = f"load_in_{p.bits}bit"
        yield Problem("PLAN-E0401", name, f"true, but the package {PACKAGE} is missing", f"{PACKAGE} installed",
                      f"install it (pip install {PACKAGE}), or leave {name} out")  # fmt: skip


def _gpu_problems(p: BatchInferenceParameters) -> Iterator[Problem]:
    count, wanted = p.number_of_gpu_to_use_inference, p.tensor_parallel_size
    if p.needs_model and wanted > max(count, 1):
        yield Problem("PLAN-E0402", "tensor_parallel_size", f"{wanted} with number_of_gpu_to_use_inference={count}",
                      f"at most {max(count, 1)}", f"set number_of_gpu_to_use_inference={wanted}")  # fmt: skip


def _length_problems(asked: Asked) -> Iterator[Problem]:
    """Refuse an answer that leaves no room for a prompt in a model with fewer positions than max_length."""
    p, model = asked.parameters, asked.model
    if not p.needs_model or not p.max_new_tokens or asked.recipe.kind.has_encoder:
        return
    limit = longest(p, model) if model else p.max_length
    if limit < p.max_length and p.max_new_tokens >= limit:
        yield Problem("PLAN-E0403", "max_new_tokens", str(p.max_new_tokens),
                      f"less than {limit}, the model's number of positions",
                      f"set max_new_tokens={max(limit // 2, 1)}, or less",
                      why="the prompt and its answer must fit together")  # fmt: skip


def _template_problems(asked: Asked) -> Iterator[Problem]:
    p = asked.parameters
    if not p.needs_model:
        if p.chat_template != KEEP:
            yield set_at_the_server(p.chat_template)
        return
    if asked.model is None or not _has_conversations(asked):
        return
    if p.chat_template == KEEP and (problem := undecided(asked.template.own)):
        yield problem
    else:
        yield from problems_of_syntax(asked.template, p.chat_template)


def _has_conversations(asked: Asked) -> bool:
    """Return whether the first row is a conversation, if it can be read here."""
    p = asked.parameters
    uri = data_sources.description(PROMPTS, p.data_source) if asked.data else ""
    row, task = first_row(uri) if uri else None, load_task(p.rows_task)
    columns = task.Columns(**asked.settings.columns)
    if row is None or p.processing_function or any(True for _ in task.check_row(row, columns)):
        return False
    return task.canonical(row, columns)["prompt"] is not None


def _memory_problems(asked: Asked) -> Iterator[Problem]:
    """Refuse weights that alone exceed the memory."""
    memory, p = asked.memory, asked.parameters
    if memory is None or not memory.available or memory.parts.get("weights", 0) <= memory.available:
        return
    yield Problem("PLAN-E0404", "instance_type_inference" if "this machine" not in memory.where else
                  "number_of_gpu_to_use_inference",
                  f"{memory.parts['weights'] / GIB:.1f} GiB of weights for the {memory.available / GIB:.1f} GiB of "
                  f"{memory.where}", "room for them, and for the answers besides", _smaller(p, memory))  # fmt: skip


def _smaller(p: BatchInferenceParameters, memory: InferenceMemory) -> str:
    """Say with what it would fit."""
    ways = []
    if p.inference_precision != "half" and not memory.on_gpu and not p.bits:
        ways.append("inference_precision=half")
    if not p.bits and p.inference_type == "accelerate":
        ways.append("load_in_4bit=true")
    if memory.on_gpu:
        ways.append("more GPUs (number_of_gpu_to_use_inference)")
        ways.append("inference_type=deepspeed_zero and cpu_offload=true")
    tried = f"try {'; or '.join(ways)}; or " if ways else ""
    return f"{tried}a larger instance_type_inference"


def warnings_of(asked: Asked) -> Iterator[str]:
    """Yield what a person should know before the run."""
    p, model, memory = asked.parameters, asked.model, asked.memory
    for found in asked.data.values():
        yield from found.warnings
    if model and model.adapter:
        yield from model.adapter.warnings
    if memory and not memory.fits:
        less = "lower max_length or test_batch_size" if p.inference_type != "vllm" else "lower max_length"
        yield (f"generate is expected to need {memory.needed / GIB:.1f} GiB with the longest prompts, but "
               f"{memory.available / GIB:.1f} GiB of {memory.where} are usable: {less}, or name a larger "
               "instance_type_inference")  # fmt: skip
    if model and (positions := model.layout.max_positions) and p.max_length > positions and p.max_new_tokens:
        yield f"max_length: the model has {positions:,} positions, so that prompt and answer have at most these"
    yield from image_notes("inference_type", p.inference_type, "generate")
    if p.needs_model and _has_conversations(asked):
        yield from notes_on(asked.template.text)


def _token_problems(model: ModelFound, recipe: Recipe) -> Iterator[Problem]:
    """Refuse tokens with a role that the model has no embedding for, and generation settings that cannot be read."""
    config = model.layout.config
    try:
        yield from problems_of_tokens(model, config, recipe.kind.goes_on, vocabulary_rows(config))
    except UserError as error:
        yield from error.problems


def _end_token_problems(settings: GenerateSettings, model: ModelFound) -> Iterator[Problem]:
    """Refuse end tokens that tokenizer.json does not have; without that file, generate looks for them."""
    ids, texts = end_tokens_asked(own_decoding(settings.decoding)[0])
    more = split(settings.decoding)[1] if settings.decoding.hf_gen_params else {}
    source, names = model.tokenizer
    if TOKENIZER not in names or not (ids or texts or more):
        return
    try:
        known = TokenizerFiles.read(names, lambda name: source.read(names[name])).numbers()
    except ValueError:  # import_model tells what is wrong with the file
        return
    most = max(known.values(), default=-1)
    for wrong in [*(text for text in texts if text not in known), *(number for number in ids if number > most)]:
        yield Problem("PLAN-E0405", "eos_tokens", f"{shown(wrong)}, which the tokenizer has not",
                      f"a token, or an id up to {most}", nearest(str(wrong), known) or "correct it, or leave it out"
                      )  # fmt: skip
    positions = int(model.layout.config.get("vocab_size") or 0)  # more than tokens, where it was rounded up
    for name, number in unknown_ids({key: value for key, value in more.items() if key != "eos_token_id"},
                                    max(most + 1, positions)):  # fmt: skip
        yield Problem("PLAN-E0406", f"hf_gen_params.{name}", f"{number}, which the model has not",
                      f"an id below {max(most + 1, positions)}", "correct it, or leave it out")  # fmt: skip
