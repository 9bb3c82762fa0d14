"""The error of one process of several reaches the one that started it, also if its disk is full."""

import errno
import os

import pytest

from steps.errors import Outage, OutOfResources, Problem
from steps.generate.processes import _error_of
from steps.launch.several_processes import Ended
from steps.launch.told import first_error, tell_error, untold


def test_an_error_is_as_it_was(tmp_path):
    tell_error(tmp_path, 1, Outage(Problem("X-E0001", "a", "b", "c", "d"), transient=False))
    error = first_error(tmp_path)
    assert isinstance(error, Outage)
    assert (str(error), error.transient) == ("X-E0001 a: found b; expected c. Fix: d.", False)


def test_on_a_full_disk_the_exit_code_tells_it(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    tell_error(tmp_path, 1, OutOfResources(Problem("X-E0001", "a", "b", "c", "d")))
    assert list(tmp_path.iterdir()) == []
    error = _error_of(tmp_path, [Ended(1, OutOfResources.exit_code, 0.0), Ended(0, -15, 1.0)])
    assert (error.exit_code, error.problems[0].code) == (5, "DISK-E0102")
    assert "the volume" in str(error)


@pytest.mark.parametrize("code", [1, 70])
def test_another_code_without_an_error_is_a_bug(tmp_path, code):
    assert untold(tmp_path, "process 1", code).exit_code == 70
