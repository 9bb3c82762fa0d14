"""What other processes and libraries print is without secrets, whole, in time, and in time that grows as the text."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steps.child_output import LATE, LONGEST, QUIET, Flow
from steps.redaction import Printed

ROOT = Path(__file__).parents[2]
SECRET = "hf_" + "QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUi"
VALUE = "kR8vT2mQ9pLx4WzB7nYc"
KEY = "".join(
    ["-----BEGIN RSA PRIVATE KEY-----\n", *(f"{'MIIEowIBAAKCAQEA' * 4}\n" for _ in range(5)),
     "-----END RSA PRIVATE KEY-----\n"]
)  # fmt: skip
HEAD = "import ctypes, os, signal, subprocess, sys, time\nfrom steps.child_output import mask_children, settle\n"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "MY_SERVICE_PASSWORD": VALUE}


def printed_by(code: str, together: bool = False) -> tuple[int, str, str]:
    """Run code in a new Python; return its exit code and what it and its children printed."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code], stdout=subprocess.PIPE, text=True, timeout=60, env=ENVIRONMENT,
        stderr=subprocess.STDOUT if together else subprocess.PIPE, errors="surrogateescape",
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr or ""


class Written:
    """A flow whose clock a test moves, and what has come out of it."""

    def __init__(self):
        self.now = 100.0
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        self.flow = Flow(writing, lambda: self.now)

    def wait(self, seconds: float) -> str:
        self.now += seconds
        self.flow.look()
        return self.read()

    def read(self) -> str:
        try:
            return os.read(self._reading, 1 << 20).decode("utf-8", "surrogateescape")
        except BlockingIOError:
            return ""


def test_everything_that_does_not_print_with_this_python_is_masked():
    code, out, error = printed_by(f"""
mask_children()
libc = ctypes.CDLL(None)
libc.write(1, b"from C token={SECRET}\\n", {len(SECRET) + 14})
subprocess.run(["sh", "-c", "echo out $MY_SERVICE_PASSWORD; echo error {SECRET} >&2"])
subprocess.run([sys.executable, "-c", "print({KEY!r})"])
if os.fork() == 0:
    print("forked {SECRET}", flush=True)
    os.write(2, b"raw \\xff {SECRET}\\n")
    os._exit(0)
os.wait()
print("own {SECRET}")
""")
    assert code == 0
    assert SECRET not in out + error
    assert VALUE not in out + error
    assert "MIIEowIBAAKCAQEA" not in out
    for word in ("from C token=", "out ", "forked ", "own "):
        assert word in out
    assert "error " in error
    assert "raw \udcff " in error


def test_one_file_for_both_keeps_the_order_of_lines_and_the_last_words_come_last():
    code, out, _ = printed_by(
        "mask_children()\nsubprocess.run(['sh', '-c', 'for i in 1 2 3; do echo $i; echo $i >&2; done; printf half'])\n"
        "settle()\nprint('last', file=sys.stderr)\n", together=True,
    )  # fmt: skip
    assert code == 0
    assert out == "1\n1\n2\n2\n3\n3\nhalflast\n"


def test_what_was_printed_before_a_kill_arrives():
    code, out, _ = printed_by(
        "mask_children()\nos.write(1, b'crash of a library ' * 1000)\nprint('own')\nsys.stdout.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert code == -9
    assert out.count("crash of a library ") == 1000
    assert "own\n" in out


def test_output_that_nobody_reads_any_more_does_not_end_who_prints_it():
    run = subprocess.Popen(
        [sys.executable, "-c", HEAD + "mask_children()\nos.execlp('seq', 'seq', '300000')"], stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )  # fmt: skip
    assert run.stdout is not None
    assert run.stdout.read(20).startswith(b"1\n2\n")
    run.stdout.close()
    assert run.wait(60) == 0


@pytest.mark.parametrize("seed", range(5))
def test_pieces_of_any_size_are_masked_as_the_whole(seed):
    chance = random.Random(seed)
    lines = [f"step {number} loss 0.5 é {SECRET if number % 3 else ''} https://me:{VALUE}@host/x\n"
             for number in range(40)]  # fmt: skip
    content = "".join([*lines, KEY, "the end"]).encode()
    written = Written()
    while content:
        size = chance.choice([1, 2, 7, 50, 300])
        written.flow.take(content[:size])
        content = content[size:]
    written.flow.end()
    told = written.read()
    assert told.startswith(Printed().masked("".join(lines)))
    assert told.endswith("the end")
    assert SECRET not in told
    assert "MIIEowIBAAKCAQEA" not in told


def test_lines_and_progress_bars_come_at_once_and_beginnings_of_lines_within_a_second():
    written = Written()
    written.flow.take(b"a line\n 10%|#  |\r 20%|## |")
    assert written.read() == "a line\n 10%|#  |\r"
    assert written.wait(QUIET + 0.01) == " 20%|## |"
    for _ in range(12):  # dots that never pause
        written.flow.take(b"dot ")
        written.now += 0.1
        written.flow.look()
    assert written.read().count("dot ") >= 12 - LATE / 0.1 - 1


def test_a_secret_behind_a_pause_is_masked():
    written = Written()
    written.flow.take(b"Password: ")
    assert written.wait(1) == "Password: "
    written.flow.take(b"kR8vT2mQ9pLx\nnext\n")
    assert written.read().endswith("\nnext\n")
    written.flow.take(f"begun {SECRET[:20]}".encode())
    written.now += QUIET / 2
    written.flow.look()
    written.flow.take(SECRET[20:].encode() + b"\n")
    told = written.read()
    assert "QwErTyUiOp" not in told
    assert "begun" in told


def test_time_grows_as_the_text_also_of_a_line_without_an_end():
    def seconds(content: bytes) -> float:
        flow, before = Flow(os.open(os.devnull, os.O_WRONLY)), time.process_time()
        for place in range(0, len(content), 1 << 16):
            flow.take(content[place : place + (1 << 16)])
        flow.end()
        return time.process_time() - before

    for piece in (b"x" * 1000, b"word " * 200, b"step 1 loss 0.5\n" * 60):
        once = seconds(piece * (LONGEST // 1000))
        assert seconds(piece * (4 * LONGEST // 1000)) < 12 * once + 0.2


def test_a_full_disk_stops_nobody():
    flow = Flow(os.open("/dev/full", os.O_WRONLY))
    flow.take(b"a line\n")
    flow.end()


def test_every_program_that_starts_others_masks_them():
    starts = [file for folder in ("steps", "pipelines") for file in sorted((ROOT / folder).rglob("*.py"))
              if '\nif __name__ == "__main__":' in file.read_text()]  # fmt: skip
    inside = {"process.py", "jail.py"}  # started by those that mask
    own_log = {"warm.py", "run.py"}  # each process that they start has its own place, and masks there
    prints = {"reference.py", "experiment_page.py"}  # they start none
    missing = [file.name for file in starts if "    mask_children()" not in file.read_text()]
    assert sorted(missing) == sorted([*inside, "process.py", *own_log, *prints])
