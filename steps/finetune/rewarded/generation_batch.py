"""The completions of one generation, from which one or several optimizer steps learn.

All processes keep all of them, in the order in which they are learned from. So what a process gets for a forward pass
does not depend on which process wrote it, and a checkpoint within a generation can be resumed by another number of
processes: the policy that wrote these completions is gone by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from steps.finetune.rewarded.seeds import seed_of
from steps.launch.group import current

FILE = "generation_batch.safetensors"  # in a checkpoint
LEFT = {"prompt_ids", "prompt_mask"}  # padded on the left; other rows of tokens on the right


@dataclass
class GenerationBatch:
    """The tensors that TRL makes of completions, with one row per completion, on the CPU."""

    rows: dict[str, torch.Tensor]

    @classmethod
    def of(cls, own: dict[str, Any], padding: int, seed: int, number: int) -> GenerationBatch:
        """Join what the processes have written, and shuffle it by the seed and the number of the generation.

        As in TRL, completions to one prompt come into different forward passes.
        """
        told = {name: value.cpu() for name, value in own.items() if value is not None}
        parts = current().all_of(told)
        rows = {name: _joined([part[name] for part in parts], name, padding) for name in told}
        draws = torch.Generator().manual_seed(seed_of(seed, number, "order"))
        order = torch.randperm(len(rows["prompt_ids"]), generator=draws)
        return cls({name: value[order] if value.ndim else value for name, value in rows.items()})

    def part(self, number: int, size: int, device: Any) -> dict[str, torch.Tensor]:
        """Return this process's `size` rows of the forward pass with a number, without columns of padding."""
        group = current()
        start = (number * group.count + group.rank) * size
        made = {name: value[start : start + size] if value.ndim else value for name, value in self.rows.items()}
        prompt, completion = (_width(made[f"{name}_mask"], name) for name in ("prompt", "completion"))
        longest = self.rows["completion_ids"].shape[1]
        for name, value in made.items():
            if name in LEFT:
                made[name] = value[:, value.shape[1] - prompt :]
            elif value.ndim > 1 and value.shape[1] == longest:
                made[name] = value[:, :completion]
        return {name: value.to(device) for name, value in made.items()}

    def save(self, folder: Path) -> None:
        """Write the rows into a checkpoint."""
        save_file({name: value.contiguous() for name, value in self.rows.items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> GenerationBatch:
        """Read what `save` wrote."""
        return cls(load_file(folder / FILE))


def _width(mask: torch.Tensor, name: str) -> int:
    """Return the longest row; at least one token, also where every completion is masked."""
    used = mask.any(dim=0).nonzero().flatten()
    if not len(used):
        return 1
    return int(mask.shape[1] - used[0] if name == "prompt" else used[-1] + 1)


def _joined(parts: list[torch.Tensor], name: str, padding: int) -> torch.Tensor:
    if parts[0].ndim == 0:  # the same in all processes
        return parts[0]
    if parts[0].ndim == 1:
        return torch.cat(parts)
    longest = max(part.shape[1] for part in parts)
    value = padding if name.endswith("_ids") else 0
    made = []
    for part in parts:
        missing = longest - part.shape[1]
        sides = (missing, 0) if name in LEFT else (0, missing)
        made.append(torch.nn.functional.pad(part, sides, value=value))
    return torch.cat(made)
