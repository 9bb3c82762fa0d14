"""A run of generate that is killed or stopped, alone or in several processes, ends as an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from grids import long_but
from prompt_rows import answers_in, text_row, write_prompts

from steps.artifacts import read_manifest
from steps.params.generation import DecodingParams, EngineParams
from steps.params.settings import GenerateSettings

pytestmark = pytest.mark.slow

ROWS = 400
SETTINGS = GenerateSettings(decoding=DecodingParams(do_sample=True, num_return_sequences=2))
IN_TWO = SETTINGS.model_copy(update={"engine": EngineParams(inference_processes=2)})
TESTS = Path(__file__).parents[1]
# Runs the step; a request to stop comes when its answers were deleted.
STOPPED_AT_THE_END = """
import os, runpy, signal, sys
from steps.generate import places
own = places._remove_empty
places._remove_empty = lambda folder: (os.kill(os.getpid(), signal.SIGTERM), own(folder))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("killed") / "data", map(text_row, range(ROWS)))


@pytest.fixture
def start(data, tmp_path):
    """Start the step as a process of its own."""

    def begin(
        settings: GenerateSettings, out: Path, before: tuple[str, ...] = (), **variables: str
    ) -> subprocess.Popen:
        out.mkdir(exist_ok=True)
        paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        told = {"ECHO_SECONDS": "0.005", "ECHO_LOG": str(out / "asked"), "FINETUNE_ROOT": str(out / "root")}
        words = ["--settings", settings.model_dump_json(), "--data", str(data), "--generations", str(out / "result")]
        report = str(out / "report.html")
        return subprocess.Popen(
            [sys.executable, *before, str(TESTS / "echo_step.py"), "generate", *words, "--report", report],
            stdout=open(out / "log.txt", "a"), stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": paths, **told, **variables},
        )  # fmt: skip

    return begin


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory) -> list[dict]:
    """The lines of a run that nothing disturbed."""
    from steps.generate.step import generate
    from steps.generation import engines

    out = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(engines.ENGINES, "accelerate", "echo_engine")
        patched.setenv("FINETUNE_ROOT", str(out / "root"))
        generate(SETTINGS, None, data, out / "result")
    return answers_in(out / "result")


def asked(out: Path) -> int:
    """Return how many answers were begun, in all runs."""
    return (out / "asked").read_bytes().count(b"\n") if (out / "asked").exists() else 0


def log(out: Path) -> str:
    return (out / "log.txt").read_text()


def wait_for(what, step: subprocess.Popen, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not what() and step.poll() is None and time.monotonic() < end:
        time.sleep(0.002)


@pytest.mark.parametrize("kills", long_but([5], [5, 20]))
def test_a_run_that_is_killed_at_random_moments_ends_as_an_unbroken_one(start, unbroken, tmp_path, kills):
    draw = random.Random(18)
    for _ in range(kills):
        step = start(SETTINGS, tmp_path)
        # So that the rows are enough for all of them.
        moment = asked(tmp_path) + draw.randint(0, 2 * ROWS // (kills + 6))
        wait_for(lambda: asked(tmp_path) > moment, step)  # noqa: B023
        time.sleep(draw.random() * 0.01)
        assert step.poll() is None, log(tmp_path)
        step.kill()
        step.wait()
    assert start(SETTINGS, tmp_path).wait(300) == 0, log(tmp_path)
    assert answers_in(tmp_path / "result") == unbroken
    facts = read_manifest(tmp_path / "result").facts
    assert facts["answers_before"] > 0
    assert asked(tmp_path) <= 2 * ROWS + kills  # an answer is made again only if its line was not whole
    assert not list(tmp_path.glob("root/checkpoints/generate/*"))


def test_a_run_whose_answers_are_deleted_ends_with_its_result_although_it_is_to_stop(start, unbroken, tmp_path):
    step = start(SETTINGS, tmp_path, before=("-c", STOPPED_AT_THE_END), ECHO_SECONDS="0")
    assert step.wait(300) == 0, log(tmp_path)
    assert answers_in(tmp_path / "result") == unbroken


@pytest.mark.parametrize("settings", [SETTINGS, IN_TWO], ids=["one", "two"])
def test_a_run_that_is_stopped_says_how_far_it_was_and_goes_on(start, unbroken, tmp_path, settings):
    step = start(settings, tmp_path)
    wait_for(lambda: asked(tmp_path) > 100, step)
    step.send_signal(signal.SIGTERM)
    assert step.wait(300) == 143, log(tmp_path)
    told = json.loads(log(tmp_path).strip().splitlines()[-1])
    assert told["problems"][0].startswith("GEN-E1431 after ")
    assert " of 400 rows: found a request to stop" in told["problems"][0]
    assert Path(told["resume_from"]).is_dir()
    assert not (tmp_path / "result").exists()
    before = asked(tmp_path)
    assert start(settings, tmp_path).wait(300) == 0, log(tmp_path)
    assert answers_in(tmp_path / "result") == unbroken
    assert before <= asked(tmp_path) <= 2 * ROWS + 2


def test_two_processes_answer_each_row_once(start, unbroken, tmp_path):
    assert start(IN_TWO, tmp_path).wait(300) == 0, log(tmp_path)
    assert answers_in(tmp_path / "result") == unbroken
    lines = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    assert len(lines) == 2 * ROWS
    workers = {process for process, _, _ in lines}
    assert len(workers) == 2
    for process in workers:
        assert len({int(row) % 2 for who, row, _ in lines if who == process}) == 1
    facts = read_manifest(tmp_path / "result").facts
    assert facts["processes"] == 2
    assert "starting 2 processes" in log(tmp_path)
    assert facts["tokens_per_second"] > 0


def workers_of(step: subprocess.Popen) -> list[psutil.Process]:
    try:
        children = psutil.Process(step.pid).children(recursive=True)
        return [one for one in children if "echo_process" in " ".join(one.cmdline())]
    except psutil.Error:
        return []


def test_a_process_that_is_killed_costs_no_answer(start, unbroken, tmp_path):
    step = start(IN_TWO, tmp_path)
    for _ in range(2):
        after = asked(tmp_path) + 100
        wait_for(lambda: asked(tmp_path) > after and len(workers_of(step)) == 2, step)  # noqa: B023
        if found := workers_of(step):
            found[0].kill()
    assert step.wait(240) == 0, log(tmp_path)
    assert "was killed (SIGKILL): going on with the rows that are left" in log(tmp_path)
    assert answers_in(tmp_path / "result") == unbroken


def test_a_step_that_is_killed_leaves_no_process_and_goes_on_in_another_number(start, unbroken, tmp_path):
    step = start(IN_TWO, tmp_path)
    wait_for(lambda: asked(tmp_path) > 150 and len(workers_of(step)) == 2, step)
    orphans = workers_of(step)
    step.kill()
    step.wait()
    assert start(SETTINGS, tmp_path).wait(300) == 0, log(tmp_path)  # at once
    assert answers_in(tmp_path / "result") == unbroken
    assert not psutil.wait_procs(orphans, timeout=300)[1]


def test_a_process_that_is_killed_again_and_again_is_told(start, tmp_path):
    step = start(IN_TWO, tmp_path, ECHO_SECONDS="1")
    for _ in range(3):
        known = {one.pid for one in workers_of(step)}
        wait_for(lambda: len([one for one in workers_of(step) if one.pid not in known]) == 2, step)  # noqa: B023
        time.sleep(0.5)
        fresh = [one for one in workers_of(step) if one.pid not in known]
        fresh[1].kill()
        wait_for(lambda: not fresh[0].is_running(), step)  # noqa: B023
    assert step.wait(300) == 5, log(tmp_path)
    assert "GEN-E0522" in log(tmp_path)


def test_the_error_of_a_process_is_that_of_the_step(start, tmp_path):
    assert start(IN_TWO, tmp_path, ECHO_FAILS="1").wait(300) == 70, log(tmp_path)
    assert "TypeError" in log(tmp_path)
