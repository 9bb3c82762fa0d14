"""The plan of a sweep: every trial is checked and decided before the first one starts; what they share is done once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from steps import wire
from steps.errors import Problem, StepError, UserError, nearest, shown, some_of
from steps.params.evaluation import EvaluationParams
from steps.params.group import Group, old_names
from steps.params.pipelines import PARAMETER_MODELS, SWEEP
from steps.params.reading import choices_of, read_each
from steps.params.settings import DataSettings, FinetuneSettings, ImportSettings, Pruning, TrialSettings
from steps.params.sweep import RESULT_BYTES, STORED_BYTES, SweepParams, as_folder
from steps.params.sweep_reading import alike_problems, named, of_trial, split, told_once
from steps.params.verl import TRL
from steps.plan.deciding import Decisions, decide
from steps.plan.hardware import Hardware
from steps.plan.seen import runs_here
from steps.plan.settings import settings_of
from steps.plan.verl import asked as asked_of_verl
from steps.remembered import looking_once
from steps.sources.storage import local_path
from steps.tasks import load_task


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep, as decided."""

    settings: TrialSettings
    later: dict[str, Group]
    """Settings of evaluate and register_model, should this trial be the best one."""
    decisions: Decisions
    varied: dict[str, Any]
    """The effective values of the parameters that differ between trials."""

    @property
    def number(self) -> int:
        """Place in the sweep."""
        return self.settings.number


@dataclass(frozen=True)
class Sweep:
    """All trials, and what they share."""

    pipeline: str
    parameters: SweepParams
    trials: list[Trial]
    models: list[ImportSettings]
    data: list[tuple[int, DataSettings]]
    """With the place of its model among `models`."""
    hardware: dict[str, Hardware]
    metric: str
    warnings: list[str]

    @property
    def name(self) -> str:
        """The given name, or one made from the trials: equal trials have the same."""
        return self.parameters.sweep_name or f"{self.pipeline}-{_digest([trial.settings for trial in self.trials])}"


def decide_sweep(pipeline: str, arguments: dict[str, Any]) -> Sweep:
    """Check and decide all trials of a sweep; `arguments` has the parameters of SweepParams and of the pipeline.

    Raises UserError with the problems of all trials, each told once; else the first refusal or outage of a trial.
    """
    name = pipeline.removesuffix(SWEEP)
    _refuse(read_each(pipeline, arguments)[1])
    asked, own = split(arguments)
    decided = _decided(name, own, asked)
    metric = asked.sweep_metric or decided[0].parameters.gate_metric
    _refuse(_equal(_as_text(one) for one in decided))
    models, data, trials = _shared(name, asked, metric, decided)
    _refuse(
        [
            *_idle_problems(decided, trials),
            *_node_problems(decided),
            *_verl_problems(decided),
            *_pruning_problems(asked, decided),
            *_length_problems(asked, models, data, trials),
        ]
    )
    warnings = [*_shared_words(len(decided), [one.warnings for one in decided]), *_score_notes(trials)]
    return Sweep(name, asked, trials, models, data, _largest(decided), metric, warnings)


def _decided(pipeline: str, own: dict[str, Any], asked: SweepParams) -> list[Decisions]:
    trials = asked.trials
    decided: list[Decisions] = []
    found = alike_problems(pipeline, trials)
    harder: list[StepError] = []
    with looking_once():
        for number, trial in enumerate(trials):
            try:
                decided.append(decide(pipeline, of_trial(pipeline, own, trial)))
            except UserError as error:
                for problem in error.problems:
                    found.setdefault(problem, []).append(number)
            except StepError as error:
                harder.append(error)
    given_twice = _equal(json.dumps(trial, sort_keys=True, default=str) for trial in trials)
    _refuse([*told_once(found, len(trials)), *given_twice, *_metric_problems(pipeline, asked.sweep_metric)])
    if harder:
        raise harder[0]
    return decided


def _node_problems(decided: Iterable[Decisions]) -> Iterator[Problem]:
    most = max(one.parameters.num_nodes_finetune for one in decided)
    if most > 1:
        yield Problem("PLAN-E0393", "num_nodes_finetune", f"{most} in a sweep", "1",
                      "leave it out; a trial may use all GPUs of one node",
                      why="a trial is trained and measured in one pod")  # fmt: skip


def _verl_problems(decided: Iterable[Decisions]) -> Iterator[Problem]:
    engines = {found.rollout for one in decided if (found := asked_of_verl(one.parameters))}
    if engines and not runs_here():
        yield Problem("PLAN-E0544", "ENGINE", f"{some_of(sorted(engines))} in a sweep", TRL,
                      f"set ENGINE={TRL}, or run each of them by itself",
                      why="the image of a sweep's trials has no verl")  # fmt: skip


def _refuse(problems: Iterable[Problem]) -> None:
    if told := list(problems):
        raise UserError(told)


def _shared_words(count: int, lists: list[list[str]]) -> list[str]:
    """Return each sentence once, with the trials that it is about."""
    numbers: dict[str, list[int]] = {}
    for number, sentences in enumerate(lists):
        for sentence in sentences:
            numbers.setdefault(sentence, []).append(number)
    return [f"{named(which, count)}{sentence}" for sentence, which in numbers.items()]


def _as_text(one: Decisions) -> str:
    return one.parameters.model_dump_json(exclude={"overrides"})


def _equal(trials: Iterable[str]) -> Iterable[Problem]:
    seen: dict[str, list[int]] = {}
    for number, one in enumerate(trials):
        seen.setdefault(one, []).append(number)
    for numbers in seen.values():
        if numbers[1:]:
            yield Problem("SWEEP-E0204", named(numbers, 0).removesuffix(": "), "the same parameters",
                          "trials that differ", f"keep trial {numbers[0]} only")  # fmt: skip


def _metric_problems(pipeline: str, metric: str) -> Iterable[Problem]:
    known = choices_of(PARAMETER_MODELS[pipeline].model_fields["gate_metric"])
    if metric and metric not in known:
        fix = nearest(metric, known) or "leave it out for gate_metric"
        yield Problem("SWEEP-E0205", "sweep_metric", shown(metric), f"one of {', '.join(known)}", fix)


def _idle_problems(decided: list[Decisions], trials: list[Trial]) -> Iterable[Problem]:
    """Refuse a parameter that varies without an effect in any trial: equal trainings would be compared."""
    for name in trials[0].varied:
        if decided[1:] and all(name in one.idle for one in decided):
            reasons = dict.fromkeys(one.idle[name] for one in decided)
            yield Problem("SWEEP-E0209", name, "values that differ, without an effect in any trial", "a parameter "
                          "with an effect", f"give all trials one {name}, or change what ignores it",
                          why="; ".join(reasons))  # fmt: skip


def _pruning_problems(asked: SweepParams, decided: list[Decisions]) -> Iterable[Problem]:
    """Refuse a pruner for trainings without evaluations, and for pods that share no folder."""
    if asked.pruner == "none":
        return
    without = {number for number, one in enumerate(decided) if one.parameters.evaluation_strategy == "no"}
    if without:
        when = decided[0].parameters.named("evaluation_strategy")
        yield Problem("SWEEP-E0206", f"{named(sorted(without), len(decided))}pruner", f"{asked.pruner} without "
                      "evaluations during training", f"{when}=steps or epoch",
                      f"set {when}, or pruner=none")  # fmt: skip
    place = decided[0].parameters.checkpoint_dir
    shared = bool(place) and local_path(place) is not None  # curves grow line by line, which no object store can
    if not runs_here() and not shared:
        found = f"{asked.pruner} with checkpoint_dir={place}" if place else f"{asked.pruner} without checkpoint_dir"
        fix = "set checkpoint_dir to such a folder, or pruner=none" if place else "set checkpoint_dir, or pruner=none"
        yield Problem("SWEEP-E0207", "pruner", found, "a folder on a volume that the pods of all trials share", fix,
                      why="each trial compares itself with the curves of the others there")  # fmt: skip


def _length_problems(
    asked: SweepParams, models: list[ImportSettings], data: list[tuple[int, DataSettings]], trials: list[Trial]
) -> Iterable[Problem]:
    """Refuse a sweep with a list that is longer than what KFP stores; on this machine nothing is stored."""
    lists = (asked.trials, as_texts(models), data_texts(data), as_texts(trial.settings for trial in trials))
    count = len(trials)
    longest = max(RESULT_BYTES * count, *(len(json.dumps(one, ensure_ascii=False).encode()) for one in lists))
    if not runs_here() and longest > STORED_BYTES:
        yield Problem("SWEEP-E0208", "trials", f"{count} trials, described by {longest:,} bytes",
                      f"at most {count * STORED_BYTES // longest}", "split them into several sweeps",
                      why=f"KFP stores no list of more than {STORED_BYTES:,} bytes")  # fmt: skip


def as_texts(settings: Iterable[Group]) -> list[str]:
    """Return settings as the texts that tasks are given."""
    return [wire.dump(one.short()) for one in settings]


def data_texts(data: list[tuple[int, DataSettings]]) -> list[list[Any]]:
    """Return the settings of every preparation with the place of its model, as the task is given them."""
    return [[model, wire.dump(one.short())] for model, one in data]


def _shared(
    pipeline: str, asked: SweepParams, metric: str, decided: list[Decisions]
) -> tuple[list[ImportSettings], list[tuple[int, DataSettings]], list[Trial]]:
    """Return the distinct settings of import_model and prepare_data, and the trials, which name theirs by its place."""
    all_ = [settings_of(one) for one in decided]
    models: list[ImportSettings] = []
    data: list[tuple[int, DataSettings]] = []
    places: list[tuple[int, int]] = []
    for own in all_:
        model, prepared = own["model"], own["data"]
        assert isinstance(model, ImportSettings)
        assert isinstance(prepared, DataSettings)
        if model not in models:
            models.append(model)
        # The rows are the same for every batch size; each trial refuses by itself if it has fewer than one step needs.
        wanted = (models.index(model), prepared.model_copy(update={"rows_per_step": 1}))
        if wanted not in data:
            data.append(wanted)
        places.append((models.index(model), data.index(wanted)))
    values = [one.parameters.model_dump(mode="json", exclude={"overrides"}) for one in decided]
    names = _varied(pipeline, asked.trials, values)
    curves = as_folder(asked.sweep_name or _digest([own["training"] for own in all_]))
    trials = []
    for number, (own, one, (model_place, data_place)) in enumerate(zip(all_, decided, places, strict=True)):
        training = own["training"]
        assert isinstance(training, FinetuneSettings)
        if asked.pruner != "none":
            rule = Pruning(sweep=curves, trial=number, pruner=asked.pruner, startup_trials=asked.pruner_startup_trials,
                           warmup_steps=asked.pruner_warmup_steps)  # fmt: skip
            training = training.model_copy(update={"pruning": rule})
        evaluation: Any = own["evaluation"]
        gate = evaluation.evaluation.model_copy(update={"gate_metric": metric, **NO_GATE})
        columns = _changed_columns(one.parameters.rows_task, evaluation.columns)
        measured = {"evaluation": gate, "split": "validation", "columns": columns}
        settings = TrialSettings(
            number=number,
            sweep=asked.sweep_name,
            model_place=model_place,
            data_place=data_place,
            rows_per_step=own["data"].rows_per_step,  # type: ignore[attr-defined]
            training=training,
            measuring=evaluation.model_copy(update=measured),
        )
        later = {key: own[key] for key in ("evaluation", "registration")}
        trials.append(Trial(settings, later, one, {key: values[number][key] for key in names}))
    return models, data, trials


def _varied(pipeline: str, trials: list[dict[str, Any]], values: list[dict[str, Any]]) -> list[str]:
    """Return the parameters that differ, in the order of the trials; of a single trial, those that it names."""
    today = old_names(PARAMETER_MODELS[pipeline])
    asked = dict.fromkeys(today.get(name, name) for trial in trials for name in trial)
    if not values[1:]:
        return [name for name in asked if name in values[0]]
    return [name for name in dict.fromkeys([*asked, *values[0]])
            if name in values[0] and any(other[name] != values[0][name] for other in values)]  # fmt: skip


def _changed_columns(task: str, columns: dict[str, Any]) -> dict[str, Any]:
    """Leave out the defaults: the settings of every trial stand several times in the object of a run."""
    usual = load_task(task).Columns.model_fields
    return {name: value for name, value in columns.items()
            if name not in usual or value != usual[name].get_default(call_default_factory=True)}  # fmt: skip


# A measurement is compared with those of other trials, not with bounds.
NO_GATE = {name: EvaluationParams.model_fields[name].default for name in ("gate_min_value", "gate_max_value")}


def _largest(decided: list[Decisions]) -> dict[str, Hardware]:
    """Return the request that is enough for every trial; a trial is measured where it was trained."""
    groups = {group: [one.hardware[group] for one in decided] for group in decided[0].hardware}
    groups["finetune"] += [replace(one.hardware["finetune"], cpu=measured.cpu, memory=measured.memory)
                           for one in decided for measured in (one.hardware["evaluate"],)]  # fmt: skip
    return {
        group: replace(
            wanted[0],
            cpu=str(max(int(one.cpu) for one in wanted)),
            memory=f"{max(one.memory_gib for one in wanted)}Gi",
        )
        for group, wanted in groups.items()
    }


def _score_notes(trials: list[Trial]) -> Iterable[str]:
    """Warn of trials whose scores cannot be compared, because other rows are measured."""
    rows: dict[str, list[int]] = {}
    for trial in trials:
        p = trial.decisions.parameters
        drawn = trial.decisions.data.get("validation") is None
        split = p.model_dump(include={"split", "seed", "dedup"}) if drawn else {}
        sources = {name: found.resolved.digest for name, found in trial.decisions.data.items()
                   if name == "validation" or drawn}  # fmt: skip
        rows.setdefault(str((sources, split, p.evaluation_max_rows, p.processing_function)), []).append(trial.number)
    if len(rows) > 1:
        groups = "; ".join(f"{named(numbers, 0).removesuffix(': ')}" for numbers in rows.values())
        yield (f"the trials are measured on different validation rows ({groups}), so their scores cannot be compared "
               "exactly: give validation_file_path")  # fmt: skip


def _digest(settings: Iterable[Group]) -> str:
    text = "\n".join(wire.dump(one.short()) for one in settings)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def lanes_of(sweep: Sweep) -> list[list[str]]:
    """Return the trials as texts, in as many lists as run at the same time."""
    texts = as_texts(trial.settings for trial in sweep.trials)
    count = min(sweep.parameters.parallelism, len(texts))
    return [texts[start::count] for start in range(count)]
