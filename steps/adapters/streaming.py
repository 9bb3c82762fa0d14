"""Write a merged shard: the base's bytes with the changed tensors replaced, hashed while writing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from steps.adapters.planning import Change, Shard
from steps.models.hashed_file import HashedFile, copy_bytes


def write_shard(target: Path, shard: Shard, merge: Callable[[Change, HashedFile], None]) -> str:
    """Write a shard: header and unchanged tensors are copied, `merge` writes the others; return its sha256."""
    file = shard.tensors[0].file
    with HashedFile(target) as out:
        if shard.header:
            _write_anew(shard, merge, out)
        else:
            position = 0
            for change in shard.changes:
                copy_bytes(file, position, change.target.start, out)
                merge(change, out)
                position = change.target.end
            copy_bytes(file, position, file.stat().st_size, out)
    return out.hash.hexdigest()


def _write_anew(shard: Shard, merge: Callable[[Change, HashedFile], None], out: HashedFile) -> None:
    """Write a shard whose tensors are not those of the base's shard: its header, kept tensors, added tensors."""
    out.append(shard.header)
    changes = {change.target.name: change for change in shard.changes}
    for tensor in shard.kept:
        if change := changes.get(tensor.name):
            merge(change, out)
        else:
            copy_bytes(tensor.file, tensor.start, tensor.end, out)
    for tensor in shard.added:
        copy_bytes(tensor.file, tensor.start, tensor.end, out)
