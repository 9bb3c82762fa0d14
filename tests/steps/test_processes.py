"""Several processes train as one process with the same batch does: every trainer, every way to share a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import build_model
from trained_kinds import KINDS, Kind
from trained_together import WAYS, differences, history, train_all
from training_inputs import as_imported, settings_with, train, write_ids

from steps.params.distributed import Processes
from steps.params.lora import LoraParams
from steps.params.quantisation import QuantisationParams
from steps.params.settings import FinetuneSettings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_root")]

BATCH = 6
# ORPO's loss has a mean over tokens and one over rows; processes share it by rows.
TOLERANCES = {"orpo": (1e-3, 1e-2)}
ADAPTERS = {
    "lora": {"lora": LoraParams(apply_lora=True)},
    "dora": {"lora": LoraParams(apply_lora=True, use_dora=True)},
    "four-bits": {"lora": LoraParams(apply_lora=True), "quantisation": QuantisationParams(load_in_4bit=True)},
}
# Every kind in one way, sft in every way, and both forms that leave the weights of the base model alone.
SAMPLE = [
    *(("sft", way) for way in WAYS),
    ("packed", "zero2"),
    ("dpo", "zero3"),
    ("kto", "ddp"),
    ("orpo", "fsdp"),
    ("classification", "zero3"),
    ("several labels", "ddp"),
    ("tagging", "zero2"),
    ("answering", "ddp"),
    ("masked", "fsdp"),
    ("seq2seq", "fsdp"),
]
ADAPTED = [
    ("sft", "lora", "fsdp"),
    ("classification", "dora", "zero3"),
    ("dpo", "lora", "zero2"),
    ("sft", "four-bits", "ddp"),
]
EVERY_ADAPTER = [("sft", "lora"), ("dpo", "lora"), ("classification", "dora"), ("seq2seq", "lora")]


def in_full(way: str) -> list[tuple[str, str]]:
    """Every kind in one way."""
    return [(kind, way) for kind in KINDS]


def adapted_in_full(way: str) -> list[tuple[str, str, str]]:
    """Every adapter in one way."""
    found = [(kind, adapter, way) for kind, adapter in EVERY_ADAPTER]
    return [*found, ("sft", "four-bits", way)] if way in ("ddp", "zero2") else found


def several(way: str) -> dict:
    """Changes of the settings that let two processes share a model in this way."""
    given = {**WAYS[way]}
    return {"processes": Processes(per_node=2, **given.pop("processes", {})), **given}


@pytest.fixture(scope="session")
def kinds(tmp_path_factory) -> dict[str, Kind]:
    folder = tmp_path_factory.mktemp("kinds")
    return {name: build(folder / name) for name, build in KINDS.items()}


@pytest.fixture(scope="session")
def alone(kinds, tmp_path_factory) -> Callable[[str, str], Path]:
    """Train a kind in one process, once, with an adapter or without."""
    out = tmp_path_factory.mktemp("alone")

    def trained(name: str, adapter: str = "") -> Path:
        place = out / f"{name} {adapter}"
        if not place.exists():
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("steps.reports.write_training_report", lambda *_: None)  # drawing takes half a second
                train(asked(kinds[name], Processes(), adapter), kinds[name].model, kinds[name].data, place)
        return place

    return trained


def asked(kind: Kind, processes: Processes, adapter: str = "", **changes) -> FinetuneSettings:
    """Give the settings of a training; one with an adapter is short."""
    short = {"max_steps": 5} if adapter else {}
    return kind.with_processes(BATCH, processes, **short).model_copy(update={**changes, **ADAPTERS.get(adapter, {})})


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(SAMPLE, id="every kind and way"),
        *(pytest.param(in_full(way), id=way, marks=pytest.mark.long) for way in WAYS),
    ],
)
def test_two_processes_train_as_one_does(kinds, alone, loaded, tmp_path, cases):
    jobs = {f"{name} {way}": (kinds[name], asked(kinds[name], **several(way))) for name, way in cases}
    train_all(jobs, tmp_path, loaded)
    assert all(history(tmp_path / job)["processes"]["count"] == 2 for job in jobs)
    found = {
        f"{name} {way}": differences(tmp_path / f"{name} {way}", alone(name), *TOLERANCES.get(name, ()))
        for name, way in cases
    }
    assert {job: some for job, some in found.items() if some} == {}


@pytest.mark.long
def test_two_nodes_train_as_one_process_does(kinds, alone, tmp_path):
    """One kind is trained on two nodes in test_trainjob_nodes.py; they differ in how the processes meet."""
    jobs = {name: (kinds[name], asked(kinds[name], Processes(nodes=2))) for name in KINDS}
    train_all(jobs, tmp_path, None)
    assert all(history(tmp_path / name)["processes"]["count"] == 2 for name in KINDS)
    found = {name: differences(tmp_path / name, alone(name), *TOLERANCES.get(name, ())) for name in KINDS}
    assert {name: some for name, some in found.items() if some} == {}


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(ADAPTED, id="every adapter"),
        *(pytest.param(adapted_in_full(way), id=way, marks=pytest.mark.long) for way in WAYS),
    ],
)
def test_adapters_train_in_several_processes(kinds, alone, loaded, tmp_path, cases):
    jobs = {
        f"{name} {adapter} {way}": (kinds[name], asked(kinds[name], adapter=adapter, **several(way)))
        for name, adapter, way in cases
    }
    train_all(jobs, tmp_path, loaded)
    found = {
        job: differences(tmp_path / job, alone(name, adapter), 1e-4, 1e-3)
        for job, (name, adapter, _) in zip(jobs, cases, strict=True)
    }
    assert {job: some for job, some in found.items() if some} == {}


@pytest.mark.parametrize(
    ("count", "cases"),
    [
        pytest.param(3, [(13, 6), (7, 3), (2, 3)], id="3 processes"),
        pytest.param(4, [(5, 4)], id="4 processes", marks=pytest.mark.long),
    ],
)
def test_rows_that_no_number_divides_are_trained_once(tmp_path, shared, loaded, count, cases):
    model = as_imported(shared.made("tiny", build_model), tmp_path / "model")
    jobs = {}
    for rows, batch in cases:
        ids = [[5 + number, 6 + number, 7 + 2 * number, 8] for number in range(rows)]
        data = write_ids(tmp_path / f"data-{rows}", train=ids, validation=ids[: rows - 1])
        settings = partial(settings_with, {"per_device_train_batch_size": batch, "per_device_eval_batch_size": 2})
        train(settings(), model, data, tmp_path / "alone" / str(rows))
        ours = settings_with(
            {"per_device_train_batch_size": batch // count, "per_device_eval_batch_size": 2},
            processes=Processes(per_node=count),
        )
        jobs[str(rows)] = (Kind(model, data, None), ours)
    train_all(jobs, tmp_path / "ours", loaded)
    for rows, _ in cases:
        ours, alone = tmp_path / "ours" / str(rows), tmp_path / "alone" / str(rows)
        assert differences(ours, alone) == [], rows
        assert history(ours)["tokens"] == history(alone)["tokens"] == 2 * 4 * rows
