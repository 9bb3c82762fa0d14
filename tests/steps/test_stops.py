"""Requests to stop at every moment of a step: it ends with 143 or 130, one line says so, and nothing is left."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import with_our_code
from forking import ForkingPython

# What the steps below have: `stop()` sends the signal to this process; `go_on()` is work that only a stop ends.
PROGRAM = """
import os, signal, subprocess, sys, threading, time, types
from pathlib import Path
from steps import running, stopping
from steps.errors import Problem, UserError
number = int(sys.argv[1])
def stop(): os.kill(os.getpid(), number)
def go_on(seconds=170):
    end = time.monotonic() + seconds
    while time.monotonic() < end: time.sleep(0.01)
def stop_both(parent): os.kill(parent, number); stop(); go_on()
def kill_itself(_): stop()
stop_both.__module__ = kill_itself.__module__ = "here"
sys.modules["here"] = types.SimpleNamespace(stop=stop, go_on=go_on, stop_both=stop_both, kill_itself=kill_itself)
def step(report: Path): exec(sys.argv[2], globals())
running.load = lambda name: step
running.run_step("report", report="out")
exec(sys.argv[3], globals())
"""
CAUGHT = "try:\n stop(); go_on()\nexcept BaseException as error:\n "
MOMENTS = {
    "in the step": "stop(); go_on()",
    "in an import": "Path('killing.py').write_text('import here; here.stop(); here.go_on()')\n"
                    "sys.path.insert(0, '.')\nimport killing",
    "in a finally": "try: pass\nfinally: stop(); go_on()",
    "in an except": "try: 1 / 0\nexcept Exception: stop(); go_on()",
    "in C": "import ctypes; ctypes.CDLL(None)['raise'](number); go_on()",
    "in a destructor": "class D:\n def __del__(self): stop(); go_on(0)\nD()\ngo_on()",
    "in a garbage collection": "class D:\n def __del__(self): stop(); go_on(0)\nd = D(); d.d = d; del d\n"
                               "import gc; gc.collect(); go_on()",
    "while logging": "class H(running.logging.Handler):\n def emit(self, r): stop(); go_on()\n"
                     "running.log.addHandler(H()); running.log.info('x'); go_on()",
    "while a thread works": "t = threading.Thread(target=lambda: (stop(), go_on()), daemon=True); t.start(); t.join()",
    "while a thread works that never ends": "stopping.LINGERING = 0.1\n"
                                            "threading.Thread(target=go_on).start(); stop(); go_on()",
    "while a pool of threads works": "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(2) as "
                                     "pool: list(pool.map(lambda n: n or stop(), range(2))); go_on()",
    "in a coroutine": "import asyncio\nasync def f(): stop(); await asyncio.sleep(170)\nasyncio.run(f())",
    "in one of several coroutines": "import asyncio\nasync def f(): stop(); go_on()\nasync def g():\n"
        " await asyncio.gather(f(), asyncio.sleep(1), return_exceptions=True); go_on()\nasyncio.run(g())",
    "by a child": "subprocess.run(['sh', '-c', f'kill -{number} {os.getpid()}; sleep 170'])",
    "caught": f"{CAUGHT}pass\ngo_on()",
    "caught twice": f"{CAUGHT}pass\n{CAUGHT}pass\ngo_on()",
    "caught and suppressed": "import contextlib\nwith contextlib.suppress(BaseException): stop(); go_on()\ngo_on()",
    "caught and kept": f"stopping.CAUGHT = 0.1\nkept = []\n{CAUGHT}kept.append(error)\ngo_on()",
    "caught and told as something else": f"{CAUGHT}raise RuntimeError('it failed') from error",
    "caught and forgotten": f"{CAUGHT}raise RuntimeError('it failed') from None",
    "caught and told as the user's": f"{CAUGHT}raise UserError(Problem(*'abcde'))",
    "caught and left": f"{CAUGHT}sys.exit(0)",
    "two": "stop(); stop(); go_on()",
    "SIGTERM and Ctrl-C": "stop(); os.kill(os.getpid(), 17 - number); go_on()",
    "twenty": "subprocess.run(['sh', '-c', f'for i in $(seq 20); do kill -{number} {os.getpid()}; done']); go_on()",
}  # fmt: skip
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(scope="module")
def python():
    made = ForkingPython(
        ["steps.running", "steps.prepare_data.check.parts", "psutil", "asyncio", "concurrent.futures"], with_our_code()
    )
    yield made
    made.close()


def ended(python, place, number, step, after=""):
    """Run a step that gets a signal; return its code, what it printed on stderr, and what it told the runner."""
    (place / "records").mkdir(exist_ok=True)
    environment = {**with_our_code(), "STEP_RECORDS": str(place / "records")}
    done = python.ended(PROGRAM, str(int(number)), step, after, cwd=place, environment=environment)
    told = [json.loads(file.read_text()) for file in (place / "records").glob("*.json")]
    return done.returncode, done.stderr, told


def test_a_step_that_deletes_what_it_would_go_on_from_passes_over_requests(python, tmp_path):
    code, printed, _ = ended(python, tmp_path, signal.SIGTERM, "with stopping.passing_over(): stop()\nstop()")
    assert code == 0, printed


def test_a_step_in_which_that_failed_can_be_stopped_again(python, tmp_path):
    fails = "try:\n with stopping.passing_over(): 1 / 0\nexcept ZeroDivisionError: stop(); go_on()"
    assert ended(python, tmp_path, signal.SIGTERM, fails)[0] == 143


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_step_that_is_stopped_ends_with_the_code_of_the_signal_and_one_line(python, tmp_path, moment, number):
    code, printed, told = ended(python, tmp_path, number, MOMENTS[moment])
    assert code == 128 + number, printed
    line, outcome = printed.splitlines()
    assert line.startswith("RUN-E1431 report: found ")
    assert "run again" in line
    assert [one["error"] for one in told] == [json.loads(outcome)]
    assert (told[0]["error"]["code"], told[0]["error"]["retryable"]) == (code, True)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_the_step_changes_nothing(python, tmp_path, number):
    code, printed, told = ended(python, tmp_path, number, "pass", "stop(); go_on(0.01); stop()")
    assert (code, printed) == (0, "")
    assert told[0]["error"] is None


def test_an_error_of_the_user_stays_one_also_when_the_step_is_stopped_meanwhile(python, tmp_path):
    step = f"stopping.LOOK = 9\n{CAUGHT}failed = 1\nif failed: raise UserError(Problem(*'abcde'))"
    assert ended(python, tmp_path, signal.SIGTERM, step)[0] == 2


CLEANED = "try: stop(); go_on()\nfinally: {}; Path('cleaned').touch()"


def test_signals_that_come_together_are_one_request_and_what_was_begun_is_deleted(python, tmp_path):
    code, _, _ = ended(python, tmp_path, signal.SIGINT, CLEANED.format("stop(); go_on(0.02); stop(); go_on(0.02)"))
    assert code == 130
    assert (tmp_path / "cleaned").exists()


def test_a_later_signal_ends_the_step_and_its_processes_at_once(python, tmp_path):
    step = CLEANED.format("child = subprocess.Popen(['sleep', '170']); Path('child').write_text(str(child.pid)); "
                          "stopping.TOGETHER = -1; stop(); go_on()")  # fmt: skip
    code, printed, _ = ended(python, tmp_path, signal.SIGTERM, step)
    assert code == 143
    assert printed.startswith("stopped at once")
    assert not (tmp_path / "cleaned").exists()
    assert_gone(tmp_path / "child")


def test_a_stopped_step_leaves_no_process_of_its_own(python, tmp_path):
    step = "child = subprocess.Popen(['sleep', '170']); Path('child').write_text(str(child.pid)); stop(); go_on()"
    assert ended(python, tmp_path, signal.SIGTERM, step)[0] == 143
    assert_gone(tmp_path / "child")


def assert_gone(file):
    assert not Path("/proc", file.read_text()).exists()


def test_a_stopped_step_leaves_no_artifact_and_no_draft(python, tmp_path):
    step = ("from steps.artifacts import new_artifact\nwith new_artifact(Path('made').absolute(), 'model') as draft: "
            "(draft / 'weights').write_text('x'); stop(); go_on()")  # fmt: skip
    code, printed, _ = ended(python, tmp_path, signal.SIGTERM, step)
    assert code == 143, printed
    assert [path.name for path in tmp_path.iterdir() if path.name != "records"] == []


def test_processes_of_a_pool_end_by_the_signal_and_print_nothing(python, tmp_path):
    step = ("from steps.prepare_data.check import parts\nparts.os.sched_getaffinity = lambda _: {0, 1}\n"
            "list(parts._side_by_side(stop_both, [os.getpid(), os.getpid()]))")  # fmt: skip
    code, printed, _ = ended(python, tmp_path, signal.SIGTERM, step)
    assert code == 143, printed
    assert len(printed.splitlines()) == 2


def test_a_process_of_a_pool_that_is_killed_is_told_with_its_signal_and_the_usual_reason(python, tmp_path):
    step = ("from steps.prepare_data.check import parts\nparts.os.sched_getaffinity = lambda _: {0, 1}\n"
            "list(parts._side_by_side(stop_both, [os.getpid(), os.getpid()]))")  # fmt: skip
    code, printed, _ = ended(python, tmp_path, signal.SIGKILL, step.replace("stop_both", "kill_itself"))
    assert code == 5, printed
    assert "process that checks rows: found a process that was ended by signal 9 (SIGKILL)" in printed
    assert "lack of memory" in printed


# Starts a program that gets the signal when it begins to import a module.
LOADING = """
import os, runpy, sys
module, wanted, number, call = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
class Finder:
    def find_spec(self, name, *_):
        if name == wanted: os.kill(os.getpid(), number)
sys.meta_path.insert(0, Finder())
sys.argv = [module, "kfp.dsl.executor_main", "report"]
try:
    if call: getattr(__import__(module, fromlist=[call]), call)()
    else: runpy.run_module(module, run_name="__main__", alter_sys=True)
except KeyboardInterrupt: sys.excepthook(*sys.exc_info())
"""
PROGRAMS = [("steps", "argparse", "", 15), ("steps", "pydantic", "", 2),
            ("pipelines.in_pod", "steps.running", "", 15), ("pipelines.command", "pipelines.cli", "main", 15),
            ("pipelines.command", "click", "main", 2)]  # fmt: skip


@pytest.fixture(scope="module")
def bare():
    made = ForkingPython(["steps.stopping"], with_our_code())
    yield made
    made.close()


@pytest.mark.parametrize(("module", "wanted", "call", "number"), PROGRAMS)
def test_a_program_that_is_stopped_while_it_loads_says_so_in_one_line(bare, tmp_path, module, wanted, call, number):
    words = [module, wanted, str(number), call]
    done = bare.ended(LOADING, *words, cwd=tmp_path, environment=with_our_code())
    assert done.returncode == 128 + number, done.stderr
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["RUN-E1431", '{"code":']


def test_a_step_of_a_run_that_is_stopped_does_not_begin(bare, tmp_path):
    environment = {**with_our_code(), "FINETUNE_STOPPING": "1"}
    done = bare.ended(LOADING, "steps", "", "0", "", cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stderr.split()[0]) == (143, "RUN-E1431")


def test_a_program_ends_with_its_code_also_if_a_thread_does_not_end(tmp_path):
    code = """
import sys, threading, time
from steps import stopping
stopping.ENDING = 0.1
with stopping.ending():
    threading.Thread(target=time.sleep, args=[170]).start()
    sys.exit(5)
"""
    started = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], env=with_our_code()).returncode == 5
    assert time.monotonic() - started < 100
