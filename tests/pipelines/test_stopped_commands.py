"""Requests to stop while a command runs, and what `finetune run` tells of tasks whose process was killed."""

import json
import os
import signal
from pathlib import Path

import pytest
from command_line import with_our_code
from forking import ForkingPython

from pipelines.cli import cli

MORE = {"describe": ["chat_completion"], "plan": ["chat_completion"], "run": ["translation"], "submit": ["preference"],
        "schedule": ["list"], "verify": ["a"], "check-data": ["prompts"], "completion": ["bash"]}  # fmt: skip
COMMANDS = [(signal.SIGTERM, [name, *MORE.get(name, [])]) for name in cli.commands]
COMMANDS += [(signal.SIGINT, [name, *MORE.get(name, [])]) for name in ("run", "sweep", "compile")]
# Every command does what argv says in place of its own work.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from pipelines import cli, local
number, work, words = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
def stop(): os.kill(os.getpid(), number)
def go_on():
    end = time.monotonic() + 170
    while time.monotonic() < end: time.sleep(0.01)
def act(**_): exec(work, globals())
def replace(command):
    command.callback = act
    for one in getattr(command, "commands", {}).values(): replace(one)
command = cli.cli.commands[words[0]]
if hasattr(command, "get_command") and len(words) > 1:
    made = command.get_command(None, words[1])
    command.get_command = lambda *_: made
    command = made
replace(command)
sys.argv = ["finetune", *words]
cli.main()
"""


@pytest.fixture(scope="module")
def python():
    made = ForkingPython(["pipelines.cli", "pipelines.local", "steps.outcome", "psutil"], with_our_code())
    yield made
    made.close()


def ended(python, place, number, work, *words):
    return python.ended(PROGRAM, str(int(number)), work, *words, cwd=place, environment=with_our_code())


@pytest.mark.parametrize(("number", "words"), COMMANDS)
def test_a_command_that_is_stopped_ends_with_the_code_of_the_signal(python, tmp_path, words, number):
    done = ended(python, tmp_path, number, "stop(); go_on()", *words)
    assert done.returncode == 128 + number, done.stderr
    *_, line, outcome = filter(None, done.stderr.splitlines())
    assert "RUN-E1431" in line
    assert "run again" in line
    assert json.loads(outcome)["code"] == 128 + number
    assert "Traceback" not in done.stderr


def test_an_exception_in_place_of_the_request_is_the_request(python, tmp_path):
    work = "try: stop(); go_on()\nexcept BaseException: 1 / 0"
    assert ended(python, tmp_path, signal.SIGINT, work, "list").returncode == 130


RUNNING = """
with local._forwarded_signals():
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", '''
import signal, time
signal.signal(signal.SIGTERM, lambda *_: open("asked", "a").write("once\\\\n"))
open("begun", "w").close()
end = time.monotonic() + 170
while time.monotonic() < end: time.sleep(0.01)
'''])
    Path("child").write_text(str(child.pid))
    while not Path("begun").exists(): time.sleep(0.01)
    stop(); stop(); stop()
    while not Path("asked").exists(): time.sleep(0.01)
    local.TOGETHER = -1
    stop()
    go_on()
"""


SWEEPING = """
from pipelines.sweeping import driver
made, asked = driver.Driver.__new__(driver.Driver), []
made.stop = lambda: asked.append(number)
with made._signals():
    stop(); stop(); stop()
    print(len(asked))
    driver.TOGETHER = -1
    stop()
    go_on()
"""


def test_signals_to_a_sweep_are_one_request_and_a_later_one_ends_it(python, tmp_path):
    done = ended(python, tmp_path, signal.SIGTERM, SWEEPING, "sweep")
    assert (done.returncode, done.stdout) == (143, "1\n"), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_a_run_are_one_request_to_its_step_and_a_later_one_kills_it(python, tmp_path, number):
    done = ended(python, tmp_path, number, RUNNING, "run", "translation")
    assert done.returncode == 128 + number, done.stderr
    assert (tmp_path / "asked").read_text() == "once\n"
    assert not Path("/proc", (tmp_path / "child").read_text()).exists()


UNREAD = """
import sys
from pipelines import cli, runs
def run(*_, **__):
    print("a line of a training")
    open("done", "w").close()
    return {"error": None, "gate": {"passed": False}}
runs.run, runs.screen = run, str
sys.argv = ["finetune", "run", "chat_completion", sys.argv[1]]
cli.main()
"""


@pytest.mark.parametrize(("word", "code"), [("--gate-exit", 7), ("--json", 5)])
def test_lines_of_a_run_that_nobody_can_read_change_nothing_and_a_lost_result_is_told(python, tmp_path, word, code):
    files = [Path("/dev/full")] * 2
    fork = python.start(UNREAD, word, cwd=tmp_path, environment=with_our_code(), files=files)
    assert fork.wait(170) == code
    assert (tmp_path / "done").exists()


def test_a_list_on_a_full_disk_is_told_by_its_code(python, tmp_path):
    files = [Path("/dev/full"), tmp_path / "errors"]
    code = "from pipelines.cli import main; import sys; sys.argv = ['finetune', 'list']; main()"
    fork = python.start(code, cwd=tmp_path, environment=with_our_code(), files=files)
    assert fork.wait(170) == 5
    assert "DISK-E0102" in (tmp_path / "errors").read_text()


def test_a_task_that_was_killed_is_told_with_its_signal(tmp_path, capsys):
    from pipelines import local

    with local._codes() as codes:
        from kfp.local import subprocess_task_handler

        for command in ("exit 0", "printf '\\377\\n'", "kill -9 $$"):
            subprocess_task_handler.run_local_subprocess(["sh", "-c", command])
    assert codes == [-9]
    assert "\\xff\n" in capsys.readouterr().out  # bytes that are no text
    output = local._Output(open(os.devnull, "w"), print)  # noqa: SIM115
    told = local._outcome(tmp_path, output, RuntimeError("Task finetune finished with status FAILURE"), codes)
    assert (told["code"], told["class"]) == (5, "OutOfResources")
    assert told["where"] == "Task finetune finished with status FAILURE"
    assert "signal 9 (SIGKILL)" in told["found"]
    assert "memory" in told["why"]
    assert local._outcome(tmp_path, output, RuntimeError("Task x"), [137])["code"] == 5
    assert local._outcome(tmp_path, output, RuntimeError("Task x"), [-11])["code"] == 70
