"""The function that verl calls for each answer: rewards of this project, or a function of the user.

verl loads this file in its own processes (`reward.custom_reward_function.path`) and hands the path of a job to each
call (`reward_kwargs`). The job says which rewards, with weights and options, as in GRPO. A reward of the library gets
one answer at a time: ground_truth, data_source, prompts and the keys of extra_info are its columns. A function of the
user is either such a reward (file.py:function with `completions`) or has verl's own signature:

    def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs): return 1.0

verl reports what goes wrong here as an error of Ray's; so the error is also written beside the job, where the process
that started verl finds it.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from steps.artifacts import write_durably
from steps.errors import Problem, StepError, UserError, shown
from steps.launch.told import as_text
from steps.params.settings import RewardSettings
from steps.rewards.asked import load_asked
from steps.rewards.limits import TimeLimit, call_within
from steps.rewards.one_answer import arguments_for, judges_one_answer, score_in
from steps.sources.user_code import LoadedFunction, find_function, load_found
from steps.tasks.rules.json_text import from_json
from steps.verl.data import PROMPT

JOB = "rewards.json"
ERROR = "reward-error-"  # beside the job, then the number of the process
FUNCTION = "compute_score"  # the name that verl looks up here
PARAMETER = "reward_funcs"
NOT_COLUMNS = ("num_turns", "rollout_reward_scores", PROMPT)  # keys of extra_info that verl or this project adds

_one_at_a_time = threading.Lock()


def write_job(folder: Path, asked: RewardSettings) -> Path:
    """Write the job for the rewards that are asked for; return its path."""
    file = folder / JOB
    write_durably(file, json.dumps(asked.model_dump(mode="json"), indent=1))
    return file


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    job: str = "",
    **kwargs: Any,
) -> dict[str, Any]:
    """Score one answer: `score`, and the value of each reward, as verl's reward managers take them.

    A reward that does not apply is NaN among the values; the score is then the sum of the others, 0 without any.
    """
    try:
        # verl calls this from several threads; rewards keep state between calls, such as event loops and sandboxes.
        with _one_at_a_time:
            score = _loaded(job)
            return score(data_source, solution_str, ground_truth, {**(extra_info or {})}, kwargs)
    except StepError as error:
        _tell(Path(job).parent, error)
        raise


def is_verl_function(given: str) -> bool:
    """Return whether file.py:function has verl's own signature. Raises UserError if there is no such function."""
    return judges_one_answer(find_function(PARAMETER, given).arguments)


Score = Callable[[str, str, Any, dict[str, Any], dict[str, Any]], dict[str, Any]]


@cache
def _loaded(job: str) -> Score:
    asked = RewardSettings.model_validate_json(Path(job).read_bytes())
    if len(asked.rewards) == 1 and ".py" in asked.rewards[0] and is_verl_function(asked.rewards[0]):
        return _by_function(asked)
    return _by_rewards(asked)


def _by_rewards(asked: RewardSettings) -> Score:
    rewards = load_asked(asked)

    def score(source: str, text: str, truth: Any, info: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
        prompt = from_json(info[PROMPT]) if isinstance(info.get(PROMPT), str) else None
        columns = {name: [value] for name, value in info.items() if name not in NOT_COLUMNS}
        columns |= {"data_source": [source], "ground_truth": [truth]}
        scores = rewards.score([prompt], [[{"role": "assistant", "content": text}]], columns)
        values = {name: value[0] for name, value in scores.rewards.items()}
        total = scores.totals[0]
        named = {f"rewards/{name.rpartition(':')[2]}": math.nan if one is None else one for name, one in values.items()}
        return {"score": 0.0 if total is None else total, **named}

    return score


def _by_function(asked: RewardSettings) -> Score:
    given = asked.rewards[0]
    found = find_function(PARAMETER, given)
    if (digest := asked.digests.get(given, found.digest)) != found.digest:
        raise UserError(
            Problem("VERL-E0205", given, f"a file with the digest {found.digest[:12]}",
                    f"the one that the plan saw ({digest[:12]})", "restore the file, or start a new run")
        )  # fmt: skip
    loaded = load_found(PARAMETER, found)
    weight = asked.reward_weight_list[0]

    def score(source: str, text: str, truth: Any, info: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        row = {"data_source": source, "ground_truth": truth, **info}
        row.pop(PROMPT, None)
        given = arguments_for(found.arguments, text, row, more)
        try:
            made = call_within(asked.reward_timeout_seconds, lambda: loaded.call(**given))
        except TimeLimit:
            raise _failed(
                loaded, loaded.uri, f"no answer after {asked.reward_timeout_seconds:g} seconds", text
            ) from None
        except (Exception, SystemExit) as error:  # the user's code: any error is told with its line
            raise _failed(loaded, loaded.place_of(error), f"{type(error).__name__}: {error}", text) from error
        told = score_in(made, loaded, f"the answer {shown(text)}")
        return {**told, "score": weight * told["score"]}

    return score


def _failed(loaded: LoadedFunction, place: str, found: str, text: str) -> UserError:
    return UserError(
        Problem("VERL-E0203", f"{place} in {loaded.name}, the answer {shown(text)}", shown(found), "a score",
                "correct the function, make it faster, or raise reward_timeout_seconds")
    )  # fmt: skip


def _tell(folder: Path, error: StepError) -> None:
    write_durably(folder / f"{ERROR}{os.getpid()}.json", as_text(error))
