"""Refuse training data that is too small for any training."""

from __future__ import annotations

from collections.abc import Iterator

from steps.errors import Problem
from steps.params.data import DataSource
from steps.params.preference import PreferenceMethod
from steps.params.splits import SPLITS, split_sizes
from steps.plan.generations import Generations, rewarded
from steps.plan.seen import Seen
from steps.plan.verl import asked
from steps.plan.verl import row_problems as step_problems
from steps.sources import data_sources


def row_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse training data that has too few rows for a training whatever they hold."""
    p, train = seen.parameters, seen.data.get("train")
    if train is None or train.most is None:
        return
    given = [split for split in SPLITS[1:] if data_sources.description(split, DataSource.of(p))]
    sizes = split_sizes(train.most, given)
    unpaired = 2 if isinstance(p, PreferenceMethod) and p.unpairs else 1
    # Equal rows stay on one side of a split, so more than usual may stay in train; each other split has at least one.
    count = max(0, train.most - (len(sizes) - 1)) * unpaired
    drawn = " and ".join(split for split in sizes if split != "train")
    held_out = f", of which at most {count} remain after holding out {drawn}" if drawn else ""
    found = f"{train.most} row{'s' if train.most != 1 else ''}{held_out}"
    prompts = Generations.of(whole).prompts if (whole := rewarded(p)) is not None else 0
    if of_verl := asked(p):
        yield from step_problems(of_verl, count, train.resolved.uri)
    elif count < p.min_train_rows:
        enough = f"at least {p.min_train_rows} for training" + (f", and one for {drawn}" if drawn else "")
        fix = "add rows" if count < 1 or p.min_train_rows == 1 else "add rows, or lower min_train_rows"
        yield Problem("PLAN-E0361", train.resolved.uri, found, enough, fix)
    elif count < prompts:
        yield Problem("PLAN-E0504", train.resolved.uri, found, f"at least {prompts}, the prompts of one generation",
                      "add rows, or lower per_device_train_batch_size or gradient_accumulation_steps",
                      why="prompts that fill no generation are left out")  # fmt: skip
