"""All checks of a training plan, `check(seen) -> problems`, and all notes, `note(seen) -> sentences`.

A check returns nothing if an input that it needs could not be read, because those problems were recorded already.
To add one: a function next to the feature that it checks, and a line below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from steps.adapters.asked import base_problems, prompt_problems
from steps.adapters.targets import target_notes, target_problems
from steps.errors import Problem
from steps.plan.completion_engine import engine_notes, engine_problems
from steps.plan.effects import effect_notes
from steps.plan.evaluation_gpus import evaluation_notes
from steps.plan.generations import generation_notes, generation_problems
from steps.plan.images import image_notes, image_problems
from steps.plan.kinds import kind_problems, unfit_problems
from steps.plan.lengths import length_problems, model_args_problems
from steps.plan.memory_checks import memory_notes, memory_problems, sharing_problems
from steps.plan.nodes import node_notes, node_problems
from steps.plan.place import name_problems, package_problems, place_problems, tracking_notes
from steps.plan.rewards import column_problems, reward_notes
from steps.plan.seen import Seen
from steps.plan.shared_memory import shared_memory_notes
from steps.plan.small_data import row_problems
from steps.plan.templates import syntax_problems, template_notes
from steps.plan.tokenizer import template_problems, tokenizer_file_problems, tokenizer_problems
from steps.plan.tracking import tracking_problems
from steps.plan.verl import verl_notes, verl_problems
from steps.plan.verl_memory import rollout_problems
from steps.plan.vocabulary import token_problems
from steps.signing.asked import key_notes, key_problems


def source_notes(seen: Seen) -> Iterator[str]:
    """Warnings about model, tokens and data."""
    yield from seen.new_tokens.warnings
    for found in seen.data.values():
        yield from found.warnings
    if seen.model and seen.model.adapter:
        yield from seen.model.adapter.warnings


def option_notes(seen: Seen) -> Iterable[str]:
    """Which keys and metrics of evaluation_config have no effect."""
    return seen.options.notes if seen.options else ()


def deepspeed_notes(seen: Seen) -> Iterable[str]:
    """What DeepSpeed changes."""
    return seen.zero.warnings if seen.zero else ()


CHECKS: tuple[Callable[[Seen], Iterable[Problem]], ...] = (
    place_problems,
    node_problems,
    name_problems,
    package_problems,
    unfit_problems,
    length_problems,
    model_args_problems,
    kind_problems,
    base_problems,
    prompt_problems,
    target_problems,
    tokenizer_problems,
    tokenizer_file_problems,
    template_problems,
    syntax_problems,
    token_problems,
    row_problems,
    generation_problems,
    engine_problems,
    column_problems,
    verl_problems,
    image_problems,
    rollout_problems,
    tracking_problems,
    key_problems,
    sharing_problems,
    memory_problems,
)
NOTES: tuple[Callable[[Seen], Iterable[str]], ...] = (
    tracking_notes,
    source_notes,
    template_notes,
    deepspeed_notes,
    effect_notes,
    option_notes,
    target_notes,
    memory_notes,
    shared_memory_notes,
    evaluation_notes,
    node_notes,
    generation_notes,
    engine_notes,
    reward_notes,
    verl_notes,
    key_notes,
    image_notes,
)
