"""Writers of folders and files that are killed at random: readers see what was before or after, nothing between."""

from __future__ import annotations

import json
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from chaos_row import Row
from command_line import with_our_code
from forking import ForkingPython

from steps.artifacts import manifest_alone, read_manifest
from steps.errors import StepError
from steps.sealed import damage_of, is_sealed

FILES = 5
BYTES = 20_000
LONGEST = 0.05  # seconds from the first whole result to the kill: some writes of each kind
# Each writes the number `n`, once for each of its numbers; the last one is the result that a retry has to give.
WRITERS = {
    "artifact": """
with new_artifact(place, "data") as draft:
    for name in names:
        (draft / name).write_bytes(content)
    draft.facts = {"n": n}
""",
    "checkpoint": """
folder = place / f"checkpoint-{n}"
folder.mkdir(parents=True)
for name in names:
    (folder / name).write_bytes(content)
seal_folder(folder, {"n": n})
""",
    "file": """
place.mkdir(exist_ok=True)
write_durably(place / "state.json", json.dumps([n] * (size // 4)))
""",
}
BEFORE = """
import json, pathlib, sys
from steps.artifacts import new_artifact, write_durably
from steps.sealed import seal_folder
place, names, size = pathlib.Path(sys.argv[1]), [str(number) for number in range(int(sys.argv[2]))], int(sys.argv[3])
for n in range(int(sys.argv[4]), int(sys.argv[5])):
    content = str(n).encode() * size
"""


@dataclass
class Writers:
    """A Python that forks writers, and what each leaves that nobody killed."""

    python: ForkingPython
    folder: Path
    undisturbed: dict[str, object] = field(default_factory=dict)

    def start(self, kind: str, place: Path, first: int, end: int):
        """Start a writer of the numbers from `first` to before `end`."""
        code = BEFORE + "".join(f"    {line}\n" for line in WRITERS[kind].strip().splitlines())
        words = [str(word) for word in (place, FILES, BYTES, first, end)]
        files = [self.folder / "out.txt", self.folder / "log.txt"]
        return self.python.start(code, *words, cwd=Path.cwd(), environment=with_our_code(), files=files)

    def expected(self, kind: str) -> object:
        """Return what a writer leaves that writes the number 0 only, and is not disturbed."""
        if kind not in self.undisturbed:
            place = self.folder / f"undisturbed-{kind}"
            assert self.start(kind, place, 0, 1).wait(300) == 0, (self.folder / "log.txt").read_text()
            self.undisturbed[kind] = left(kind, place, 0)
        return self.undisturbed[kind]


def left(kind: str, place: Path, number: int) -> object:
    """Return the digest of a folder, or the content of a file, that a writer wrote for a number."""
    if kind == "file":
        return (place / "state.json").read_text()
    return manifest_alone(place if kind == "artifact" else place / f"checkpoint-{number}").digest


def torn(kind: str, place: Path) -> str:
    """Return what a reader sees of a write that is not whole; empty if nothing."""
    if kind == "file":
        return "" if len(set(json.loads((place / "state.json").read_text()))) == 1 else "a file of two writes"
    if kind == "checkpoint":
        told = [f"{one.name}: {damage_of(one)}" for one in place.iterdir() if is_sealed(one) and damage_of(one)]
        return "; ".join(told)
    if not place.exists():  # between the old one and the new one
        return ""
    try:
        number = read_manifest(place, "data").facts["n"]
    except StepError as error:
        return str(error)
    content = {(place / str(name)).read_bytes() for name in range(FILES)}
    return "" if content == {str(number).encode() * BYTES} else "files of another write"


def written(kind: str, place: Path) -> bool:
    """Return whether the first write is whole."""
    if kind == "checkpoint":
        return (place / "checkpoint-1/manifest.json").exists()
    return (place if kind == "artifact" else place / "state.json").exists()


def killed(writers: Writers, trial: int, draw: random.Random) -> str:
    """A writer that writes again and again is killed; then one that writes once leaves what it always leaves."""
    kind = list(WRITERS)[trial % len(WRITERS)]
    expected, place = writers.expected(kind), Path(tempfile.mkdtemp(dir=writers.folder)) / kind
    writer, until = writers.start(kind, place, 1, 1_000_000), time.monotonic() + 60
    while not written(kind, place):
        if writer.poll() is not None or time.monotonic() > until:
            return f"the writer of a {kind} wrote nothing: {(writers.folder / 'log.txt').read_text()[-500:]}"
        time.sleep(0.001)
    time.sleep(draw.uniform(0, LONGEST))
    writer.kill()
    writer.wait(60)
    if said := torn(kind, place):
        return f"{kind}: {said}"
    if code := writers.start(kind, place, 0, 1).wait(60):
        return f"the writer of a {kind} that came after it ended with {code}"
    return "" if left(kind, place, 0) == expected else f"another {kind} than without a kill"


ROWS = [Row(14, "a writer is killed", killed, "writers", short=9, long=600)]
