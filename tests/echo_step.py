"""The command line of the steps, with the engine that computes nothing; PROCESS_MODULE is the one of its processes."""

import echo_engine

from steps.__main__ import main
from steps.generate import answering, processes

if __name__ == "__main__":
    echo_engine.put_in_place()
    processes.MODULE = "echo_process"
    answering.WINDOW = 50
    main()
