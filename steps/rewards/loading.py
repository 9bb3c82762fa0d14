"""Load rewards by name: those of the library, and the user's own functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from steps.errors import Problem, StepError, UserError, nearest, shown
from steps.params.group import Group
from steps.rewards.library import REWARDS, module_of
from steps.rewards.scoring import Reward, Rewards
from steps.rewards.user_reward import check_reward, load_reward

TIMEOUT_SECONDS = 300.0  # of one call of a user's function


def load_rewards(
    names: Sequence[str],
    weights: Sequence[float] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Rewards:
    """Load rewards. A name is one of `REWARDS` or file.py:function; weights are 1 where none are given.

    `options` holds options by name of the reward. A call of a user's function may take `timeout_seconds`.
    Raises UserError with every problem of names, weights and options at once, and SecurityRefusal without a sandbox.
    """
    settings = check_rewards(names, weights, options)
    loaded = []
    for name, weight in zip(names, weights or [1.0] * len(names), strict=True):
        if name in REWARDS:
            module, chosen = module_of(name), settings[name]
            loaded.append(Reward(name, float(weight), module.columns(chosen), module.reward(chosen)))
        else:
            call, wants = load_reward(name, timeout_seconds)
            loaded.append(Reward(name, float(weight), wants.columns, call, wants.optional, wants.everything))
    return Rewards(tuple(loaded))


def check_rewards(
    names: Sequence[str],
    weights: Sequence[float] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Group]:
    """Check names, weights and options without loading a model or running the user's code; return the options.

    Raises UserError with every problem.
    """
    options = options or {}
    problems = [*_name_problems(names), *_weight_problems(names, weights)]
    settings = {}
    for name in dict.fromkeys(names):
        if name in REWARDS:
            made, wrong = _options(name, options.get(name, {}))
            problems += wrong
            if made is not None:
                settings[name] = made
        elif ".py" in name:
            try:
                check_reward(name)
            except StepError as error:
                if not isinstance(error, UserError):
                    raise
                problems += error.problems
    problems += [
        Problem("REWARD-E0225", f"options of {name}", shown(dict(options[name])),
                "options of a reward of the library that is in use",
                nearest(name, [*settings]) or "remove them, or add the reward")
        for name in options
        if name not in settings and not (name in names and name in REWARDS)
    ]  # fmt: skip
    if problems:
        raise UserError(problems)
    return settings


def _name_problems(names: Sequence[str]) -> Iterator[Problem]:
    if not names:
        yield Problem("REWARD-E0226", "reward_funcs", "no reward", "at least one", "name one, such as format")
    for name in names:
        if name not in REWARDS and ".py" not in name:
            yield Problem("REWARD-E0201", "reward_funcs", shown(name),
                          f"{', '.join(REWARDS)}, or file.py:function",
                          nearest(name, REWARDS) or "name one of them")  # fmt: skip
    shorts = [name.rpartition(":")[2] for name in names]
    for name in dict.fromkeys(short for short in shorts if shorts.count(short) > 1):
        yield Problem("REWARD-E0212", "reward_funcs", f"{name} twice", "every reward once", "give it a higher weight")


def _weight_problems(names: Sequence[str], weights: Sequence[float] | None) -> Iterator[Problem]:
    if not weights:
        return
    if len(weights) != len(names):
        yield Problem("REWARD-E0202", "reward_weights", f"{len(weights)} weights for {len(names)} rewards",
                      "one weight per reward, in their order", "give as many weights as rewards")  # fmt: skip
    for weight in weights:
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight):
            yield Problem("REWARD-E0203", "reward_weights", shown(weight), "a finite number", "correct it")


def _options(name: str, given: Mapping[str, Any]) -> tuple[Group | None, list[Problem]]:
    model = module_of(name).Options
    try:
        made: Group = model(**given)
    except ValidationError as error:
        return None, [_option_problem(name, model, one) for one in error.errors()]
    return made, list(made.all_conflicts())


def _option_problem(name: str, model: type[Group], error: Any) -> Problem:
    place = ".".join(str(part) for part in error["loc"])
    known = ", ".join(model.model_fields) or "none"
    if error["type"] == "extra_forbidden":
        return Problem("REWARD-E0204", f"options of {name}", f"unknown option {place!r}", known,
                       nearest(place, model.model_fields) or "remove it")  # fmt: skip
    return Problem("REWARD-E0227", f"option {place} of {name}", shown(error["input"]), error["msg"], "correct it")
