"""Every check of a training's plan: `check(seen) -> problems`, and every note: `note(seen) -> sentences`.

A check asks what was seen, and says nothing where the look that it needs has failed: those problems are noted already.
To add one: a function, beside the feature that it guards, and a line below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from steps.errors import Problem
from steps.launch.deepspeed_plan import ignored
from steps.plan.adapters import adapter_problems
from steps.plan.kinds import kind_problems, unfit_problems
from steps.plan.lengths import length_problems, model_args_problems
from steps.plan.place import package_problems, place_problems, tracking_notes, unbuilt_problems
from steps.plan.seen import Seen
from steps.plan.soft_prompts import soft_prompt_problems


def adapters(seen: Seen) -> Iterator[Problem]:
    """What an adapter needs of its base."""
    if seen.model:
        yield from adapter_problems(seen.parameters, seen.model.layout.config, seen.model.files.parameter)


def soft_prompts(seen: Seen) -> Iterator[Problem]:
    """What prompt tuning needs of the model."""
    if seen.model:
        yield from soft_prompt_problems(seen.parameters, seen.recipe, seen.model.layout.max_positions)


def warmup_notes(seen: Seen) -> Iterator[str]:
    """One way to warm up."""
    if seen.parameters.warmup_steps and seen.parameters.warmup_ratio:
        yield "warmup_ratio is ignored: warmup_steps wins over it"


def source_notes(seen: Seen) -> Iterator[str]:
    """What the looks at model, tokens and data had to say."""
    yield from seen.new_tokens.warnings
    for found in seen.data.values():
        yield from found.warnings
    if seen.model and seen.model.adapter:
        yield from seen.model.adapter.warnings


def deepspeed_notes(seen: Seen) -> Iterable[str]:
    """What DeepSpeed changes, or what is ignored without it."""
    return seen.zero.warnings if seen.zero else ignored(seen.parameters)


CHECKS: tuple[Callable[[Seen], Iterable[Problem]], ...] = (
    unbuilt_problems,
    place_problems,
    package_problems,
    unfit_problems,
    length_problems,
    model_args_problems,
    kind_problems,
    adapters,
    soft_prompts,
)
NOTES: tuple[Callable[[Seen], Iterable[str]], ...] = (tracking_notes, warmup_notes, source_notes, deepspeed_notes)
