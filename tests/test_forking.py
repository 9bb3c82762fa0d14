"""Code in a fork runs as in a process of its own."""

import os

import pytest
from forking import ForkingPython

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
