"""The `finetune` command as a subprocess, whether or not it is installed."""

import sys

FINETUNE = [sys.executable, "-W", "ignore", "-c", "from pipelines.cli import main; main()"]
