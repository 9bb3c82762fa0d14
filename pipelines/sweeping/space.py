"""Reads the space of a sweep, or its list of trials, with the parameters of the pipeline, and collects every problem.

    {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "lora_r": [4, 8, 16]}
    [{"learning_rate": 1e-4}, {"learning_rate": 1e-5, "lora_r": 16}]

A value is kept as the pipeline's parameter model reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pipelines.sweeping.dimension import Choices, Dimension, Range
from pipelines.values import is_finite, key_of, number_in, plain
from steps.errors import Problem, SecurityRefusal, StepError, nearest, shown
from steps.params.other_arguments import IDLE_ARGUMENTS
from steps.params.pipeline import PipelineParameters
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import choices_of, default_of, given_twice, read_value, todays_name
from steps.params.sweep import as_cell, not_varied

LARGEST_GRID = 10_000  # trials of a sweep; each is a training, and all are planned before the first one
RANGE_KEYS = ("low", "high", "log", "step")
SPACE_KEYS = (*RANGE_KEYS, "choices")
OTHER_WORDS = {
    "min": "low", "max": "high", "lower": "low", "upper": "high", "minimum": "low", "maximum": "high", "from": "low",
    "to": "high", "start": "low", "stop": "high", "end": "high", "values": "choices", "list": "choices",
    "options": "choices", "categories": "choices", "scale": "log", "q": "step",
}  # fmt: skip
ENTRY = "a list such as [4, 8, 16], or a range such as {low: 1e-5, high: 1e-3, log: true}"


class Reader:
    """Reads names and values of one pipeline's parameters, and keeps every problem that it finds."""

    def __init__(self, pipeline: str) -> None:
        self.pipeline = pipeline
        self.model: type[PipelineParameters] = PARAMETER_MODELS[pipeline]
        self.problems: list[Problem] = []
        self.refusals: list[Problem] = []
        self.wrong: set[int] = set()
        """Numbers of the listed trials that have problems."""
        self._read: dict[tuple[str, str, str], Any] = {}

    def tell(self, code: str, where: str, found: str, expected: str, fix: str, why: str = "") -> None:
        """Keep a problem."""
        self.problems.append(Problem(code, where, found, expected, fix, why=why))

    def name(self, given: str, where: str) -> str | None:
        """Return the current name of a parameter that a sweep may vary; None, and a problem, for any other."""
        today = todays_name(self.model, given)
        known = today in self.model.model_fields
        if today == "overrides":
            self.tell("SWEEP-E0101", where, "overrides", "the parameters themselves",
                      "name each parameter, or list the combinations as trials")  # fmt: skip
        elif known and (why := not_varied(today)):
            self.tell("SWEEP-E0102", where, f"{today} as a parameter that varies", "one value for all trials",
                      f"move {given} to the parameters", why)  # fmt: skip
        elif known:
            return today
        elif no_effect := IDLE_ARGUMENTS.get(given):
            self.tell("SWEEP-E0103", where, f"{given}, which has no effect", "a parameter with an effect",
                      f"remove {given}", no_effect)  # fmt: skip
        else:
            fix = nearest(given, self.model.model_fields) or f"see `finetune describe {self.pipeline}`"
            self.tell("SWEEP-E0104", where, shown(given), f"a parameter of {self.pipeline}", fix)
        return None

    def value(self, name: str, value: Any, where: str) -> tuple[Any, ...]:
        """Return the value of a parameter as a run uses it, in a tuple; an empty one, and problems, for a wrong one."""
        if not is_finite(value):
            self.tell("SWEEP-E0105", where, shown(value), "a value without NaN or infinity", "correct it")
            return ()
        cached = (name, type(value).__name__, key_of(value))
        if cached not in self._read:
            try:
                self._read[cached] = read_value(self.pipeline, name, value)
            except StepError as error:
                self._read[cached] = error
        read = self._read[cached]
        if not isinstance(read, StepError):
            return (read,)
        kept = self.refusals if isinstance(read, SecurityRefusal) else self.problems
        # Leaving the parameter out, as the fix for a single value says, would leave it out of the space.
        instead = "correct it, or remove it"
        kept += [
            replace(one, where=where, fix=instead if one.code == "PARAM-E0103" else one.fix) for one in read.problems
        ]
        return ()

    def default(self, name: str) -> Any:
        """Return a parameter's default as a run uses it."""
        return read_value(self.pipeline, name, default_of(self.model.model_fields[name]))


def read_space(reader: Reader, space: Any) -> dict[str, Dimension]:
    """Return the values of each parameter under its current name; `reader` gets every problem."""
    space = plain(space)
    if not isinstance(space, dict) or not space:
        several = isinstance(space, list) and space and all(isinstance(one, dict) for one in space)
        fix = "name the list trials instead of space" if several else "name at least one parameter with its values"
        found = "no parameter" if space in ({}, []) else shown(space)
        reader.tell("SWEEP-E0106", "space", found, "parameters by name, each with its values", fix)
        return {}
    dimensions: dict[str, Dimension] = {}
    given_as: dict[str, list[str]] = {}
    for given, entry in space.items():
        where = f"space.{given}"
        if (name := reader.name(given, where)) is None:
            continue
        given_as.setdefault(name, []).append(given)
        if dimension := _dimension(reader, name, entry, where):
            dimensions[name] = dimension
    twice = [given_twice(name, both) for name, both in given_as.items() if len(both) > 1]
    reader.problems += [replace(one, where=f"space: {one.where}") for one in twice]
    return dimensions


def _dimension(reader: Reader, name: str, entry: Any, where: str) -> Dimension | None:
    if isinstance(entry, list):
        return _choices(reader, name, entry, where)
    if not isinstance(entry, dict):
        several = [one.strip() for one in entry.split(",")] if isinstance(entry, str) else []
        listed = f"[{', '.join(several)}]" if several[1:] else f"[{as_cell(entry)}, …]"
        fix = f"write {listed}, or move {name} to the parameters"
        reader.tell("SWEEP-E0108", where, f"one value, {shown(entry)}" if entry is not None else "no value", ENTRY, fix)
        return None
    unknown = [key for key in entry if key not in SPACE_KEYS]
    for key in unknown:
        meant = OTHER_WORDS.get(key) or OTHER_WORDS.get(key.lower())
        fix = f"did you mean {meant}?" if meant else nearest(key, SPACE_KEYS) or f"write {ENTRY}"
        if reader.model.model_fields[name].annotation not in (int, float):
            fix = "write a list of the values, also if they are objects"
        reader.tell("SWEEP-E0109", f"{where}.{key}", shown(key), f"one of {', '.join(SPACE_KEYS)}", fix)
    if unknown:
        return None
    if "choices" not in entry:
        return _range(reader, name, entry, where)
    if len(entry) > 1:
        reader.tell("SWEEP-E0110", where, f"choices and {', '.join(key for key in entry if key != 'choices')}",
                    "either choices or a range", "remove one of them")  # fmt: skip
        return None
    if not isinstance(entry["choices"], list):
        reader.tell("SWEEP-E0111", f"{where}.choices", shown(entry["choices"]), "a list", "write the values as a list")
        return None
    return _choices(reader, name, entry["choices"], f"{where}.choices")


def _choices(reader: Reader, name: str, entry: list[Any], where: str) -> Choices | None:
    if not entry:
        reader.tell("SWEEP-E0112", where, "an empty list", "at least one value", f"write the values of {name}")
        return None
    if len(entry) > LARGEST_GRID:
        reader.tell("SWEEP-E0113", where, f"{len(entry):,} values", f"at most {LARGEST_GRID:,}", "give a range instead")
        return None
    read = [
        (number, one) for number, value in enumerate(entry) for one in reader.value(name, value, f"{where}[{number}]")
    ]
    first: dict[str, int] = {}
    for number, value in read:
        before = first.setdefault(key_of(value), number)
        if before != number:
            told = shown(entry[number])
            same = "" if told == shown(entry[before]) else f", which means the same as {shown(entry[before])}"
            reader.tell("SWEEP-E0114", f"{where}[{number}]", f"{told} again, after number {before}{same}",
                        "each value once", "remove one of the two")  # fmt: skip
    return Choices(tuple({key_of(value): value for _, value in read}.values())) if read else None


def _range(reader: Reader, name: str, entry: dict[str, Any], where: str) -> Range | None:
    field = reader.model.model_fields[name]
    if field.annotation not in (int, float):
        choices = ("true", "false") if field.annotation is bool else choices_of(field)
        kind = f"one of {', '.join(choices)}" if choices else "no number"
        reader.tell("SWEEP-E0115", where, f"a range for {name}, which is {kind}", "a list of values",
                    f"write the values of {name} as a list")  # fmt: skip
        return None
    whole = field.annotation is int
    ends: dict[str, Any] = {}
    for key in ("low", "high"):
        if key not in entry:
            reader.tell("SWEEP-E0116", f"{where}.{key}", "nothing", "both ends of the range", f"write {key}")
        elif isinstance(entry[key], bool):
            reader.tell("SWEEP-E0117", f"{where}.{key}", shown(entry[key]), "a number", "correct it")
        else:
            ends.update((key, one) for one in reader.value(name, entry[key], f"{where}.{key}"))
    log = _log(reader, entry, ends, where)
    step = _step(reader, entry, whole, bool(log), where)
    if len(ends) < 2 or log is None or step == ():
        return None
    found = Range(ends["low"], ends["high"], log, step[0])
    return found if _is_wide_enough(reader, found, where) else None


def _log(reader: Reader, entry: dict[str, Any], ends: dict[str, Any], where: str) -> bool | None:
    """Return whether a range is logarithmic; None, and a problem, if that cannot be."""
    words = {"true": True, "false": False}
    given = entry.get("log", False)
    log = given if isinstance(given, bool) else words.get(str(given).lower())
    if log is None:
        reader.tell("SWEEP-E0118", f"{where}.log", shown(given), "true or false", "correct it")
    elif log and "low" in ends and ends["low"] <= 0:
        reader.tell("SWEEP-E0119", f"{where}.low", f"{ends['low']} with log=true", "a number above 0",
                    "raise low, or remove log", "0 has no logarithm")  # fmt: skip
        return None
    return log


def _step(reader: Reader, entry: dict[str, Any], whole: bool, log: bool, where: str) -> tuple[Any, ...]:
    """Return the step in a tuple, None in it without one; an empty tuple, and a problem, for a wrong one."""
    if entry.get("step") is None:
        return (None,)
    number = number_in(entry["step"])
    least = 1 if log else 0
    if number is None or number <= least:
        expected = "a factor above 1 between neighbours" if log else "a number above 0"
        reader.tell("SWEEP-E0120", f"{where}.step", shown(entry["step"]), expected, "correct it, or remove it")
        return ()
    if whole and isinstance(number, float):
        reader.tell("SWEEP-E0121", f"{where}.step", shown(entry["step"]), "a whole number, as the parameter is one",
                    f"write step: {max(round(number), least + 1)}")  # fmt: skip
        return ()
    return (number,)


def _is_wide_enough(reader: Reader, found: Range, where: str) -> bool:
    told = ""
    if found.low >= found.high:
        told = f"low {found.low} and high {found.high}"
        fix = "exchange the two" if found.low > found.high else "write the value into the parameters"
        reader.tell("SWEEP-E0122", where, told, "low below high", fix)
    elif found.step is not None and found.count == 1:
        told = f"step {found.step} from {found.low}"
        reader.tell("SWEEP-E0123", f"{where}.step", f"{told}, beyond high {found.high}", "at least two values",
                    "make the step smaller")  # fmt: skip
    elif found.step is not None and (found.count or 0) > LARGEST_GRID:
        told = f"{found.count:,} values"
        reader.tell("SWEEP-E0124", f"{where}.step", told, f"at most {LARGEST_GRID:,}", "make the step larger")
    return not told


def check_grid(reader: Reader, dimensions: dict[str, Dimension]) -> None:
    """Tell what a grid cannot be made of: ranges without a step, and too many combinations."""
    endless = [name for name, one in dimensions.items() if isinstance(one, Range) and one.step is None]
    for name in endless:
        one = dimensions[name]
        assert isinstance(one, Range)
        by = f"step: 10 (each value is 10 times the one before), or list the values of {name}"
        fix = f"add {by if one.log else f'a step, or list the values of {name}'}"
        kind = "a logarithmic range" if one.log else "a range"
        reader.tell("SWEEP-E0125", f"space.{name}", f"{kind} without a step, in a grid", "a number of values",
                    f"{fix}; or set search=random with a budget")  # fmt: skip
    counts = [one.count or 0 for name, one in dimensions.items() if name not in endless]
    if not endless and (product := math.prod(counts)) > LARGEST_GRID:
        sums = " × ".join(str(count) for count in counts)
        reader.tell("SWEEP-E0126", "space", f"{product:,} combinations ({sums})", f"at most {LARGEST_GRID:,}",
                    "give fewer values, or set search=random with a budget")  # fmt: skip


def read_trials(reader: Reader, trials: Any, fixed: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all trials, each with all parameters that differ between them, under current names.

    A trial that does not name one has the value of `fixed`, or the default. `reader` gets every problem, those that
    several trials share once.
    """
    trials = plain(trials)
    if not isinstance(trials, list) or not trials:
        is_space = isinstance(trials, dict) and trials
        fix = "name it space instead of trials" if is_space else "write at least one trial"
        if isinstance(trials, str) and trials.strip():
            fix = "write the list itself, without quotes around it"
        found = "no trial" if trials in ([], {}) else shown(trials)
        reader.tell("SWEEP-E0127", "trials", found, "a list of trials, each with its parameters by name", fix)
        return []
    if len(trials) > LARGEST_GRID:
        reader.tell("SWEEP-E0128", "trials", f"{len(trials):,} trials", f"at most {LARGEST_GRID:,}", "list fewer")
        return []
    before = len(reader.problems)
    read = []
    for number, trial in enumerate(trials):
        known = len(reader.problems)
        read.append(_trial(reader, trial, f"trials[{number}]"))
        reader.wrong |= {number} if len(reader.problems) > known else set()
    reader.problems[before:] = once(reader.problems[before:])
    varied = list(dict.fromkeys(name for trial in read for name in trial))
    others = {name: fixed[name] if name in fixed else reader.default(name) for name in varied}
    whole = [{**others, **trial} for trial in read]
    if len(reader.problems) == before:
        _tell_equal(reader, whole)
    return whole


def _trial(reader: Reader, trial: Any, where: str) -> dict[str, Any]:
    if not isinstance(trial, dict):
        reader.tell("SWEEP-E0129", where, shown(trial), "an object of parameters by name",
                    "write {learning_rate: 1e-4}")  # fmt: skip
        return {}
    overrides = trial.get("overrides") or {}
    given = [(name, value, f"{where}.{name}") for name, value in trial.items() if name != "overrides"]
    if isinstance(overrides, dict):
        given += [(name, value, f"{where}.overrides.{name}") for name, value in overrides.items()]
    else:
        reader.tell("SWEEP-E0130", f"{where}.overrides", shown(overrides), "an object of parameters by name",
                    "write the parameters into the trial itself")  # fmt: skip
    read: dict[str, Any] = {}
    given_as: dict[str, list[str]] = {}
    for written, value, place in given:
        if (name := reader.name(written, place)) is None:
            continue
        given_as.setdefault(name, []).append(place.removeprefix(f"{where}."))
        read.update((name, one) for one in reader.value(name, value, place))
    twice = [given_twice(name, both) for name, both in given_as.items() if len(both) > 1]
    reader.problems += [replace(one, where=f"{where}: {one.where}") for one in twice]
    return read


def _tell_equal(reader: Reader, trials: list[dict[str, Any]]) -> None:
    numbers: dict[str, list[int]] = {}
    for number, trial in enumerate(trials):
        numbers.setdefault(key_of(trial), []).append(number)
    for same in numbers.values():
        if len(same) > 1:
            reader.wrong |= set(same[1:])
            listed = f"{', '.join(map(str, same[:-1][:20]))} and {same[-1]}"
            reader.tell("SWEEP-E0131", f"trials[{same[1]}]", f"trials {listed} with equal parameters",
                        "each combination once", "remove all but one of them",
                        "left-out parameters have the value of all trials, or the default")  # fmt: skip


def once(problems: Iterable[Problem]) -> list[Problem]:
    """Join equal problems of several trials into one, which names the first of them."""
    joined: dict[tuple[str, ...], list[Problem]] = {}
    for one in problems:
        _, _, inside = one.where.partition("]")
        joined.setdefault((one.code, inside, one.found, one.expected, one.fix, one.why), []).append(one)
    return [_joined(same) for same in joined.values()]


def _joined(same: list[Problem]) -> Problem:
    numbers = tuple(int(one.where.partition("[")[2].partition("]")[0]) for one in same)
    return replace(same[0], rows=numbers[:5], count=len(same)) if len(same) > 1 else same[0]
