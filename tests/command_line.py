"""Run the `finetune` command as a subprocess, whether it is installed or not."""

import os
import sys
from pathlib import Path

FINETUNE = [sys.executable, "-W", "ignore", "-c", "from pipelines.cli import main; main()"]


def with_our_code() -> dict[str, str]:
    """Give this environment to a Python that starts in another folder than the checkout."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
