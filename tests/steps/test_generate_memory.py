"""The memory of generate does not grow with the number of rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prompt_rows import text_row, write_prompts

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
MEASURED = """
import resource, sys
from pathlib import Path
import echo_engine
from steps.generate.step import generate
from steps.params.settings import GenerateSettings
echo_engine.put_in_place()
generate(GenerateSettings(), None, Path(sys.argv[1]), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
LARGE = int(os.environ.get("GENERATE_ROWS", 100_000))  # 1,000,000 takes ten minutes


def peak(count: int, folder: Path) -> float:
    """Return the peak of a run in MiB."""
    more = {"city": "Graz", "level": 3}
    write_prompts(folder / "data", (text_row(n, more=dict(more), id=str(n)) for n in range(count)))
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder / "data"), str(folder / "result")], check=True, text=True,
        capture_output=True, env={**os.environ, "PYTHONPATH": paths, "FINETUNE_ROOT": str(folder / "root")},
    )  # fmt: skip
    assert json.loads((folder / "result/manifest.json").read_text())["facts"]["answers"] == count
    return int(done.stdout.split()[-1]) / 1024


def test_memory_is_that_of_some_thousand_rows(tmp_path):
    thousand, full_part, many = (peak(count, tmp_path / str(count)) for count in (1_000, 16_384, LARGE))
    print(f"peak in MiB: {thousand:.0f} (1,000 rows), {full_part:.0f} (16,384), {many:.0f} ({LARGE:,})")
    # All rows of a part of the journal count, and these are 8,192.
    assert many < full_part + 25
    assert many < thousand + 100
