"""One process of a training in several: `python -m steps.finetune.process training.json`, by torchrun's agent.

Until a training has begun, SIGTERM ends the process at once, by its default action: nothing could be saved, and a
handler in Python would not run while the process waits for another one in a library.
"""

from __future__ import annotations

import sys
from pathlib import Path

from steps.finetune.worker import work
from steps.stopping import ending

if __name__ == "__main__":
    with ending():
        work(Path(sys.argv[1]))
