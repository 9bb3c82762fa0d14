"""Prompts with images: which models and settings they can be trained with, told before anything is fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steps.errors import Problem, shown
from steps.kinds.models.image_text_lm import KIND, MODEL_TYPES
from steps.models.images import NEEDED
from steps.params.group import default_in
from steps.params.verl import TRL, WITH_CRITIC, VerlParams
from steps.plan.row_counts import has_values
from steps.plan.seen import Seen

TAKEN = f"a model of the type {' or '.join(sorted(MODEL_TYPES))}"


def image_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse images with a model of text, and a model that reads images where something else does not."""
    p = seen.parameters
    if not isinstance(p, VerlParams) or seen.model is None:
        return
    if not seen.recipe.kind.reads_images:
        yield from _without_reader(seen, p)
        return
    if not p.uses_verl:
        yield Problem("PLAN-E0547", seen.named_by, f"{_type_of(seen)}, which reads images, with ENGINE={TRL}",
                      "a model that reads texts only", "set ENGINE=vllm, or name another model",
                      why="the project's own trainer hands no images to a model")  # fmt: skip
        return
    if not p.data_filter_overlong_prompts:
        yield Problem("PLAN-E0548", "data_filter_overlong_prompts", f"false with {_type_of(seen)}", "true",
                      "leave it out", why="a prompt that is cut may lose a part of an image")  # fmt: skip
    if p.algorithm_adv_estimator == WITH_CRITIC:
        yield Problem("PLAN-E0548", "algorithm_adv_estimator", f"{WITH_CRITIC} with {_type_of(seen)}",
                      "an estimator without a critic", "set grpo",
                      why="verl's critic is loaded as a model that reads texts")  # fmt: skip
    if (engine := seen.parameters.evaluation_engine) == "vllm":
        yield Problem("PLAN-E0548", "evaluation_engine", f"{engine} with {_type_of(seen)}", "accelerate",
                      "leave it out, or set accelerate",
                      why="the evaluation answers prompts with images by transformers")  # fmt: skip
    if not set(NEEDED) & seen.model.layout.tokenizer_files.keys():
        yield Problem("PLAN-E0549", seen.named_by, f"{_type_of(seen)} without {NEEDED[0]}",
                      "the files of the model's processor", "save them beside the weights: "
                      "processor.save_pretrained(folder)")  # fmt: skip


def _without_reader(seen: Seen, p: VerlParams) -> Iterator[Problem]:
    """Refuse a column of images that the user named, or that the rows have, as far as the plan can read them."""
    usual, asked = default_in(VerlParams, "data_image_key"), p.data_image_key
    why = ("verl was read for these types only" if "vision_config" in seen.config else
           "the model reads texts only")  # fmt: skip
    if asked not in ("", usual) and p.uses_verl:  # of the project's own trainer, effects.py says that it has none
        yield Problem("PLAN-E0546", "data_image_key", f"{shown(asked)} with {_type_of(seen)}", TAKEN,
                      "name such a model, or leave data_image_key out and train on prompts of text",
                      why=why)  # fmt: skip
    if seen.parameters.processing_function:
        return
    for found in seen.data.values():
        if asked and has_values(found.resolved.uri, asked):
            images = f"images in the column {shown(asked)} with {_type_of(seen)}"
            yield Problem("PLAN-E0546", found.resolved.uri, images, TAKEN,
                          "name such a model, or remove the column and train on prompts of text",
                          why=why)  # fmt: skip


def _type_of(seen: Seen) -> str:
    return f"a model of the type {seen.config.get('model_type', 'unknown')}"


def text_problems(reads_images: bool, config: Mapping[str, Any], source: str) -> Iterator[Problem]:
    """Refuse a model that reads images where it would be loaded as a model of text, which transformers cannot do."""
    if not reads_images and KIND.made_for(config):
        yield Problem("PLAN-E0550", source, f"a model of the type {config['model_type']}, which reads images",
                      "a model that reads texts only", "name another model, or use the pipeline verl_finetune",
                      why="only verl_finetune trains and evaluates it, and a registered version of it answers prompts "
                      "with images")  # fmt: skip


def image_notes(seen: Seen) -> Iterator[str]:
    """Say what images cost."""
    p = seen.parameters
    if isinstance(p, VerlParams) and seen.recipe.kind.reads_images:
        yield (f"images count in data_max_prompt_length={p.data_max_prompt_length}: about one token for each 28 × 28 "
               "pixels, as far as the processor does not make them smaller (max_pixels); the estimate of memory counts "
               "these tokens, and not what the visual layers keep of each image")  # fmt: skip
