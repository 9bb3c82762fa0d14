"""A node ends with the exit code of the process that failed first, and gives its processes time to end."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow  # torchrun takes seconds to load

PROCESS = """
import os, signal, sys, time
rank, what = int(os.environ["RANK"]), sys.argv[1]
if what == "wait":
    def stop(*_):
        time.sleep(float(sys.argv[3]))
        open(sys.argv[2], "a").write(f"saved {rank}\\n")
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    open(sys.argv[2] + f".{rank}", "w").close()
    time.sleep(60)
if what == "kill" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if what.isdigit() and rank == 1:
    sys.exit(int(what))
if what != "0":
    time.sleep(3)  # as one that waits for the other
"""


def start(tmp_path, *words):
    (tmp_path / "work.py").write_text(PROCESS)
    environment = {**os.environ, "PET_NNODES": "1", "PET_NPROC_PER_NODE": "2", "PET_NODE_RANK": "0",
                   "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": "0",
                   "PYTHONPATH": os.pathsep.join([os.getcwd(), str(tmp_path)])}  # fmt: skip
    command = [sys.executable, "-m", "steps.launch.node", "-m", "work", *words]
    return subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("what", "code"), [("0", 0), ("2", 2), ("6", 6), ("kill", 137)])
def test_the_code_is_that_of_the_process(tmp_path, what, code):
    node = start(tmp_path, what)
    _, err = node.communicate(timeout=300)
    assert node.returncode == code, err[-2000:]


@pytest.mark.long
def test_processes_have_more_time_to_save_than_torchrun_gives_them(tmp_path):
    saved = tmp_path / "saved"
    node = start(tmp_path, "wait", str(saved), "33")
    limit = time.monotonic() + 300
    while not all((tmp_path / f"saved.{rank}").exists() for rank in range(2)):
        assert time.monotonic() < limit
        time.sleep(0.1)
    node.send_signal(signal.SIGTERM)
    node.communicate(timeout=300)
    assert node.returncode == 143
    assert sorted(saved.read_text().splitlines()) == ["saved 0", "saved 1"]
