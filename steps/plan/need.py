"""What a task needs of its machine, as far as the plan knows it."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
CPU_WORK = 2 * GIB  # bytes for which a task gets another CPU: of weights that it copies, or of memory that it fills


@dataclass(frozen=True)
class Need:
    """Memory, CPUs and disk of one task."""

    memory: int | None
    """Bytes to request; None: unknown, or as much as the task's share of the machine."""
    why: str
    """The size that it follows from, in a few words."""
    disk: int = 0
    """Bytes on the node: what KFP's launcher downloads, what the task downloads itself, and what it writes."""
    more_disk: str = ""
    """Disk that is needed besides, in words."""
    least: int = 0
    """Bytes of memory without which the task probably fails; 0: not known."""
    work: int = 0
    """Bytes that decide the number of CPUs."""

    @property
    def cpu(self) -> int:
        """CPUs: one, and one more for every CPU_WORK."""
        return 1 + self.work // CPU_WORK
