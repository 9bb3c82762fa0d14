"""Files with small changes never break a reader; `make fuzz` searches further, guided by what each file reaches."""

import random

import pytest
from fuzz_changes import changed
from fuzz_targets import TARGETS

pytestmark = pytest.mark.slow
# Files that each reader is tried on; a plan takes longer than a header.
TRIES = {"data": 100, "configuration": 200, "model": 60, "weights": 1000}


@pytest.mark.parametrize("name", TARGETS)
def test_a_changed_file_is_read_or_refused(name, monkeypatch, tmp_path):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path))
    target, draw = TARGETS[name], random.Random(21)
    seeds = list(target.seeds())
    for data in seeds:
        target.read(data)
    for number in range(TRIES[name]):
        data = changed(draw.choice(seeds), draw, target.choosing)
        try:
            target.read(data)
        except Exception as error:
            raise AssertionError(f"{number}: {data!r}") from error
