"""Look for files on which a reader fails, guided by the lines that each file reaches (atheris, libFuzzer).

    python tests/fuzz_search.py data -max_total_time=600

What fails is written as crash-…, timeout-… or oom-…; further arguments are those of libFuzzer, and folders of files
from earlier searches.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris
from fuzz_changes import changed

LONGEST = 10  # seconds that a file may take


def main() -> None:
    """Search with the target of the first argument, beginning with its seeds."""
    name, *others = sys.argv[1:]
    with atheris.instrument_imports(include=["steps", "pipelines"]):
        from fuzz_targets import TARGETS

        target = TARGETS[name]
        seeds = list(target.seeds())
        for content in seeds:  # which imports what is imported late
            target.read(content)

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if draw.random() < 0.4:
            return atheris.Mutate(data, longest)
        return changed(data, draw, target.choosing)[:longest]

    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(seeds):
            (Path(folder) / f"{number}").write_bytes(content)
        options = [f"-timeout={LONGEST}", "-rss_limit_mb=3000", "-max_len=20000", *others]
        atheris.Setup([sys.argv[0], *options, folder], target.read, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
