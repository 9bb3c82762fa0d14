"""A process goes on and ends with its own code, whatever becomes of those who read what it prints."""

import os
import subprocess
import sys

import pytest
from command_line import with_our_code

from steps import outlets

PROGRAM = """
import sys
from steps import outlets
outlets.PATIENCE = float(sys.argv[2])
outlets.open_outlets()
for number in range(int(sys.argv[1])):
    print("a line of a training", number)
    print("a warning", number, file=sys.stderr)
print("token", "hf_" + "a" * 34, "\\u25b8")
sys.stderr.buffer.write(b"bytes hf_" + b"a" * 34 + b"\\n")
open("result", "w").write("whole")
sys.exit(6)
"""
LINES = "5000"  # more than a pipe holds


def started(place, stdout, stderr=subprocess.DEVNULL, lines=LINES, patience="0.05"):
    words = [sys.executable, "-c", PROGRAM, lines, patience]
    return subprocess.Popen(words, cwd=place, stdout=stdout, stderr=stderr, env=with_our_code())


def test_a_reader_that_has_ended(tmp_path):
    reading, writing = os.pipe()
    process = started(tmp_path, writing, writing)
    os.close(reading)
    os.close(writing)
    assert process.wait() == 6


def test_a_reader_that_has_stopped_and_reads_again(tmp_path):
    reading, writing = os.pipe()
    process = started(tmp_path, writing, writing)
    os.close(writing)
    assert process.wait() == 6
    kept = os.read(reading, 1 << 20)
    os.close(reading)
    assert kept.startswith(b"a line of a training 0\na warning 0\n")
    assert (tmp_path / "result").read_text() == "whole"


def test_a_full_disk(tmp_path):
    with open("/dev/full", "wb") as full:
        assert started(tmp_path, full, full).wait() == 6


@pytest.mark.parametrize("closed", ["1", "2", "0, 1, 2"])
def test_streams_that_are_closed_and_no_file_gets_what_is_printed(tmp_path, closed):
    words = f"import os, sys\n[os.close(n) for n in ({closed},)]\nos.execv(sys.executable, [sys.executable, '-c', "
    process = subprocess.run(
        [sys.executable, "-c", f"{words}{PROGRAM!r}, '3', '9'])"], cwd=tmp_path, env=with_our_code()
    )
    assert process.returncode == 6
    assert (tmp_path / "result").read_text() == "whole"


def test_what_is_read_arrives_whole_and_in_order(tmp_path):
    process = started(tmp_path, subprocess.PIPE, subprocess.STDOUT, "2000", "1000")
    out, _ = process.communicate()
    expected = [line for n in range(2000) for line in (f"a line of a training {n}", f"a warning {n}")]
    assert out.decode().splitlines() == [*expected, "token … ▸", "bytes …"]


def test_a_character_that_the_stream_does_not_know_is_written_as_its_number(tmp_path):
    environment = {**with_our_code(), "PYTHONIOENCODING": "latin-1"}
    words = [sys.executable, "-c", PROGRAM, "0", "9"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True)
    assert (done.returncode, done.stdout) == (6, b"token \\u2026 \\u25b8\n"), done.stderr


def test_a_reader_that_takes_a_little_now_and_then_is_not_waited_for_each_time(monkeypatch):
    monkeypatch.setattr(outlets, "PATIENCE", 0.05)
    reading, writing = os.pipe()
    outlet = outlets.Outlet("stdout", writing)
    while outlet._patience:  # it is waited for once
        assert outlet.write(b"a" * 4096) == 4096
    for _ in range(3):
        os.read(reading, 4096)
        outlet.write(b"b" * 4096)
        assert outlet._patience <= outlets.REGAINED
        outlet.write(b"c" * 4096)
        assert outlet._patience == 0
    os.close(reading)
    assert outlet.write(b"a") == 1
    os.close(writing)
    assert outlet.write(b"a") == 1


def test_an_outlet_is_opened_once_and_leaves_streams_of_others_alone(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    outlets.open_outlets()  # in a process whose streams are a test's
    own = sys.stdout, sys.stderr
    outlets.open_outlets()
    assert (sys.stdout, sys.stderr) == own
