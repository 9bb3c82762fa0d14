"""Faults at random, seeded: a few of each row in every run of the tests, many in `make chaos`, which prints a table."""

import re
from collections.abc import Iterator
from pathlib import Path

import disturbed_trainings
import hub_at_fault
import killed_runs
import killed_writers
import odd_values
import pytest
import registry_at_fault
import stores_at_fault
import tight_places
from chaos_row import Row, failures
from command_line import with_our_code
from conftest import chat_rows, write_jsonl
from disturbed_trainings import Trainings
from fault_proxy import fault_proxy
from forking import ForkingPython
from hub_at_fault import Hub
from killed_runs import Runs
from killed_writers import Writers
from odd_values import Odd
from registry_at_fault import Registry
from stores_at_fault import Store, store_at_fault
from tight_places import Tight
from training_inputs import as_imported, write_tokens

MODULES = (
    stores_at_fault,
    hub_at_fault,
    registry_at_fault,
    tight_places,
    killed_writers,
    odd_values,
    disturbed_trainings,
    killed_runs,
)
ROWS: list[Row] = [row for module in MODULES for row in module.ROWS]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Store]:
    with store_at_fault(tmp_path_factory.mktemp("store")) as made:
        yield made


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[Hub]:
    with hub_at_fault.hub_at_fault(tmp_path_factory.mktemp("hub")) as made:
        yield made


@pytest.fixture
def registry(world, mlflow_server, tmp_path) -> Iterator[Registry]:
    with fault_proxy(mlflow_server) as proxy:
        yield Registry(proxy, mlflow_server, world, tmp_path)


@pytest.fixture(scope="module")
def chaos_table(request) -> Iterator[list[tuple[Row, int, int]]]:
    """What was tried and what held; printed at the end."""
    table: list[tuple[Row, int, int]] = []
    yield table
    lines = [f"{'':>3}  {'fault':42} {'tried':>5} {'held':>5}"]
    lines += [f"{row.number:>3}  {row.name:42} {tried:>5} {held:>5}" for row, tried, held in table]
    request.config.pluginmanager.getplugin("terminalreporter").write("\n" + "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def runs(tiny_model, empty_database, tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    rows = write_jsonl(folder / "chat.jsonl", chat_rows(60))
    given = {**killed_runs.SETTINGS, "pytorch_model_path": str(tiny_model), "train_file_path": str(rows)}
    made = Runs(folder, given, empty_database)
    made.undisturbed()
    return made


@pytest.fixture(scope="module")
def writers(tmp_path_factory) -> Iterator[Writers]:
    python = ForkingPython(["steps.artifacts", "steps.sealed"], with_our_code())
    yield Writers(python, tmp_path_factory.mktemp("writers"))
    python.close()


@pytest.fixture(scope="module")
def trainings(loaded, tiny_model, tmp_path_factory) -> Trainings:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("trainings")
    model = as_imported(tiny_model, folder / "model")
    data = write_tokens(folder / "data", AutoTokenizer.from_pretrained(model), chat_rows(50))
    return Trainings(loaded, folder, model, data)


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Iterator[Odd]:
    made = odd_values.place(tmp_path_factory.mktemp("odd"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FINETUNE_ROOT", str(made.folder / "root"))
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield made


@pytest.fixture
def tight(tiny_model, tmp_path) -> Tight:
    return Tight(tiny_model, tmp_path)


def test_the_table_of_faults_names_tests_that_exist_and_every_row():
    tests = Path(__file__).parents[1]
    table = (tests.parent / "docs/tests.md").read_text()
    source = "".join(file.read_text() for file in tests.rglob("*.py"))
    assert [name for name in re.findall(r"`(test_[a-z0-9_]+)`", table) if f"def {name}(" not in source] == []
    lines = {int(line.split("|")[1]): line for line in table.splitlines() if re.match(r"\| \d+ \|", line)}
    assert [row.name for row in ROWS if "chaos" not in lines[row.number]] == []


def test_the_table_tells_how_often_each_fault_is_tried():
    table = (Path(__file__).parents[2] / "docs/tests.md").read_text()
    told = {int(number): [int(one) for one in tried.split(" + ")]
            for number, tried in re.findall(r"^\| (\d+) \|.*\| ([\d +]+) \|$", table, re.MULTILINE)}  # fmt: skip
    tried = {number: [row.long for row in ROWS if row.number == number] for number in {row.number for row in ROWS}}
    both = told.keys() & tried.keys()
    assert len(both) > 8
    assert {number: told[number] for number in both} == {number: tried[number] for number in both}


@pytest.mark.parametrize("row", [row for row in ROWS if row.short], ids=lambda row: row.name)
def test_a_few_faults_of_each_kind(row, request):
    assert failures(row, request.getfixturevalue(row.place), row.short) == []


@pytest.mark.chaos
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_many_faults_of_each_kind(row, request, chaos_table):
    told = failures(row, request.getfixturevalue(row.place), row.long)
    chaos_table.append((row, row.long, row.long - len(told)))
    assert told == []
