"""The guard over the process that tests share sees what one leaves there, and sets it back."""

import gc
import locale
import logging
import os
import signal
import socket
import sys

import pytest
from process_state import PARTS, put_back, seed, state

CHANGES = {
    "working directory": lambda folder: os.chdir(folder),
    "umask": lambda _: os.umask(0o077),
    "sys.path": lambda folder: sys.path.insert(0, str(folder)),
    "locale": lambda _: locale.setlocale(locale.LC_ALL, "C.UTF-8"),
    "socket timeout": lambda _: socket.setdefaulttimeout(7),
    "recursion limit": lambda _: sys.setrecursionlimit(5000),
    "garbage collection": lambda _: gc.disable(),
    "stores of mlflow": lambda folder: mlflow().set_registry_uri(f"sqlite:///{folder}/registry.db"),
    "torch.get_default_dtype": lambda _: torch().set_default_dtype(torch().float64),
    "torch.get_num_threads": lambda _: torch().set_num_threads(3),
    "torch.is_grad_enabled": lambda _: torch().set_grad_enabled(False),
    "torch.are_deterministic_algorithms_enabled": lambda _: torch().use_deterministic_algorithms(True),
}
BY_STEPS = {
    "environment": lambda _: (os.environ.update(LEFT="x"), os.environ.pop("PATH")),
    "signal handlers": lambda _: signal.signal(signal.SIGTERM, lambda *_: None),
    "log finetune": lambda _: logging.getLogger("finetune").addHandler(logging.NullHandler()),
    "log": lambda _: logging.getLogger().setLevel(logging.DEBUG),
}


def torch():
    import torch

    return torch


def mlflow():
    import mlflow

    return mlflow


@pytest.mark.parametrize("name", [*CHANGES, *BY_STEPS])
def test_what_a_test_leaves_is_set_back_and_told_unless_steps_do_it(name, tmp_path):
    if name.startswith("torch"):
        torch()
    before = state()
    {**CHANGES, **BY_STEPS}[name](tmp_path)
    changed = [part for part in before if state()[part] != before[part]]
    assert changed in ([name], ["environment", name])  # torch's compiler sets variables when it is imported
    told = put_back(before)
    assert state() == before
    assert [one.partition(":")[0] for one in told] == ([name] if name in CHANGES else [])


def test_every_part_is_tried():
    assert {part.name for part in PARTS} == {*CHANGES, *BY_STEPS}
    assert {part.name for part in PARTS if part.by_steps} == {*BY_STEPS}


def test_a_store_that_mlflow_is_told_to_use_is_set_back(tmp_path):
    """It would be used in place of the one that the next test's environment names."""
    before = state()
    mlflow().set_tracking_uri(f"sqlite:///{tmp_path}/tracking.db")
    assert [one.partition(":")[0] for one in put_back(before)] == ["stores of mlflow"]
    assert state() == before


def test_a_folder_that_is_gone_is_left(tmp_path):
    before = state()
    (tmp_path / "inside").mkdir()
    os.chdir(tmp_path / "inside")
    (tmp_path / "inside").rmdir()
    assert put_back(before) == [f"working directory: a folder that is gone, before it {before['working directory']}"]
    assert state() == before


def test_torch_that_was_loaded_meanwhile_is_left_as_it_is(monkeypatch):
    torch()
    before = {**state(), **{part.name: None for part in PARTS if part.name.startswith("torch")}}
    assert put_back(before) == []


def test_random_numbers_are_the_same_in_every_test():
    import numpy as np

    told = []
    for _ in range(2):
        seed()
        told.append((np.random.random(), torch().rand(1).item()))
    assert told[0] == told[1]
