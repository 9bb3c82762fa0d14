"""What an adapter before the text needs of the model: what it puts out, and positions for the learned vectors."""

from __future__ import annotations

from collections.abc import Iterator

from steps.errors import Problem
from steps.kinds.adapters import ADAPTER_KINDS, for_every_model
from steps.kinds.recipe import Recipe
from steps.params.pipeline import SupervisedParameters


def virtual_tokens(p: SupervisedParameters) -> int:
    """Positions that a learned prompt takes up; 0 where none is learned."""
    return ADAPTER_KINDS[p.peft_type].positions(p) if p.apply_lora else 0


def soft_prompt_problems(p: SupervisedParameters, recipe: Recipe, positions: int | None) -> Iterator[Problem]:
    """Yield why this model cannot be tuned by a prompt; `positions` is None where the model has no limit."""
    kind, taken = ADAPTER_KINDS[p.peft_type], virtual_tokens(p)
    learned = recipe.kind.name in kind.heads and recipe.method.takes_prompts
    if p.apply_lora and kind.heads and not learned:
        yield Problem("PLAN-E0384", "peft_type", f"{kind.name} for {p.task}",
                      f"{for_every_model()}: {kind.why_heads}",
                      "set peft_type=lora")  # fmt: skip
    if not taken or not positions:
        return
    if taken >= positions // 2:
        yield Problem("PLAN-E0385", "num_virtual_tokens", str(taken), f"less than {positions // 2}, half of the "
                      "model's positions: texts stand behind them", "lower it")  # fmt: skip
    elif p.max_seq_length > 0 and p.max_seq_length + taken > positions:
        yield Problem("PLAN-E0385", "max_seq_length", f"{p.max_seq_length} with num_virtual_tokens={taken}",
                      f"at most {positions} together, the model's positions",
                      f"set max_seq_length={positions - taken}")  # fmt: skip
