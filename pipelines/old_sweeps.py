"""Finished sweeps below a root, and the weights of their trials that nobody needs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.active import is_active
from pipelines.sweeping.folder import DESCRIPTION, FACTS, LOG, SWEEPS, SweepFolder
from pipelines.sweeping.run import OUTCOME
from steps.params.text_file import any_json

TUNED = "tuned"


@dataclass(frozen=True)
class OldSweep:
    """One sweep below a root."""

    folder: Path
    ended: float
    """Time of its last change, in seconds since 1970."""
    facts: dict[str, Any]
    """sweep.json; empty if it cannot be read."""
    outcome: dict[str, Any]

    @property
    def name(self) -> str:
        """Its place below the root."""
        return f"{SWEEPS}/{self.folder.name}"

    @property
    def stays(self) -> str:
        """Why all of it stays, whatever its age; empty if nothing speaks for it."""
        if is_active(self.folder / LOG) or SweepFolder(self.folder).driver() is not None:
            return "it is active"
        if self.outcome.get("state") != "finished" or self.facts.get("best") is None:
            return "it has not ended, and can go on"
        return ""

    @property
    def tracking_uri(self) -> str:
        """The server that its trials named; empty for that of the root."""
        plan = _object(self.folder / "plan/plan.json")
        return str((plan.get("effective") or {}).get("mlflow_server_uri") or "")

    @property
    def is_registered(self) -> bool:
        """Whether it has registered a version."""
        return bool((self.facts.get("final") or {}).get("registered"))

    def unneeded(self, reasons: dict[str, str]) -> list[Path]:
        """Return the weights of all trials but the best, and but those for which there are reasons by their place."""
        best = self.folder / "trials" / f"{self.facts['best']:04}"
        return [
            tuned
            for tuned in sorted(self.folder.glob(f"trials/[0-9]*/{TUNED}"))
            if tuned.parent != best and f"{self.name}/trials/{tuned.parent.name}" not in reasons
        ]


def find_sweeps(root: Path) -> list[OldSweep]:
    """Return the sweeps below a root, the newest first; anything that is not certainly one is passed over."""
    found = []
    for file in (root / SWEEPS).glob(f"*/{DESCRIPTION}"):
        folder = file.parent
        if folder.is_symlink():
            continue
        files = [folder / name for name in (DESCRIPTION, FACTS, OUTCOME) if (folder / name).is_file()]
        with contextlib.suppress(FileNotFoundError):
            ended = max(one.stat().st_mtime for one in files)
            found.append(OldSweep(folder, ended, _object(folder / FACTS), _object(folder / OUTCOME)))
    return sorted(found, key=lambda one: (one.ended, one.name), reverse=True)


def sweep_in(path: str, root: Path) -> str:
    """Return the place of the sweep, or of its trial, below the root in which a path is; empty for another place."""
    place = Path(path.removeprefix("file://"))
    if not place.is_absolute() or not place.is_relative_to(root / SWEEPS):
        return ""
    parts = place.relative_to(root).parts
    return "/".join(parts[:4] if parts[2:3] == ("trials",) else parts[:2])


def _object(file: Path) -> dict[str, Any]:
    try:
        value = any_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
