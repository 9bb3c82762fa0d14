"""One process of several that answer rows: `python -m steps.generate.process job.json`, by torchrun's agent."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    job = Path(sys.argv[1])
    # Before torch is imported, which reads it once.
    if devices := json.loads(job.read_bytes())["devices"][int(os.environ["RANK"])]:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
        os.environ.pop("HIP_VISIBLE_DEVICES", None)
    from steps.generate.worker import work

    work(job)
