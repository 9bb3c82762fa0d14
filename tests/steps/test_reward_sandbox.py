"""Programs that attack the sandbox: what they do, how they end, and what is left of them."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sandboxed import skip_without_sandbox
from waiting import LONG

from steps.errors import SecurityRefusal
from steps.rewards import jail, sandbox
from steps.rewards.sandbox import Limits, run

SHORT = Limits(seconds=1, memory_mib=256, output_bytes=100_000)

ATTACKS = {
    "fork bomb": ("import os\nwhile True: os.fork()", {"failed"}),
    "fork bomb in C": ("import ctypes\nwhile True: assert ctypes.CDLL(None).fork() >= 0", {"failed"}),
    "processes": ("import multiprocessing\nmultiprocessing.Process(target=print).start()", {"failed"}),
    "a command": ("import subprocess\nsubprocess.run(['/bin/ls'])", {"failed"}),
    "exec": ("import os\nos.execv('/bin/ls', ['ls'])", {"failed"}),
    "system": ("import os\nassert os.system('true') == 0", {"failed"}),
    "threads": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        {"failed"},
    ),
    "memory": ("bytearray(10**11)", {"failed"}),
    "memory, bit by bit": ("x = []\nwhile True: x.append('a' * 10**6)", {"failed", "time"}),
    "more memory": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nbytearray(10**9)", {"failed"},
    ),
    "endless output": ("while True: print('x' * 1000)", {"output"}),
    "endless errors": ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", {"output"}),
    "endless computing": ("while True: pass", {"time"}),
    "one long computation": ("9 ** 9 ** 9", {"time", "failed"}),
    "sleeping": ("import time\ntime.sleep(1000)", {"time"}),
    "sleeping without output": ("import os, time\nos.close(1)\nos.close(2)\ntime.sleep(1000)", {"time"}),
    "deep recursion": ("import sys\nsys.setrecursionlimit(10**9)\nf = lambda: f()\nf()", {"failed", "time"}),
    "a crash": ("import ctypes\nctypes.string_at(0)", {"failed"}),
    "reading /etc": ("print(open('/etc/passwd').read())", {"failed"}),
    "listing folders": ("import os\nprint(os.listdir('/'))", {"failed"}),
    "the environment": ("print(open('/proc/self/environ').read())", {"failed"}),
    "its parent's memory": ("import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')", {"failed"}),
    "its own file": ("import sys\nopen(sys.argv[0])", {"failed"}),
    "writing": ("open('a', 'w')", {"failed"}),
    "making a folder": ("import os\nos.mkdir('a')", {"failed"}),
    "a link out": ("import os\nos.symlink('/etc/passwd', 'a')", {"failed"}),
    "the network": ("import socket\nsocket.create_connection(('127.0.0.1', PORT))", {"failed"}),
    "a socket pair": ("import socket\nsocket.socketpair()", {"failed"}),
    "killing its parent": ("import os\nos.kill(os.getppid(), 9)", {"failed"}),
    "killing its group": ("import os\nos.killpg(0, 9)", {"failed"}),
    "killing by SIGIO": ("import fcntl, os\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())", {"failed"}),
    "limits of its parent": (
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))", {"failed"},
    ),
    "a namespace": (
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0", {"failed"},
    ),
    "debugging its parent": (
        "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0", {"failed"},
    ),
    "the status of a broken jail": ("import os, sys\nprint('x', file=sys.stderr)\nos._exit(97)", {"failed"}),
}  # fmt: skip


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends(name, port, tmp_path, monkeypatch):
    skip_without_sandbox()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program, ends = ATTACKS[name]
    before = children()
    started = time.monotonic()
    ran = run(program.replace("PORT", str(port)), "", SHORT)
    assert ran.end in ends, ran
    assert time.monotonic() - started < SHORT.seconds * sandbox.PATIENCE + LONG  # an attack lasts 1000 s, or for ever
    assert len(ran.output) <= SHORT.output_bytes
    assert children() == before
    assert list(tmp_path.iterdir()) == []


def children() -> set[str]:
    """Every process that is a child of this one, zombies included."""
    made = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return {line for line in made.stdout.splitlines() if not line.endswith(" ps")}


def test_attacks_would_work_outside(tmp_path):
    """The same programs are able to do it without the jail: the tests above see the jail, not a mistake."""
    for name in ("a command", "reading /etc", "listing folders", "writing", "a link out", "a socket pair", "system"):
        made = subprocess.run([sys.executable, "-c", ATTACKS[name][0]], cwd=tmp_path, capture_output=True)
        assert made.returncode == 0, (name, made.stderr)
        for left in tmp_path.iterdir():
            left.unlink()


def test_ordinary_programs_run():
    skip_without_sandbox()
    program = """
import bisect, collections, dataclasses, datetime, decimal, fractions, functools, heapq, itertools, json, math, random
import re, statistics, string, threading, typing
thread = threading.Thread(target=print, args=(sum(map(int, input().split())),))
thread.start(), thread.join()
print(math.comb(5, 2), json.dumps(sorted({"é", "a"})), re.sub("a", "b", "aa"))
"""
    ran = run(program, "3 4\n")
    assert (ran.end, ran.output) == ("ok", '7\n10 ["a", "\\u00e9"] bb\n')


def test_the_same_program_gives_the_same_output():
    skip_without_sandbox()
    program = "import random\nprint(random.random(), list({'a', 'b', 'c', 'd', 'e'}), hash('x'))"
    assert len({run(program).output for _ in range(3)}) == 1


def test_nothing_runs_where_the_walls_cannot_be_built(tmp_path, monkeypatch):
    broken = tmp_path / "jail.py"
    text = Path(jail.__file__).read_text()
    broken.write_text(text.replace("create, add, restrict = 444, 445, 446", "create, add, restrict = 9999, 445, 446"))
    monkeypatch.setattr(jail, "__file__", str(broken))
    sandbox.check_sandbox.cache_clear()
    try:
        with pytest.raises(SecurityRefusal, match=r"REWARD-E0215 .*Landlock"):
            run("print(1)")
    finally:
        sandbox.check_sandbox.cache_clear()


@pytest.mark.parametrize(
    ("machine", "header"), [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")]
)
def test_the_numbers_of_system_calls_are_those_of_the_kernel(machine, header):
    file = Path("/usr/include") / header
    if not file.is_file():
        pytest.skip(f"no {file} on this machine")
    numbers = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", file.read_text()))
    column = jail.ARCHITECTURES[machine][1]
    ours = jail.DENIED | {"clone": jail.CLONE, "clone3": jail.CLONE3, "fcntl": jail.FCNTL, "ioctl": jail.IOCTL,
                          "prlimit64": jail.PRLIMIT}  # fmt: skip
    checked = {name: pair[column] for name, pair in ours.items() if name in numbers}
    assert len(checked) > 60
    assert {name: number for name, number in checked.items() if number != int(numbers[name])} == {}
