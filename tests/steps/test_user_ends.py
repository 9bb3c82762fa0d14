"""What a user's code does to end the process or to close its output is told as an error of the user."""

import ast
import json

import pytest
from command_line import with_our_code
from forking import ForkingPython

# A step that calls a function of user.py with a row, or as a reward; sys.argv tells which.
PROGRAM = """
import sys
from pathlib import Path
from steps import running
from steps.errors import UserError
def row():
    from steps.prepare_data.findings import Findings
    from steps.prepare_data.read.processing import process
    from steps.sources.user_code import load_function
    findings = Findings("train.jsonl")
    made = list(process(iter([(1, 1, {"text": "a"})]), load_function("processing_function", "user.py:act"), findings))
    if findings.problems: raise UserError(findings.problems)
    assert made == [(1, 1, {"text": "a"})]
def reward():
    from steps.rewards.user_reward import load_reward
    given = {name: ["a"] for name in ("completions", "data_source", "ground_truth")}
    assert load_reward("user.py:act", 100)[0](**given) == [1.0]
running.load = lambda name: globals()[sys.argv[1]]
running.run_step("prepare-data")
"""
KINDS = {
    "row": "def act(row):\n    {}\n    return row\n",
    "reward": "def act(completions, **kwargs):\n    {}\n    return [1.0]\n",
    "async reward": "async def act(completions, **kwargs):\n    {}\n    return [1.0]\n",
    "one answer": "def act(data_source, solution_str, ground_truth, extra_info=None):\n    {}\n    return 1.0\n",
    "file": "{}\ndef act(row): return row\n",
}
ENDS = {
    "sys.exit(0)": "SystemExit: 0",
    "exit()": "SystemExit",
    "sys.exit('text')": "SystemExit: text",
    "raise SystemExit": "SystemExit",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "raise asyncio.CancelledError('text')": "CancelledError: text",
    "raise type('Own', (BaseException,), {})('text')": "Own: text",
    "os._exit(0)": "_exit(0)",
    "os._exit(status=0)": "_exit(status=0)",
    "leave(0)": "_exit(0)",
    "posix._exit(0)": "_exit(0)",
    "os.abort()": "abort()",
    "os.kill(os.getpid(), signal.SIGALRM)": "SIGALRM",
    "os.kill(os.getpid(), 9)": ", 9)",
    "os.kill(os.getpid(), signal.SIGTERM)": "SIGTERM",
    "signal.raise_signal(signal.SIGINT)": "raise_signal(",
    "signal.pthread_kill(threading.get_ident(), signal.SIGINT)": "pthread_kill(",
    "os.execv('/bin/true', ['true'])": "execv(",
    "os.execlp('true', 'true')": "execv(",
    "faulthandler.dump_traceback_later(0.001, exit=True); time.sleep(1)": "dump_traceback_later(",
    "(lambda: os._exit(0))()": "_exit(0)",
    "json.loads('1', parse_int=lambda _: os._exit(0))": "_exit(0)",
    "threading.Thread(target=lambda: os._exit(0)).start(); time.sleep(0.1)": "_exit(0)",
    "threading.Timer(0.001, os._exit, [0]).start(); time.sleep(0.1)": "_exit(0)",
    "list(concurrent.futures.ThreadPoolExecutor(1).map(os._exit, [0]))": "_exit(0)",
    "with contextlib.suppress(BaseException): os._exit(0)": "_exit(0)",
    "os.close(1)": "closed standard output",
    "os.closerange(1, 3)": "closed standard output",
    "os.fdopen(1, 'w').close()": "closed standard output",
    "os.dup2(os.open('other', os.O_CREAT | os.O_WRONLY), 2)": "closed standard error",
}
HARMLESS = [
    "os.fork() or os._exit(0)",
    "os.fork() or sys.exit(0)",
    "os.fork() or raise_in_child()",
    "if os.fork() == 0: return row",
    "multiprocessing.get_context('fork').Process(target=print).start()",
    "list(concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('fork')).map(abs, [1]))",
    "os.kill(os.getpid(), 0)",
    "subprocess.run(['sh', '-c', 'kill -9 $$'])",
    "subprocess.run(['true'], preexec_fn=os.getpid)",
    "faulthandler.dump_traceback_later(100); faulthandler.cancel_dump_traceback_later()",
    "sys.stdout = sys.stderr = open('other', 'w')",
    "sys.stdout.close(); sys.__stderr__.close()",
    "sys.stdout = sys.__stdout__",
    "io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8').write('x\\n')",
    "codecs.getwriter('utf-8')(sys.stdout.detach())",
    "signal.signal(signal.SIGUSR1, print); signal.raise_signal(signal.SIGUSR1)",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "print('a line')",
]
CASES = [(kind, end) for kind in KINDS for end in ("os._exit(0)", "raise KeyboardInterrupt", "os.close(1)")]
# Calls functions of user.py one after another, and writes what each of them raised.
EACH = """
import ast, signal, sys
from steps.redaction import mask_output
from steps.sources import user_ends
from steps.sources.user_code import load_function
from steps.stopping import _leave, stop_when_asked
mask_output()
stop_when_asked()
told = open("told", "w", buffering=1)
user_ends.FRESH = 0
for number in range(int(sys.argv[1])):
    function = load_function("processing_function", f"user.py:act{number}")
    try:
        function.call({})
        print("None", file=told)
    except (Exception, SystemExit) as error:
        print(repr((f"{type(error).__name__}: {error}", function.place_of(error))), file=told)
    assert signal.getsignal(signal.SIGTERM) is _leave
    print("finished", number, "hf_" + "a" * 34)
"""
IMPORTS = (
    "import asyncio, codecs, concurrent.futures, contextlib, faulthandler, io, json, multiprocessing, os, posix, "
    "signal, subprocess, sys, threading, time\nfrom os import _exit as leave\n"
)


@pytest.fixture(scope="module")
def python():
    libraries = ["psutil", "asyncio", "concurrent.futures.process", "multiprocessing.pool"]
    ours = ["steps.running", "steps.prepare_data.read.processing", "steps.rewards.user_reward"]
    made = ForkingPython([*ours, *libraries], with_our_code())
    yield made
    made.close()


def each(python, place, lines):
    """Return what each line raised in a function of its own, where, and what was printed after it."""
    functions = [f"def act{number}(row):\n    {line}\n    return row\n" for number, line in enumerate(lines)]
    (place / "user.py").write_text(IMPORTS + "".join(functions))
    done = python.ended(EACH, str(len(lines)), cwd=place, environment=with_our_code())
    told = [ast.literal_eval(line) for line in (place / "told").read_text().splitlines()]
    assert (done.returncode, len(told)) == (0, len(lines)), (list(lines)[len(told) :][:1], done.stderr)
    return told, done.stdout


def test_whatever_ends_a_process_is_an_exception_with_its_line(python, tmp_path):
    told, _ = each(python, tmp_path, ENDS)
    wrong = {}
    for number, (line, error) in enumerate(zip(ENDS, told, strict=True)):
        where = "user.py" if "closed" in ENDS[line] or "Timer" in line else f"user.py:{4 + 3 * number}"
        if not error or ENDS[line] not in error[0] or error[1] != where:
            wrong[line] = (error, where)
    assert wrong == {}


def test_what_ends_other_processes_and_threads_is_left_alone(python, tmp_path):
    told, printed = each(python, tmp_path, HARMLESS)
    assert {line: error for line, error in zip(HARMLESS, told, strict=True) if error} == {}
    finished = [line for line in printed.splitlines() if "finished" in line]
    assert finished == [f"finished {number} …" for number in range(len(HARMLESS))]


@pytest.mark.parametrize(("kind", "line"), CASES)
def test_a_step_whose_function_ends_the_process_is_refused_as_the_users(python, tmp_path, kind, line):
    (tmp_path / "user.py").write_text(IMPORTS + KINDS[kind].format(line))
    step = "row" if kind in ("row", "file") else "reward"
    done = python.ended(PROGRAM, step, cwd=tmp_path, environment=with_our_code())
    assert done.returncode == 2, done.stderr
    told = json.loads(done.stderr.splitlines()[-1])
    assert ENDS[line] in told["found"]
    if "closed" not in ENDS[line]:  # which is found when the function has ended
        where = 4 if kind != "file" else 3
        assert f"user.py:{where}" in told["where"] + told["expected"]
