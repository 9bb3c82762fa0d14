"""One process of several that answer rows, with the engine that computes nothing."""

import os
import sys
from pathlib import Path

import echo_engine

from steps.generate import answering
from steps.generate.worker import work

if __name__ == "__main__":
    echo_engine.put_in_place()
    answering.WINDOW = 50
    if os.environ.get("ECHO_FAILS") == os.environ["RANK"]:
        answering.WINDOW = None
    work(Path(sys.argv[1]))
