"""Code in a fork runs as in a process of its own."""

import os
import signal

import pytest
from forking import ForkingPython
from waiting import wait_for

CODE = """
import json, os, sys
json.changed = getattr(json, "changed", 0) + 1
print(json.changed, sys.argv[1:], os.getcwd(), os.environ["ANIMAL"], "steps" in sys.modules, hash("a"))
"""


def test_every_child_is_fresh_and_has_its_own_arguments_folder_and_environment(tmp_path):
    python = ForkingPython(["json"], {**os.environ, "PYTHONHASHSEED": "1"})
    try:
        told = [python.run(CODE, word, cwd=tmp_path, ANIMAL=word) for word in ("fox", "owl")]
        number = told[0].split()[-1]
        assert told == [f"1 ['{word}'] {tmp_path} {word} False {number}\n" for word in ("fox", "owl")]
        with pytest.raises(AssertionError, match=r"(?s)ended with 1: .*ZeroDivisionError"):
            python.run("print('x'); 1 / 0", cwd=tmp_path)
        with pytest.raises(AssertionError, match="ended with 3"):
            python.run("raise SystemExit(3)", cwd=tmp_path)
        assert list(tmp_path.iterdir()) == []
    finally:
        python.close()
    other = ForkingPython([], {**os.environ, "PYTHONHASHSEED": "2"})
    assert other.run(CODE, cwd=tmp_path, ANIMAL="").split()[-1] != number
    other.close()


def test_children_that_run_at_the_same_time_get_signals_and_tell_how_they_ended(tmp_path):
    python = ForkingPython(["json"])

    def start(code: str):
        return python.start(code, cwd=tmp_path, environment=os.environ, files=[tmp_path / "said", tmp_path / "said"])

    try:
        first = start("import sys, time; print('a', flush=True); time.sleep(600)")
        wait_for(lambda: (tmp_path / "said").exists() and (tmp_path / "said").read_text())
        second = start("import time; time.sleep(600)")
        third = start("import sys; print('c', file=sys.stderr); sys.exit(3)")
        assert third.wait(100) == third.wait() == third.poll() == 3
        with pytest.raises(AssertionError, match="did not end in 0"):
            first.wait(0.1)
        assert first.poll() is second.poll() is None
        first.kill()
        assert (first.wait(100), first.returncode) == (-signal.SIGKILL, -signal.SIGKILL)
        first.kill()  # whose number another process may have by now
        second.send_signal(signal.SIGTERM)
        assert second.wait(100) == -signal.SIGTERM
        assert (tmp_path / "said").read_text().split() == ["a", "c"]
        left = start("import time; time.sleep(600)")
    finally:
        python.close()  # though a child still runs
    os.kill(left.pid, signal.SIGKILL)
