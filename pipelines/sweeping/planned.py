"""The plans of a sweep's trials in its folder: each has the same settings whenever the sweep is started again."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from pipelines.sweeping.checked import is_known, known_trials, plan_trials
from pipelines.sweeping.folder import SweepFolder, TrialFolder, read_json, write_json
from steps.errors import Problem, UserError

SHARED = "shared.json"


class Changed(UserError):
    """The model, the data or the parameters are not those with which the sweep began."""


class Plans:
    """Plans trials, and gives each the places of its model and data in the sweep."""

    def __init__(self, folder: SweepFolder):
        self.folder = folder
        self.described = folder.described
        self.known: dict[str, Any] = {}
        """plan.json of all trials that are known before the first one starts."""

    def first(self) -> list[TrialFolder]:
        """Plan every trial that is known; of a sampler, the ends of its space. Compare with what was planned before.

        Returns the trials of a sampler that an earlier process has begun, which have to be planned one by one.
        """
        wanted = known_trials(self.described)
        place = self.folder.path / "plan"
        planned = plan_trials(self.described, wanted, self.folder.name, place)
        self.known = read_json(place / "plan.json")
        if not is_known(self.described):
            return self.folder.trials()
        begun = {trial.number for trial in self.folder.trials()}
        for number, asked in enumerate(wanted):
            if number not in begun:
                self.folder.new_trial(number, asked)
        self._take(planned, place, self.folder.trials())
        return []

    def one(self, trial: TrialFolder) -> None:
        """Plan a trial that a sampler has chosen. Raises the plan's UserError, and Changed."""
        place = trial.path / "plan"
        planned = plan_trials(self.described, [trial.asked], self.folder.name, place)
        self._take(planned, place, [trial])

    def _take(self, planned: Any, place: Path, trials: list[TrialFolder]) -> None:
        """Store the settings of planned trials, with the places of their models and data in this sweep."""
        plan = read_json(place / "plan.json")
        shared = self.shared()
        models = [_place(shared["models"], text) for text in json.loads(planned.models)]
        data = [_place(shared["data"], [models[model], text]) for model, text in json.loads(planned.data)]
        found = []
        for trial, text in zip(trials, _in_order(planned.lanes), strict=True):
            settings = json.loads(text)
            settings |= {"number": trial.number, "model_place": models[settings.get("model_place", 0)],
                         "data_place": data[settings.get("data_place", 0)]}  # fmt: skip
            if "pruning" in settings["training"]:
                # With an own id: curves of a deleted sweep with the same name are not those of this one.
                settings["training"]["pruning"] |= {"trial": trial.number, "sweep": shared["id"]}
            if (before := trial.settings) is not None and before != settings:
                raise _changed(self.folder, trial)
            found.append(settings)
        write_json(self.folder.path / SHARED, shared)
        for trial, settings, line in zip(trials, found, plan["sweep"]["trials"], strict=True):
            trial.write("settings.json", settings)
            trial.write("planned.json", {**line, "number": trial.number, "parameters": trial.asked})

    def shared(self) -> dict[str, Any]:
        """Return the settings of import-model, and of prepare-data with the place of its model."""
        file = self.folder.path / SHARED
        if file.is_file():
            return read_json(file)
        return {"id": f"{self.folder.name}-{uuid.uuid4().hex[:8]}", "models": [], "data": []}

    def all(self) -> dict[str, Any]:
        """Return the plan of all trials so far, in the form of plan.json."""
        lines = [trial.planned for trial in self.folder.trials() if (trial.path / "planned.json").is_file()]
        sweep = {**self.known["sweep"], "varied": self.described.varied, "trials": lines,
                 "preparations": len(self.shared()["data"])}  # fmt: skip
        return {**self.known, "sweep": sweep}


def _in_order(lanes: list[list[str]]) -> list[str]:
    """Return the settings of all trials by their number; the plan deals them out to lanes."""
    return [lanes[number % len(lanes)][number // len(lanes)] for number in range(sum(map(len, lanes)))]


def _place(known: list[Any], wanted: Any) -> int:
    """Return the place of a value in a list, to which it is added if it is new."""
    if wanted not in known:
        known.append(wanted)
    return known.index(wanted)


def _changed(folder: SweepFolder, trial: TrialFolder) -> Changed:
    return Changed(
        Problem("SWEEP-E0304", f"trial {trial.number} of {folder.name}", "another model, data or parameters than when "
                "the sweep began", "the same for all trials", "put them back, or start a sweep with another name")
    )  # fmt: skip
