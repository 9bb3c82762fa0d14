"""Run verl's trainer as a process: its output to the log, its metrics to a callback, its end as an error of ours.

    python -m verl.trainer.main_ppo <overrides>        a list of arguments, no shell

It is started in a session of its own, so that all that it starts (Ray's processes too) can be stopped together. verl
does not save when it is asked to stop: a stopped training goes on from its newest whole checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from steps.errors import StepError
from steps.launch.children import StopRequest, end_group, noting_stops, python_path
from steps.launch.ray_node import WITHOUT_REPORTS
from steps.redaction import Printed
from steps.verl.failures import Output, error_of, has_told, preempted
from steps.verl.metrics import Logged, MetricsFile

log = logging.getLogger("finetune")

MODULE = "verl.trainer.main_ppo"
LOG_FILE = "verl.log"  # beside the checkpoints
GRACE = 60.0  # seconds between the request to stop and SIGKILL; Ray needs some to end its processes
EVERY = 0.2  # seconds between two looks at metrics and checkpoints
METRICS = "VERL_FILE_LOGGER_PATH"  # of verl.utils.tracking
FOLLOWED = 2.0  # seconds for the last lines of the output, which a process that was left behind may keep open


@dataclass
class Running:
    """A run of verl's trainer; `run` returns when the training has ended."""

    overrides: Sequence[str]
    folder: Path
    """For its log, and as its working directory."""
    metrics: MetricsFile
    on_step: Callable[[Logged], None]
    """Called with what each step logged."""
    on_look: Callable[[], Path | None]
    """Called several times a second; seals checkpoints and returns the newest."""
    job: Path | None = None
    """The folder in which reward functions write their errors."""
    environment: Mapping[str, str] = field(default_factory=dict)
    grace: float = GRACE
    step: int = 0
    """The last step that was logged."""
    lock: IO[str] | None = None
    """A locked file that verl keeps open: it stays locked while verl lives, even if this process is killed."""

    def run(self) -> None:
        """Run verl until it has ended.

        Raises Preempted after SIGTERM and KeyboardInterrupt after Ctrl-C, both with the newest whole checkpoint sealed;
        NumericError as `MetricsFile.new`; otherwise the error of `failures.error_of` if it fails.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        output = Output()
        with noting_stops() as asked, open(self.folder / LOG_FILE, "a", encoding="utf-8") as file:
            process = self._start()
            reading = threading.Thread(target=self._read, args=(process, output, file), name="verl", daemon=True)
            reading.start()
            try:
                self._watch(process, asked)
            finally:
                end_group(process, 0.0, "verl")
                reading.join(FOLLOWED)
        saved = self.look()
        if asked:
            log.info("verl was stopped; %s", f"the newest checkpoint is {saved}" if saved else "it has no checkpoint")
            if asked.number == signal.SIGINT:
                raise KeyboardInterrupt
            raise preempted(self.step, saved)
        if process.returncode:
            raise self._failed(process.returncode, output, saved)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-u", "-m", MODULE, *self.overrides]
        log.info("starting python -m %s with %d settings", MODULE, len(self.overrides))
        own = {"PYTHONPATH": python_path(), METRICS: str(self.metrics.file), **WITHOUT_REPORTS}
        environment = {**os.environ, **own, **self.environment}
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env=environment,
            start_new_session=True,
            pass_fds=[self.lock.fileno()] if self.lock else [],
        )

    def _watch(self, process: subprocess.Popen[bytes], asked: StopRequest) -> None:
        """Follow verl until it has ended, or was stopped."""
        while process.poll() is None:
            if asked:
                end_group(process, self.grace, "verl")
                return
            self.look()
            if has_told(self.job):  # verl may go on without the answers that a reward function failed on
                end_group(process, 0.0, "verl")
                return
            with suppress(subprocess.TimeoutExpired):
                process.wait(EVERY)

    def look(self) -> Path | None:
        """Take what verl has logged and saved since the last look; return the newest whole checkpoint."""
        for logged in self.metrics.new():
            self.step = max(self.step, logged.step)
            self.on_step(logged)
        return self.on_look()

    def _failed(self, code: int, output: Output, saved: Path | None) -> StepError:
        error = error_of(code, output, self.step, self.job)
        error.resume_from = str(saved) if saved else ""
        return error

    def _read(self, process: subprocess.Popen[bytes], output: Output, file: IO[str]) -> None:
        """Take verl's output line by line; progress bars draw over a line with carriage returns."""
        assert process.stdout is not None
        printed = Printed()  # it knows a private key over several lines
        for raw in process.stdout:
            line = output.add(raw.decode("utf-8", "replace").rstrip("\n").rpartition("\r")[2])
            told = printed.masked(f"{line}\n")[:-1]
            with suppress(ValueError):  # closed: the process that was waited for has ended
                file.write(told + "\n")
                file.flush()
            if not line.startswith("step:"):  # the metrics, which are told in our own words
                log.info("verl │ %s", told)
