"""Runs a sweep on this machine: plan, shared work, trials, the best one. Started again, it goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipelines.active import active
from pipelines.sweeping.folder import FACTS, LOG, REPORT, SweepFolder, TrialFolder, read_json, write_json
from pipelines.sweeping.planned import Changed, Plans
from pipelines.sweeping.processes import POLL, Job, Processes, StepFailed, Stopped, processes
from pipelines.sweeping.search import Search
from steps.errors import Outage, Preempted, UserError
from steps.params.sweep import as_cell
from steps.running import TOGETHER, is_whole, load, looking_once, read_curve, run_here

RETRIED = (Outage.exit_code, Preempted.exit_code)  # of what may pass
DISK = "DISK-"  # codes of a full disk, which is not the fault of a trial
TRIES = 3  # of a trial whose process was killed or met an outage
TOLD = {"merge-adapter": "merging the best trial", "evaluate": "evaluating the best trial on the test rows"}
LIVE_SECONDS = 1.0  # between two writes of sweep.json while trials run

Show = Callable[[str], None]


class Driver:
    """One sweep, driven by this process."""

    def __init__(self, folder: SweepFolder, show: Show = print):
        self.folder = folder
        self.described = folder.described
        self.search = Search(self.described)
        self.show = show
        self.plans = Plans(folder)
        self.tries: dict[int, int] = {}
        self._written = 0.0
        self._importance: tuple[int, dict[str, float]] | None = None
        self._steps: Processes | None = None
        self._stopping = False

    def run(self) -> dict[str, Any]:
        """Run the sweep, which this process holds, to its end and return the facts of sweep.json.

        Raises StepError for a plan that is refused, StepFailed for a step that the sweep cannot do without, Stopped.
        """
        folder, parallel = self.folder, self.described.max_parallel
        with (
            open(folder.path / LOG, "a", encoding="utf-8") as log,
            active(folder.root, log),
            processes(folder.root, parallel) as self._steps,
            self._signals(),
            looking_once(),
        ):
            self._plan_first()
            self._run_trials(self._steps, parallel)
            return self._finish(self._steps)

    def stop(self) -> None:
        """Stop as soon as the running trials have saved."""
        self._stopping = True  # before the processes: what they end is not told as failed
        if self._steps:
            self._steps.stop()

    # The plan

    def _plan_first(self) -> None:
        for trial in self.plans.first():
            if trial.result is None or trial.settings is not None:
                self._plan_one(trial)
        if note := self.search.note:
            self.show(note)

    def _plan_one(self, trial: TrialFolder) -> None:
        """Plan a trial that a sampler has chosen; one that is refused has failed."""
        try:
            self.plans.one(trial)
        except Changed:
            raise
        except UserError as error:
            if trial.settings is not None:
                raise  # it was accepted before: something else has changed
            self._fail(trial, error.as_json("plan"))

    # The trials

    def _run_trials(self, steps: Processes, parallel: int) -> None:
        running: dict[int, Job] = {}
        while True:
            while len(running) < parallel and not self._stopping and (trial := self._next(set(running))):
                with contextlib.suppress(Stopped):
                    if self._prepared(steps, trial, set(running)):
                        running[trial.number] = self._start(steps, trial)
                        self._write_facts(running)
            if not running:
                break
            time.sleep(POLL)
            if self._stopping:
                steps.stop()
            for number, job in list(running.items()):
                if job.code is not None:
                    steps.forget(running.pop(number))
                    self._ended(number, job)
                    self._write_facts(running)
            if time.monotonic() - self._written > LIVE_SECONDS:
                self._write_facts(running)
        if self._stopping:
            raise Stopped

    def _next(self, running: set[int]) -> TrialFolder | None:
        """Return a trial that waits, or a new one; None if there is none."""
        while True:
            trials = self.folder.trials()
            waiting = [one for one in trials if one.number not in running and one.result is None]
            if waiting:
                return waiting[0]
            asked = self.search.ask([self._told(trial, running) for trial in trials])
            if asked is None:
                return None
            numbers = {trial.number for trial in trials}
            trial = self.folder.new_trial(next(one for one in range(len(trials) + 1) if one not in numbers), asked)
            self._plan_one(trial)
            if trial.result is None:
                return trial

    def _told(self, trial: TrialFolder, running: set[int]) -> dict[str, Any]:
        """Return a trial as sweep.json has it."""
        state = "running" if trial.number in running else "waiting"
        told = {"number": trial.number, "parameters": trial.asked, "state": state, **(trial.result or {})}
        if trial.result is None and (curve := read_curve(trial.path / "curve.jsonl")):
            told |= {"curve": [list(point) for point in curve.points], "curve_metric": f"validation {curve.metric}",
                     "steps": curve.step, "max_steps": curve.max_steps}  # fmt: skip
        return told

    def _prepared(self, steps: Processes, trial: TrialFolder, running: set[int]) -> bool:
        """Import and prepare what a trial needs. If that is refused, the trials that need the same have failed.

        Raises StepFailed if no other trial is left or finished, or for an outage: started again, the sweep goes on.
        """
        try:
            self._prepare(steps, trial)
        except StepFailed as failed:
            places = _places(trial)
            same: list[TrialFolder] = []
            others: list[TrialFolder] = []
            for one in self.folder.trials():
                alike = one.result is None and one.number not in running and _places(one) == places
                (same if alike else others).append(one)
            left = [one for one in others if one.result is None or one.result["state"] == "finished"]
            if failed.outcome["code"] in RETRIED or not left:
                raise
            for one in same:
                self._fail(one, failed.outcome)
            return False
        return True

    def _prepare(self, steps: Processes, trial: TrialFolder) -> None:
        """Import the model and prepare the data of a trial, unless each is there as it was written."""
        settings, shared = trial.settings or {}, self.plans.shared()
        model, data = settings["model_place"], settings["data_place"]
        place = self.folder.shared
        if not is_whole(place("models", model)) or not is_whole(place("tokenizers", model)):
            self.show(f"importing the model{f' of trial {trial.number}' if model else ''}")
            steps.run("import-model", self.folder.path / "models" / f"{model}.log", settings=shared["models"][model],
                      model=place("models", model), tokenizer=place("tokenizers", model))  # fmt: skip
        if not is_whole(place("data", data)):
            self.show(f"preparing the data{f' of trial {trial.number}' if data else ''}")
            steps.run("prepare-data", self.folder.path / "data" / f"{data}.log", settings=shared["data"][data][1],
                      tokenizer=place("tokenizers", model), data=place("data", data),
                      report=self.folder.path / "data" / f"{data}.html")  # fmt: skip

    def _start(self, steps: Processes, trial: TrialFolder) -> Job:
        self.tries[trial.number] = self.tries.get(trial.number, 0) + 1
        return steps.start("trial", trial.path / LOG, trial.path / "curve.jsonl", **self._arguments(trial))

    def _arguments(self, trial: TrialFolder) -> dict[str, Any]:
        """Return the arguments of a trial's task."""
        return {
            "settings": json.dumps(trial.settings), "models": self.folder.path / "models",
            "data": self.folder.path / "data", "tuned": trial.path / "tuned", "measured": trial.path / "measured",
            "report": trial.path / "training.html", "tuned_uri": trial.path / "tuned",
        }  # fmt: skip

    def _ended(self, number: int, job: Job) -> None:
        trial = next(one for one in self.folder.trials() if one.number == number)
        result = trial.result
        error: dict[str, Any] = (result.get("error") or {}) if result else job.error
        if error and error["problems"][0].startswith(DISK):
            shutil.rmtree(trial.path / "measured", ignore_errors=True)  # with space, it is tried again
            raise StepFailed(error)
        if result:
            self.show(_line(trial, self.described.metric))
        if result or self._stopping:
            return
        if self.tries[number] < TRIES and (error["code"] in RETRIED or error["retryable"]):
            self.show(f"trial {number}: {error['found']}; it is tried again")
            return
        self._fail(trial, error)

    def _fail(self, trial: TrialFolder, error: dict[str, Any]) -> None:
        reason = f"{error['found']} at {error['where']}: {error['fix']}"[:300]
        trial.write("failed.json", {"number": trial.number, "state": "failed", "reason": reason, "error": error})
        self.show(_line(trial, self.described.metric))

    # The facts

    def _write_facts(self, running: dict[int, Job] | None = None, final: dict[str, Any] | None = None) -> None:
        """Write sweep.json for those who look at the sweep while it runs."""
        self._written = time.monotonic()
        told = [self._told(trial, set(running or {})) for trial in self.folder.trials()]
        about, ended = self._about(final), sum("score" in one for one in told)
        if self._importance and self._importance[0] == ended:  # it takes a second of a processor that trials need
            about["importance"] = self._importance[1]
        facts = load("sweep-facts")(self.plans.all(), told, about)
        self._importance = ended, facts["importance"]
        write_json(self.folder.path / FACTS, facts)

    def _about(self, final: dict[str, Any] | None = None) -> dict[str, Any]:
        described = self.described
        space = {name: one.as_json() for name, one in described.space.items()}
        total = self.search.total
        return {"name": self.folder.name, "search": described.search, "space": space, "total": total, "final": final}

    # The best trial

    def _finish(self, steps: Processes) -> dict[str, Any]:
        """Choose the best trial; merge, evaluate and register it."""
        choice = self._choose()
        # Of each trial its own: with a larger budget another one may be the best, and a version needs the earlier one.
        best = self._best
        trial = TrialFolder(self.folder.path / "trials" / best.name, int(best.name))
        tuned, merged, evaluation = trial.path / "tuned", best / "merged", best / "evaluation"
        base, data = self.folder.shared("models", int(choice.model)), self.folder.shared("data", int(choice.data))
        if not is_whole(merged) or not is_whole(evaluation):
            self._mend(steps, trial)
        for step, result, arguments in (
            ("merge-adapter", merged, {"base": base, "adapter": tuned, "output": merged}),
            ("evaluate", evaluation, {"settings": choice.evaluation, "base": base, "tuned": tuned,
                                      "merged": merged, "data": data, "evaluation": evaluation}),
        ):  # fmt: skip
            if not is_whole(result):
                self.show(TOLD[step])
                steps.run(step, best / f"{step}.log", **arguments)
        steps.run(
            "report",
            best / "report.log",
            plan=self.folder.path / "best" / "plan",
            evaluation=evaluation,
            report=best / REPORT,
        )
        measured = read_json(evaluation / "metrics.json")
        registered = self._register(steps, choice, tuned, best) if measured["gate"]["passed"] else None
        final = {"metrics": {which: measured[which] for which in ("base", "tuned")}, "gate": measured["gate"],
                 "registered": registered}  # fmt: skip
        self._choose(final)
        return read_json(self.folder.path / FACTS)

    def _mend(self, steps: Processes, trial: TrialFolder) -> None:
        """Make anew what a finished trial was made from, and its model, where they were damaged since."""
        self._prepare(steps, trial)
        if not is_whole(trial.path / "tuned"):
            self.show(f"training trial {trial.number} again: its model is damaged")
            shutil.rmtree(trial.path / "measured", ignore_errors=True)
            steps.run("trial", trial.path / LOG, **self._arguments(trial))

    @property
    def _best(self) -> Path:
        """Where the best trial is merged and evaluated."""
        return self.folder.path / "best" / f"{read_json(self.folder.path / FACTS)['best']:04}"

    def _choose(self, final: dict[str, Any] | None = None) -> Any:
        """Write what is known of the sweep, and choose the best trial. Raises StepError if none finished."""
        self._write_facts(final=final)
        results = [json.dumps(self._told(trial, set())) for trial in self.folder.trials()]
        made = run_here(
            "choose-trial", results=results, planned=self.plans.all(), about=self._about(final),
            chosen_plan=self.folder.path / "best" / "plan", sweep=self.folder.path / "sweep",
            report=self.folder.path / REPORT,
        )  # fmt: skip
        write_json(self.folder.path / FACTS, read_json(self.folder.path / "sweep" / FACTS))
        return made

    def _register(self, steps: Processes, choice: Any, tuned: Path, best: Path) -> dict[str, Any] | None:
        """Register the best trial's model, if registration is on."""
        if not self._registers:
            return None
        self.show("registering the best trial")
        steps.run(
            "register-model", best / "register-model.log", settings=choice.registration, tuned=tuned,
            merged=best / "merged", evaluation=best / "evaluation", registration=best / "registration",
            report=best / REPORT,
        )  # fmt: skip
        return read_json(best / "registration" / "registration.json")

    @property
    def _registers(self) -> bool:
        return bool(self.plans.known["effective"]["register_tuned_model"])

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop at the first Ctrl-C or SIGTERM; one that comes later than in the same second ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        first: list[float] = []

        def asked(number: int, _frame: Any) -> None:
            if not first:
                first.append(time.monotonic())
                self.stop()
            elif time.monotonic() - first[0] > TOGETHER:
                for one, handler in before.items():
                    signal.signal(one, handler)
                os.kill(os.getpid(), number)

        for number in before:
            signal.signal(number, asked)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _line(trial: TrialFolder, metric: str) -> str:
    """Return the line that tells how a trial ended."""
    result = trial.result or {}
    values = "  ".join(f"{name}={as_cell(value)}" for name, value in trial.asked.items())
    if result["state"] == "finished":
        return f"trial {trial.number}: {metric} {result['score']:.6g}  {values}"
    return f"trial {trial.number}: {result['state']}  {values}  {result['reason']}"


def _places(trial: TrialFolder) -> tuple[int, int]:
    """Return the places of a trial's model and data in the sweep."""
    settings = trial.settings or {}
    return settings["model_place"], settings["data_place"]
