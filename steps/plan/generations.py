"""The arithmetic of training with rewards: prompts, completions and updates of one generation, and of the training.

A generation is what the model writes at once: `steps` batches of every process, num_generations completions to each
prompt. Every completion is learned from num_iterations times. TRL's trainer leaves out the prompts of an epoch that do
not fill a generation, and refuses a generation or an evaluation batch that cuts a prompt's completions in two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from steps.errors import Problem
from steps.params.divisible import divisor_near, either, multiples_near
from steps.params.pipeline import SupervisedParameters
from steps.params.rewarded import RewardedParameters as Rewarded
from steps.plan.seen import Seen

# Values above which a training is often unstable: the ratio is usually clipped at 0.2, completions used 1 to 4 times.
MOST_EPSILON, MOST_ITERATIONS = 0.3, 4
LEAST_ADAPTER_RATE = 5e-6


def rewarded(p: SupervisedParameters) -> Rewarded | None:
    """Return the parameters if they are of training with rewards by this project's trainers; else None."""
    found = judged(p)
    return None if found is None or found.uses_verl else found


def judged(p: SupervisedParameters) -> Rewarded | None:
    """Return the parameters if they are of training with rewards, whatever trains; else None."""
    return p if isinstance(p, Rewarded) else None


@dataclass(frozen=True)
class Generations:
    """What is written and learned."""

    steps: int
    """Forward passes of a process over the completions of one generation."""
    completions: int
    """Completions of one generation, of all processes."""
    prompts: int
    """Prompts of one generation."""
    passes: int
    """Forward passes of a process between two generations."""
    accumulated: int
    """Forward passes of an optimizer step."""

    @classmethod
    def of(cls, p: Rewarded) -> Generations:
        """Compute the figures; `prompts` is rounded down if the completions cannot be divided."""
        steps = p.passes(p.gradient_accumulation_steps)
        completions = p.per_device_train_batch_size * p.devices * steps
        return cls(steps, completions, completions // p.num_generations, steps * p.num_iterations,
                   p.gradient_accumulation_steps)  # fmt: skip

    @property
    def updates(self) -> str:
        """Optimizer steps with the completions of one generation."""
        whole, rest = divmod(self.passes, self.accumulated)
        return str(whole) if not rest else f"{self.passes / self.accumulated:.3g}"

    def per_epoch(self, rows: int) -> int:
        """Return the optimizer steps of an epoch over `rows` prompts, as transformers' Trainer counts them."""
        return max(1, math.ceil(rows // max(self.prompts, 1) * self.passes / self.accumulated))

    def count(self, steps: int) -> int:
        """Return the number of generations of a training of so many optimizer steps."""
        return math.ceil(steps * self.accumulated / self.passes)


def table(p: Rewarded, rows: int | None, learned: str) -> list[dict[str, Any]]:
    """Return rows of {name, value, how}; `rows` is the number of training prompts, None if it is not known yet.

    `learned` says which of the given rows they are.
    """
    made = Generations.of(p)
    processes = f" × {p.devices} processes" if p.devices > 1 else ""
    of_steps = "steps_per_generation" if p.steps_per_generation else "accumulated"
    batch = p.per_device_train_batch_size
    lines: list[dict[str, Any]] = [
        {"name": "longest sequence", "value": p.max_prompt_length + p.max_completion_length,
         "how": f"tokens: a prompt of {p.max_prompt_length} and a completion of {p.max_completion_length}"},
        {"name": "prompts per generation", "value": made.prompts,
         "how": f"{made.completions} completions / {p.num_generations} each"},
        {"name": "completions per generation", "value": made.completions,
         "how": f"{batch} per device{processes} × {made.steps} {of_steps}"},
        {"name": "updates per generation", "value": made.updates,
         "how": f"{made.steps} × {p.num_iterations} iterations / {made.accumulated} accumulated"},
        {"name": "sequences per optimizer step", "value": p.sequences_per_step,
         "how": f"{batch} per device{processes} × {made.accumulated} accumulated"},
    ]  # fmt: skip
    if rows is None and p.max_steps <= 0:
        return [*lines, {"name": "optimizer steps", "value": "known after prepare_data",
                         "how": "the rows are not counted yet"}]  # fmt: skip
    steps = p.max_steps
    if rows is not None:
        over = rows % max(made.prompts, 1)
        left = f"; {over} of an epoch left out, as they fill no generation" if over else ""
        lines.append({"name": "training rows", "value": rows, "how": f"{learned}{left}"})
        steps = steps if steps > 0 else math.ceil(made.per_epoch(rows) * p.num_train_epochs)
    known = rows is not None
    rule = "max_steps" if p.max_steps > 0 or not known else (
        f"{made.per_epoch(rows or 0)} per epoch × {p.num_train_epochs:g} epochs")  # fmt: skip
    count = made.count(steps)
    return [
        *lines,
        {"name": "optimizer steps", "value": steps, "how": rule},
        {"name": "completions in all", "value": count * made.completions,
         "how": f"{count:,} generations; {count * made.prompts:,} prompts, repeated ones counted each time"},
    ]  # fmt: skip


def generation_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse batches that cut the completions to a prompt in two, and lengths beyond the model's positions."""
    if p := rewarded(seen.parameters):
        yield from batch_problems(p)
        yield from _length_problems(p, seen.positions)


def batch_problems(p: Rewarded) -> Iterator[Problem]:
    """Refuse batches that are no whole number of groups; the fix names the nearest that are."""
    made, group = Generations.of(p), p.num_generations
    if made.completions % group:
        others = p.devices * made.steps
        yield Problem("PLAN-E0501", "per_device_train_batch_size",
                      f"{p.per_device_train_batch_size} × {_over(p, made.steps)} = {made.completions} completions per "
                      f"generation with num_generations={group}", f"a multiple of {group}",
                      _nearest("per_device_train_batch_size", p.per_device_train_batch_size, others, group),
                      why="completions are compared with others to the same prompt")  # fmt: skip
    evaluates = p.evaluation_strategy != "no" or p.do_eval
    batch = p.per_device_eval_batch_size * p.devices
    if evaluates and batch % group:
        yield Problem("PLAN-E0502", "per_device_eval_batch_size",
                      f"{p.per_device_eval_batch_size} × {p.devices} process{'es' if p.devices > 1 else ''} = {batch} "
                      f"with num_generations={group}", f"a multiple of {group}",
                      _nearest("per_device_eval_batch_size", p.per_device_eval_batch_size, p.devices, group),
                      why="an evaluation writes as many completions to each prompt")  # fmt: skip


def _over(p: Rewarded, steps: int) -> str:
    of_steps = "steps_per_generation" if p.steps_per_generation else "gradient_accumulation_steps"
    return f"{p.devices} process{'es' if p.devices > 1 else ''} × {steps} {of_steps}"


def _nearest(name: str, size: int, others: int, group: int) -> str:
    """Return the nearest sizes that give whole groups, and the nearest groups that divide what there is."""
    near = divisor_near(size * others, group, least=2)
    sizes = either(multiples_near(size, others, group))
    return f"set {name} to {sizes}" + (f", or num_generations to {near}" if near else "")


def _length_problems(p: Rewarded, positions: int | None) -> Iterator[Problem]:
    room = (positions or 0) - p.max_completion_length
    if positions and room < 1:
        yield Problem("PLAN-E0503", "max_completion_length", str(p.max_completion_length),
                      f"less than {positions}, the model's number of positions", "lower it",
                      why="the prompt must fit before the completion")  # fmt: skip
    elif positions and p.max_prompt_length > room:
        yield Problem("PLAN-E0503", "max_prompt_length",
                      f"{p.max_prompt_length} with max_completion_length={p.max_completion_length}",
                      f"at most {positions} tokens together, the model's number of positions",
                      f"set max_prompt_length to at most {room}, or lower max_completion_length")  # fmt: skip


def generation_notes(seen: Seen) -> Iterator[str]:
    """Warn of values with which trainings often go wrong, although they can be meant."""
    p = rewarded(seen.parameters)
    if p is None:
        return
    # A loss that clips above only usually does so far above 1.
    if p.loss.clips == "both" and p.epsilon > MOST_EPSILON:
        yield (f"epsilon={p.epsilon:g}: above {MOST_EPSILON:g} a few updates may change the model so far that it "
               "writes noise; 0.2 is usual")  # fmt: skip
    if p.num_iterations > MOST_ITERATIONS:
        yield (f"num_iterations={p.num_iterations}: with more than {MOST_ITERATIONS} updates from the same completions "
               "the model differs more and more from the one that wrote them; 1 is usual")  # fmt: skip
    if p.apply_lora and p.learning_rate < LEAST_ADAPTER_RATE:
        yield (f"learning_rate={p.learning_rate:g} with apply_lora=true: an adapter hardly changes; "
               "1e-5 to 1e-4 is usual for adapters")  # fmt: skip
