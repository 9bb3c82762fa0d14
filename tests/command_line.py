"""Run the `finetune` command as a subprocess, whether it is installed or not."""

import sys

FINETUNE = [sys.executable, "-W", "ignore", "-c", "from pipelines.cli import main; main()"]
