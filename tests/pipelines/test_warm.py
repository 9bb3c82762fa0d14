"""A server with the loaded libraries that is lost costs a run time, and nothing else."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from command_line import with_our_code
from waiting import LONG, wait_for

from pipelines import warm

# A server that loads nothing.
LIGHT = ("-c", "import socket, sys; from pathlib import Path; from pipelines import warm; "
         "warm.PRELOADED = warm.PRELOADED_NEXT = (); "
         "warm.serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3]), True)")  # fmt: skip
# Tells who starts it and waits until it is allowed to end.
TASK = """
import os, time
with open("started", "a") as file: print(os.getpid(), os.getppid(), file=file)
while not os.path.exists("go"): time.sleep(0.01)
raise SystemExit(int(open("go").read()))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a task, in which its processes run."""
    monkeypatch.setattr(warm, "SERVER", LIGHT)
    monkeypatch.delenv(warm.SWITCH, raising=False)
    (tmp_path / "task.py").write_text(TASK)
    return tmp_path


@pytest.fixture
def server(place):
    """The folder of a server, and its process."""
    before = {child.pid for child in psutil.Process().children()}
    with warm.warm_python() as folder:
        assert folder
        [made] = [child for child in psutil.Process().children() if child.pid not in before]
        wait_for((folder / warm.READY).exists)
        yield folder, made


def client(place, folder):
    words = [str(folder / "python3"), "-m", "task", "--function_to_execute", "finetune"]
    return subprocess.Popen(words, cwd=place, env=with_our_code(), stderr=subprocess.PIPE, text=True)


def starts(place):
    """Return the processes of the task that have started, each with the one that started it."""
    file = place / "started"
    lines = file.read_text().splitlines() if file.exists() else []
    return [tuple(map(int, line.split())) for line in lines if len(line.split()) == 2]


def end(place, process, code=3):
    (place / "go.part").write_text(str(code))
    (place / "go.part").rename(place / "go")
    _, printed = process.communicate(timeout=LONG)
    return process.returncode, printed


def test_a_task_runs_in_the_server_and_its_code_arrives(place, server):
    process = client(place, server[0])
    wait_for(lambda: starts(place))
    assert starts(place)[0][0] != process.pid
    assert end(place, process) == (3, "")


def test_a_killed_task_is_told_by_its_signal(place, server):
    process = client(place, server[0])
    wait_for(lambda: starts(place))
    os.kill(starts(place)[0][0], signal.SIGKILL)
    process.communicate(timeout=LONG)
    assert process.returncode == 137


def kill(folder, made):
    made.kill()
    made.wait()


def delete_socket(folder, made):
    (folder / "server").unlink()


@pytest.mark.parametrize("lose", [kill, delete_socket])
def test_without_a_server_a_task_is_a_process_of_its_own(place, server, lose):
    lose(*server)
    process = client(place, server[0])
    wait_for(lambda: starts(place))
    assert starts(place)[0][0] == process.pid
    assert end(place, process) == (3, "")


def test_a_server_that_is_killed_before_it_starts_a_task_costs_only_time(place, server):
    folder, made = server
    made.suspend()
    process = client(place, folder)
    wait_for(lambda: _catches(process.pid, signal.SIGTERM))  # it has connected
    kill(folder, made)
    wait_for(lambda: starts(place))
    assert starts(place)[0][0] == process.pid
    process.send_signal(signal.SIGTERM)  # which the new process does not ignore
    process.communicate(timeout=LONG)
    assert process.returncode == -signal.SIGTERM


def test_a_stop_while_there_is_no_server_any_more_starts_no_task(place, server):
    folder, made = server
    made.suspend()
    process = client(place, folder)
    wait_for(lambda: _catches(process.pid, signal.SIGTERM))
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: not _is_pending(process.pid, signal.SIGTERM))
    kill(folder, made)
    process.communicate(timeout=LONG)
    assert (process.returncode, starts(place)) == (143, [])


def test_a_task_goes_on_when_the_server_is_killed(place, server):
    process = client(place, server[0])
    wait_for(lambda: starts(place))
    kill(*server)
    assert end(place, process) == (3, "")
    assert len(starts(place)) == 1


def test_a_task_whose_waiting_process_is_killed_is_done_anew_and_never_twice_at_once(place, server):
    process = client(place, server[0])
    wait_for(lambda: starts(place))
    task, waiting = starts(place)[0]
    os.kill(waiting, signal.SIGKILL)
    wait_for(lambda: len(starts(place)) == 2)
    wait_for(lambda: not psutil.pid_exists(task) or psutil.Process(task).status() == psutil.STATUS_ZOMBIE)
    assert starts(place)[1][0] == process.pid
    assert end(place, process) == (3, "")


@pytest.mark.parametrize("written", ["another", None])
def test_a_server_of_another_version_is_not_used(place, server, monkeypatch, written):
    folder, _ = server
    monkeypatch.setenv(warm.SWITCH, str(folder))
    with warm.warm_python() as same:
        assert same == folder
    (folder / warm.VERSION).write_text(written) if written else (folder / warm.VERSION).unlink()
    with warm.warm_python() as other:
        assert other != folder


def _bits(pid, name):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [int(line.split()[1], 16) for line in lines if line.split(":")[0] in name]


def _catches(pid, number):
    return any(bits >> (number - 1) & 1 for bits in _bits(pid, {"SigCgt"})) and "client" in _words(pid)


def _is_pending(pid, number):
    return any(bits >> (number - 1) & 1 for bits in _bits(pid, {"SigPnd", "ShdPnd"}))


def _words(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_a_server_whose_run_was_killed_while_it_began_ends(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    gone = subprocess.Popen(["true"])
    gone.wait()
    words = [str(listener.fileno()), str(tmp_path / warm.READY), str(gone.pid)]
    begun = subprocess.Popen([sys.executable, *LIGHT, *words], pass_fds=[listener.fileno()], env=with_our_code())
    assert begun.wait(LONG) == 0
