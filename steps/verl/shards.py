"""The weights of a checkpoint of verl, joined from the parts that each GPU wrote.

A part is a pickle (`model_world_size_4_rank_0.pt`). It is opened with torch's reader for weights only, which runs no
code, and mapped into memory, so that joining needs memory for one tensor at a time. FSDP and FSDP2 both write DTensors:
the local rows, with the mesh of GPUs and how the tensor is divided. With verl's own way to read them, pickles could run
code, and every weight would be rounded to bfloat16 (verl.model_merger 0.9.1).
"""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.errors import Outage, Problem, SecurityRefusal, some_of
from steps.verl.checkpoints import shard_name, world_size

DIVISIONS = ("fsdp", "ddp and fsdp")


@dataclass(frozen=True)
class Shards:
    """The parts of one model, open; tensors are read when they are joined."""

    folder: Path
    parts: tuple[dict[str, Any], ...]
    """For each GPU: name of a tensor → what that GPU has of it."""

    @property
    def names(self) -> list[str]:
        """Return the names of all tensors, as torch gives them."""
        return list(self.parts[0])

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a whole tensor."""
        return tuple(self.parts[0][name].shape)

    def whole(self, name: str) -> Any:
        """Return a tensor, joined. Raises Outage if the parts do not fit together."""
        import torch
        from torch.distributed.tensor import DTensor
        from torch.distributed.tensor.placement_types import Shard

        first = self.parts[0][name]
        if not isinstance(first, DTensor):
            # FSDP divides nothing with a single GPU, and leaves buffers whole on each of several.
            if not all(torch.equal(part[name], first) for part in self.parts[1:]):
                raise self._misfit(name, "values that differ between GPUs", "one value of what is not divided")
            return first
        division: Any = first.placements[-1]
        copies = first.placements[:-1]
        if not all(one.is_replicate() for one in copies) or not (
            division.is_replicate() or (type(division) is Shard and isinstance(division.dim, int))
        ):
            raise self._misfit(name, f"a tensor divided as {first.placements}", " or ".join(DIVISIONS))
        if division.is_replicate():
            return first.to_local()
        # Of copies (ddp), the first row of the mesh has them all.
        ranks = first.device_mesh.mesh.reshape(-1, first.device_mesh.mesh.shape[-1])[0].tolist()
        joined = torch.cat([self.parts[rank][name].to_local() for rank in ranks], dim=division.dim)
        if tuple(joined.shape) != tuple(first.shape):
            raise self._misfit(name, f"parts of shape {tuple(joined.shape)} together", f"{tuple(first.shape)}")
        return joined

    def _misfit(self, name: str, found: str, expected: str) -> Outage:
        return Outage(
            Problem("VERL-E0402", f"{self.folder}: {name}", found, expected,
                    "resume from an older checkpoint, and train again from there"),
            transient=False,
        )  # fmt: skip


def part_files(folder: Path) -> list[Path]:
    """Return the file of each GPU with its part of the weights."""
    count = world_size(folder)
    return [folder / shard_name("model", count, rank) for rank in range(count)]


def open_shards(folder: Path) -> Shards:
    """Open the parts of a model in the folder `actor` of a checkpoint.

    Raises SecurityRefusal if one holds more than tensors, Outage if one is missing, cut off or has other tensors.
    """
    # For torch.compile, which is not used here, the mesh of a part needs the processes that wrote it.
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)
    parts = tuple(map(open_part, part_files(folder)))
    names = [set(part) for part in parts]
    odd = set[str]().union(*names) - set[str].intersection(*names) if names else set[str]()
    if not parts or odd or not names[0]:
        raise Outage(
            Problem("VERL-E0401", str(folder), f"tensors that only some parts have: {some_of(sorted(odd), 3)}" if odd
                    else f"the parts of {len(parts)} GPUs, without tensors", "the same tensors in the part of each GPU",
                    "resume from an older checkpoint, and train again from there"),
            transient=False,
        )  # fmt: skip
    return Shards(folder, parts)


def open_part(file: Path) -> dict[str, Any]:
    """Open the part of one GPU. Raises as `open_shards`."""
    import torch
    import torch.distributed.tensor  # torch's reader then knows DTensors

    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise SecurityRefusal(
            Problem("VERL-E0301", str(file), str(error).splitlines()[0][:80], "tensors only",
                    "train again from a checkpoint that verl wrote", why="other pickles can run code")
        ) from None  # fmt: skip
    except (OSError, RuntimeError) as error:
        raise Outage(
            Problem("VERL-E0403", str(file), str(error).splitlines()[0][:80], "the whole part of a GPU",
                    "resume from an older checkpoint, and train again from there"),
            transient=False,
        ) from None  # fmt: skip
    if not isinstance(found, dict) or not all(torch.is_tensor(value) for value in found.values()):
        raise SecurityRefusal(
            Problem("VERL-E0302", str(file), f"a {type(found).__name__} that holds more than tensors",
                    "tensors by name", "train again from a checkpoint that verl wrote")
        )  # fmt: skip
    return found
