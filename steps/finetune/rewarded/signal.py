"""Warn of batches from which nothing can be learned: in each group of completions all have the same reward."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

log = logging.getLogger("finetune")

EVERY = 50  # batches without a signal between two warnings


@dataclass
class Signal:
    """How many generations there were, and in how many of them no group had different rewards."""

    generations: int = 0
    without: int = 0

    def note(self, step: int, rewards: Sequence[float], group: int) -> None:
        """Count a generation with the rewards of its completions, NaN where none applies, `group` to each prompt."""
        self.generations += 1
        groups = [rewards[start : start + group] for start in range(0, len(rewards), group)]
        if any(_differ(one) for one in groups):
            return
        if self.without % EVERY == 0:
            applies = [reward for reward in rewards if not math.isnan(reward)]
            same = f"all are {applies[0]:g}" if len(set(applies)) == 1 else "within each group all are equal"
            log.warning(
                "WARNING step %d: no group of completions has different rewards (%s), so this step learns nothing from "
                "them; so far in %d of %d batches",
                step, same if applies else "no reward applies", self.without + 1, self.generations,
            )  # fmt: skip
        self.without += 1

    def tell(self) -> None:
        """Warn at the end if most generations had no signal."""
        if self.without * 2 > self.generations:
            log.warning(
                "WARNING %d of %d batches of completions had no group with different rewards: the model learned little "
                "or nothing. Use rewards with more steps between none and full, prompts that it sometimes answers "
                "right, more num_generations, or a higher temperature",
                self.without, self.generations,
            )  # fmt: skip


def _differ(rewards: Sequence[float]) -> bool:
    applies = [reward for reward in rewards if not math.isnan(reward)]
    return len(applies) > 1 and max(applies) - min(applies) > 1e-8
