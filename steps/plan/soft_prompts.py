"""What prompt tuning needs of the model: a head that goes on from a prompt, and positions for the learned vectors."""

from __future__ import annotations

from collections.abc import Iterator

from steps.errors import Problem
from steps.kinds.recipe import Recipe
from steps.params.pipeline import SupervisedParameters


def virtual_tokens(p: SupervisedParameters) -> int:
    """Positions that a learned prompt takes up; 0 where none is learned."""
    return p.num_virtual_tokens if p.apply_lora and p.peft_type == "prompt_tuning" else 0


def soft_prompt_problems(p: SupervisedParameters, recipe: Recipe, positions: int | None) -> Iterator[Problem]:
    """Yield why this model cannot be tuned by a prompt; `positions` is None where the model has no limit."""
    taken = virtual_tokens(p)
    if not taken:
        return
    if not recipe.takes_prompts:
        yield Problem("PLAN-E0384", "peft_type", f"prompt_tuning for {p.task}", "lora, ia3, loha or lokr: vectors "
                      "before the text are learned by models that go on from it, on right answers only",
                      "set peft_type=lora")  # fmt: skip
    if not positions:
        return
    if taken >= positions // 2:
        yield Problem("PLAN-E0385", "num_virtual_tokens", str(taken), f"less than {positions // 2}, half of the "
                      "model's positions: texts stand behind them", "lower it")  # fmt: skip
    elif p.max_seq_length > 0 and p.max_seq_length + taken > positions:
        yield Problem("PLAN-E0385", "max_seq_length", f"{p.max_seq_length} with num_virtual_tokens={taken}",
                      f"at most {positions} together, the model's positions",
                      f"set max_seq_length={positions - taken}")  # fmt: skip
