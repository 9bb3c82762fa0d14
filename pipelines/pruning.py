"""Remove old local runs, and keep what a registered version, an active run, a kept run or a resumed training needs.

A run is a folder below the root with the name of a pipeline and a time, and a result or a log of ours. Of a sweep that
has ended, the weights of all trials but the best are removed. Nothing else is ever removed. A run or sweep that starts
meanwhile waits until the removal is done. While runs are active, what the cache offers them stays too.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.active import alone, is_active
from pipelines.catalog import PIPELINES
from pipelines.old_sweeps import OldSweep, find_sweeps, sweep_in
from steps.errors import Preempted, Problem, StepError, UserError
from steps.params.registration import database_in
from steps.params.secrets import without_credentials
from steps.params.text_file import any_json
from steps.running import load

NAME = re.compile(r"(?P<pipeline>\w+)-\d{8}-\d{6}(-\d+)?")
REMOVED = ".removed-"  # prefix of a run that is being deleted


@dataclass(frozen=True)
class OldRun:
    """One run below a root."""

    folder: Path
    pipeline: str
    ended: float
    """Time of its last change, in seconds since 1970."""
    result: dict[str, Any] | None
    """result.json; None if the run was killed or is active."""

    @property
    def tracking_uri(self) -> str:
        """The MLflow server of the run; empty without one. Its password is in no file, only in the environment."""
        told = str((self.result or {}).get("tracking_uri") or "")
        now = os.environ.get("MLFLOW_TRACKING_URI", "")
        return now if told and told == without_credentials(now) else told

    @property
    def interrupted(self) -> bool:
        """Whether it was killed, or stopped with a checkpoint."""
        return self.result is None or (self.result.get("error") or {}).get("code") == Preempted.exit_code

    @property
    def uses(self) -> set[str]:
        """Names of other runs of which it uses a result."""
        told = self.result or {}
        paths = [*(told.get("artifacts") or {}).values(), *(told.get("uses") or []), _weights(told)]
        return {name for path in paths if (name := _run_in(str(path), self.folder.parent))} - {self.folder.name}


@dataclass
class Pruning:
    """What is removed, and what is kept with its reason."""

    removed: dict[str, int] = field(default_factory=dict)
    """Name of a run, or of another part of the root → bytes that its removal frees."""
    kept: dict[str, str] = field(default_factory=dict)
    """Name of a run that would have been removed → why it is kept."""
    missing: list[str] = field(default_factory=list)
    """Registered versions whose weights are gone."""
    closed: list[str] = field(default_factory=list)
    """MLflow runs of killed trainings that were closed."""

    @property
    def freed(self) -> int:
        """Bytes that are freed."""
        return sum(self.removed.values())


def prune(root: Path, keep: int = 10, older_than: float = 0.0, dry_run: bool = False) -> Pruning:
    """Remove all runs but the newest `keep` and those younger than `older_than` seconds.

    Raises UserError for a folder that holds no run.
    """
    root = root.absolute()
    runs, sweeps = find_runs(root), find_sweeps(root)
    if not runs and not sweeps:
        raise UserError(
            Problem("PRUNE-E0201", "--root", f"{root}, {'which holds no run' if root.is_dir() else 'no folder'}",
                    "a folder with runs of finetune run", "name the --root of these runs")
        )  # fmt: skip
    done = Pruning()
    with alone(root) as nobody:
        done.closed = [] if dry_run else _close_killed(root)
        reasons = _reasons(root, runs, sweeps, done, nobody)
        young = {run.folder.name for run in runs[:keep]} | {
            run.folder.name for run in runs if time.time() - run.ended < older_than
        }
        needed = _with_used(runs, young | reasons.keys(), reasons)
        old = [run for run in runs if run.folder.name not in needed]
        names = {run.folder.name for run in runs} - young
        done.kept = {name: why for name, why in reasons.items() if name in names}
        trials = _trials(sweeps, keep, older_than, reasons, done)
        sizes = _freed([run.folder for run in old])
        done.removed = {run.folder.name: size for run, size in zip(old, sizes, strict=True)}
        finished = _finished_trainings(root) if nobody else []  # a run may begin the same training again
        for more in (trials, finished):
            sizes = _freed(more)
            done.removed |= {str(folder.relative_to(root)): size for folder, size in zip(more, sizes, strict=True)}
        if not dry_run:
            going = (*(run.folder for run in old), *trials, *finished)
            gone = [moved for folder in going if (moved := _take_away(root, folder))]
            _forget_entries(root)
    if not dry_run:
        for folder in (*gone, *root.glob(f"{REMOVED}*")):
            shutil.rmtree(folder, ignore_errors=True)
    return done


def find_runs(root: Path) -> list[OldRun]:
    """Return the runs below a root, the newest first; anything that is not certainly a run of ours is passed over."""
    found = []
    for folder in root.iterdir() if root.is_dir() else ():
        named = NAME.fullmatch(folder.name)
        if not named or named["pipeline"] not in PIPELINES or folder.is_symlink() or not folder.is_dir():
            continue
        result = _result(folder / "result.json")
        if result is not None and result.get("pipeline") != named["pipeline"]:
            continue
        told = ["result.json"] if result is not None else []
        files = [folder / name for name in ("log.txt", *told) if (folder / name).is_file()]
        if files:
            with contextlib.suppress(FileNotFoundError):  # another process removes it
                found.append(OldRun(folder, named["pipeline"], max(file.stat().st_mtime for file in files), result))
    return sorted(found, key=lambda run: (run.ended, run.folder.name), reverse=True)


def _result(file: Path) -> dict[str, Any] | None:
    try:
        value = any_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _trials(sweeps: list[OldSweep], keep: int, older_than: float, reasons: dict[str, str], done: Pruning) -> list[Path]:
    """Return the weights of trials that nobody needs, in all sweeps but the newest and the young ones."""
    found: list[Path] = []
    for sweep in sweeps[keep:]:
        if time.time() - sweep.ended < older_than:
            continue
        if why := sweep.stays or reasons.get(sweep.name):
            done.kept[sweep.name] = why
            continue
        found += sweep.unneeded(reasons)
        trials = (name for name in reasons if name.startswith(f"{sweep.name}/"))
        done.kept |= {name: reasons[name] for name in trials}
    return found


def _reasons(root: Path, runs: list[OldRun], sweeps: list[OldSweep], done: Pruning, nobody: bool) -> dict[str, str]:
    """Return why runs and trials must stay, whatever their age: their name → the reason."""
    reasons: dict[str, str] = {}
    for run in runs:
        if is_active(run.folder / "log.txt"):
            reasons[run.folder.name] = "it is active"
        elif run.interrupted and _resumable(root, run):
            reasons[run.folder.name] = "it was interrupted, and its training can be resumed"
    for name, why in _registered(root, runs, sweeps, done).items():
        reasons.setdefault(name, why)
    if not nobody:
        for uri in _cached(root):
            if name := _run_in(uri, root):
                reasons.setdefault(name, "a run is active that may use its results")
    return reasons


def _resumable(root: Path, run: OldRun) -> bool:
    """Return whether the pipeline of a run has a training with checkpoints that is not finished."""
    told = str((run.result or {}).get("error", {}).get("resume_from") or "")
    unfinished = [
        folder for folder in (root / "checkpoints" / run.pipeline).glob("*")
        if not (folder / "finished.json").exists() and any(folder.glob("checkpoint-*"))
    ]  # fmt: skip
    return any(not told or Path(told).is_relative_to(folder) for folder in unfinished)


def _registered(root: Path, runs: list[OldRun], sweeps: list[OldSweep], done: Pruning) -> dict[str, str]:
    """Return what has the weights of a registered version; all that a server cannot be asked about, too."""
    known = {run.tracking_uri for run in runs if run.tracking_uri}
    known |= {sweep.tracking_uri for sweep in sweeps if sweep.tracking_uri}
    servers = {database_in(root), *known, *([os.environ["MLFLOW_TRACKING_URI"]] if _asked() else [])}
    reasons: dict[str, str] = {}
    for server in sorted(servers):
        try:
            versions = load("registered-weights")(server)
        except StepError as error:
            for run in runs:
                if (run.result or {}).get("registered") and run.tracking_uri == server:
                    name = _run_in(_weights(run.result), root) or run.folder.name
                    reasons[name] = _unknown(error)
            told = {sweep.tracking_uri or _default(root) for sweep in sweeps if sweep.is_registered}
            reasons |= {sweep.name: _unknown(error) for sweep in sweeps if server in told and sweep.is_registered}
            continue
        for version, weights in versions.items():
            if name := _run_in(weights, root) or sweep_in(weights, root):
                reasons[name] = f"{version} needs its weights"
                if not Path(weights.removeprefix("file://")).is_dir():
                    done.missing.append(f"{version}: its weights at {weights} are gone")
    return {name: why for name, why in reasons.items() if (root / name).is_dir()}


def _unknown(error: StepError) -> str:
    return f"a version may need it, and MLflow cannot be asked ({error.problems[0].found})"


def _default(root: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or database_in(root)


def _asked() -> bool:
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


def _with_used(runs: list[OldRun], needed: set[str], reasons: dict[str, str]) -> set[str]:
    """Add the runs whose results those that stay use, directly or not."""
    waiting, kept = [run for run in runs if run.folder.name in needed], set(needed)
    while waiting:
        user = waiting.pop()
        for run in runs:
            if run.folder.name in user.uses and run.folder.name not in kept:
                kept.add(run.folder.name)
                reasons[run.folder.name] = f"{user.folder.name} uses its results"
                waiting.append(run)
    return kept


def _weights(result: dict[str, Any] | None) -> str:
    return str(((result or {}).get("registered") or {}).get("weights_uri", ""))


def _run_in(path: str, root: Path) -> str:
    """Return the name of the run of this root in which a path is; empty for another place."""
    place = Path(path.removeprefix("file://"))
    if not place.is_absolute() or not place.is_relative_to(root) or place == root:
        return ""
    name = place.relative_to(root).parts[0]
    return name if NAME.fullmatch(name) else ""


def _freed(folders: list[Path]) -> list[int]:
    """Return the bytes that removing each folder frees; a file with a link elsewhere frees none."""
    sizes: list[int] = []
    links: dict[tuple[int, int], int] = {}
    for folder in folders:
        size = 0
        for place, _, names in os.walk(folder):
            for name in names:
                try:
                    info = os.lstat(os.path.join(place, name))
                except OSError:  # another process removes it
                    continue
                seen = links[info.st_dev, info.st_ino] = links.get((info.st_dev, info.st_ino), 0) + 1
                size += info.st_size if seen == info.st_nlink else 0
        sizes.append(size)
    return sizes


def _finished_trainings(root: Path) -> list[Path]:
    """Return the folders of trainings that ended and of which no checkpoint is kept."""
    return [
        file.parent
        for file in sorted((root / "checkpoints").glob("*/*/finished.json"))
        if not any(file.parent.glob("checkpoint-*")) and not is_active(file.parent / ".lock")
    ]


def _take_away(root: Path, folder: Path) -> Path | None:
    """Rename a folder at once, so that it is whole or absent; return its new place, None if another process took it."""
    place = root / f"{REMOVED}{os.getpid()}-{'-'.join(folder.relative_to(root).parts)}"
    try:
        os.rename(folder, place)
    except FileNotFoundError:
        return None
    return place


def _cached(root: Path) -> Iterator[str]:
    """Yield the place of every result that the cache offers."""
    for entry in (root / "cache").glob("*/*.json"):
        yield from _uris(_result(entry))


def _uris(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("uri"), str):
            yield value["uri"]
        for item in value.values():
            yield from _uris(item)
    elif isinstance(value, list):
        for item in value:
            yield from _uris(item)


def _forget_entries(root: Path) -> None:
    """Delete the cache's entries for results that are gone, and folders of the cache without entries."""
    for entry in (root / "cache").glob("*/*.json"):
        if any(_run_in(uri, root) and not Path(uri).exists() for uri in _uris(_result(entry))):
            entry.unlink(missing_ok=True)
    for folder in (root / "cache").glob("*"):
        with contextlib.suppress(OSError):  # it has entries
            folder.rmdir()


def _close_killed(root: Path) -> list[str]:
    """End the MLflow runs of killed trainings; a server that does not answer is asked the next time."""
    try:
        return list(load("close-runs")(root / "checkpoints"))
    except StepError:
        return []
