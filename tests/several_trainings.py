"""Trainings one after the other in the same processes, started by torchrun's agent with a folder of jobs.

What steps/finetune/worker.py does once it does here for every job in the folder, so that a test need not start
processes for each of them.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from steps.finetune.curves import TrainingCurve
from steps.finetune.training import Training, train
from steps.launch.group import joined
from steps.launch.sharding import sharding_on_cpus


def main(folder: Path) -> None:
    from accelerate.state import AcceleratorState, GradientState

    with joined() as group, sharding_on_cpus():
        for job in sorted(folder.glob("*.json")):
            training = Training.from_text(job.read_text(encoding="utf-8"))
            try:
                train(training, TrainingCurve(training.settings, training.folder))
            except Exception:
                job.with_suffix(f".failed-{group.rank}").write_text(traceback.format_exc(), encoding="utf-8")
                os._exit(1)
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            group.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
