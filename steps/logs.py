"""What a step logs: its own lines and the warnings of libraries, without KFP's own lines and progress bars."""

from __future__ import annotations

import logging
import os
import sys

from steps.redaction import mask_output

RECORDS = "STEP_RECORDS"  # folder set by the local runner, which sees neither exit codes nor cached tasks
SHOWN = "\x1e"
# Read by the libraries at import. transformers follows huggingface_hub; TQDM_DISABLE is the default of all other bars.
WITHOUT_BARS = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "TQDM_DISABLE": "1",
}

log = logging.getLogger("finetune")


_in_kfp_task = False


def be_kfp_task() -> None:
    """Tell that this process is a task of KFP, but not of `finetune run`, which shows errors itself.

    The warnings of libraries get their level in front, in both.
    """
    global _in_kfp_task
    _in_kfp_task = RECORDS not in os.environ
    mask_output()
    printing = logging.StreamHandler(sys.stdout)
    printing.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    printing.addFilter(_is_not_printed_yet)
    logging.getLogger().addHandler(printing)


def in_kfp_task() -> bool:
    """Return whether this process is a task of KFP, outside of `finetune run`."""
    return _in_kfp_task


def log_plainly() -> None:
    """Log our own messages to stdout without a prefix; libraries log warnings only.

    Nothing that is printed afterwards has credentials in it. A task of KFP gets no progress bars: each of their updates
    would be a line. Variables that are set already win.
    """
    mask_output()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Marked() if RECORDS in os.environ else logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger().setLevel(logging.WARNING)
    # It warns at import that a faster kernel "failed to load", which KFP's viewer paints red (bitsandbytes 0.50).
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if in_kfp_task():
        for name, value in WITHOUT_BARS.items():
            os.environ.setdefault(name, value)


def _is_not_printed_yet(record: logging.LogRecord) -> bool:
    """Tell if no other logger prints a message: where CI is set, transformers prints its own and passes them on."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger and logger is not logging.root:
        if logger.handlers:
            return False
        logger = logger.parent
    return True


class _Marked(logging.Formatter):
    """Marks every line: the local runner prints marked lines and writes all other output to a file only."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(f"{SHOWN}{line}" for line in super().format(record).split("\n"))
