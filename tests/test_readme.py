"""The commands in the README work."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import FINETUNE, with_our_code
from example_files import make, sources
from kfp_server import tasks

pytestmark = pytest.mark.slow  # together half a minute: too long for test-fast

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", README, re.S)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith(".venv/bin/")]


@pytest.fixture(scope="session")
def dates(shared) -> Path:
    """A checkout in which the example is made that the README speaks of."""
    whole = shared.root / "checkout"
    return whole if whole.exists() else shared.made("checkout of the README", make_dates)


def make_dates(checkout: Path) -> None:
    sources(checkout)
    make(checkout, ROOT / "examples/dates/make.py")


# A whole run is what `make run` does; CI does it by that name.
@pytest.mark.parametrize("command", [line for line in COMMANDS if " run " not in line])
def test_every_command_of_the_readme_works(command, dates, tmp_path):
    program, *words = shlex.split(command)
    assert Path(program).name in ("finetune", "python")
    if words[0] == "compile":
        words += ["-o", str(tmp_path)]
    start = FINETUNE if program.endswith("finetune") else [sys.executable]
    done = subprocess.run([*start, *words], cwd=dates, env=with_our_code(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [line for line in LINES if line.startswith("finetune ")])
def test_every_command_for_a_cluster_works(command, kfp_server, finetune, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    kfp_server.progress = [tasks("SUCCEEDED")]
    done = finetune(*shlex.split(command)[1:])
    assert done.code == 0, done.err


def test_the_submitted_parameters_exist():
    from pipelines.catalog import PIPELINES

    (line,) = [line for line in LINES if line.startswith("kfp run submit")]
    file = ROOT / re.search(r"-f (\S+)", line)[1]
    assert file.exists()
    names = re.findall(r" (\w+)=", line)
    assert names
    assert set(names) <= set(PIPELINES["chat_completion"].parameters.model_fields)


def test_every_make_verb_and_folder_that_is_named_exists():
    verbs = set(re.findall(r"\bmake ([a-z-]+)", README))
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert verbs <= made, verbs - made
    tree = next(block for block in BLOCKS if block.startswith("pipelines/"))
    for line in tree.splitlines():
        for name in re.findall(r"\b([a-z_]+)/", line.split("   ")[0]):
            assert any((ROOT / room / name).is_dir() for room in ("", "pipelines", "steps")), name


def test_every_file_of_the_fast_tests_exists():
    names = (ROOT / "tests/fast.txt").read_text().split()
    assert [name for name in names if not (ROOT / name).is_file()] == []


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_file_that_the_page_on_architecture_names_exists():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"`((?:steps|pipelines|tests|containers|examples|docs)/[\w/.]*)`", page))
    assert len(named) > 50
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
