"""The rewards of a training: checked without running the user's code, with a digest of every file and model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from steps.errors import Problem, UserError, nearest, shown, some_of
from steps.params.chat_columns import USUAL_SYSTEM_PROMPT
from steps.params.pipeline import SupervisedParameters
from steps.params.rewarded import RewardedParameters as Rewarded
from steps.params.settings import Resolved, RewardSettings
from steps.plan.generations import judged
from steps.plan.row_counts import columns_in
from steps.plan.seen import RewardsFound, Seen, runs_here
from steps.plan.sources import opened
from steps.rewards.asked import digests_of
from steps.rewards.library import REWARDS, module_of
from steps.rewards.loading import check_rewards
from steps.rewards.sandbox import check_sandbox
from steps.rewards.user_reward import check_reward
from steps.sources import storage
from steps.sources.model_files import ModelFiles
from steps.tasks import load_task

CODE, MODEL = "code", "reward_model"  # rewards that run programs, and that load a model
# Reward → the package that it needs besides torch and transformers.
PACKAGES = {"math": "math-verify", "json_schema": "jsonschema"}
TRUTH = "ground_truth"
TAGS = ("think", "answer")
WHERE = "option model of reward_model"
HEADS = ("ForSequenceClassification",)
THINK = (
    "First think about the question between <think> and </think>. "
    "Then write only the final answer between <answer> and </answer>."
)
"""The instruction for a reward of form, as our own words; a completion of this form earns 1."""


def look_at_rewards(parameters: SupervisedParameters) -> RewardsFound | None:
    """Check the rewards and resolve their files and models; None without rewards.

    Raises UserError with every problem, SecurityRefusal where a local run cannot shut programs in, and as `open_files`.
    """
    p = judged(parameters)
    if p is None:
        return None
    settings = check_rewards(p.rewards, p.reward_weight_list, p.options_by_reward)
    problems: list[Problem] = []
    sources: dict[str, tuple[Resolved, int]] = {}
    needs: dict[str, tuple[str, ...]] = {}
    options = p.options_by_reward
    for name in p.rewards:
        if name in REWARDS:
            needs[name] = tuple(module_of(name).columns(settings[name]))
            continue
        found, wants = check_reward(name)
        size = sum(info["size"] for info in storage.find_files("reward_funcs", found.uri).values())
        sources[name] = Resolved(uri=found.uri, digest=found.digest), size
        needs[name] = wants.columns
    if MODEL in p.rewards:
        files = _model_files(settings[MODEL])
        problems += _model_problems(files, settings[MODEL])
        if files:
            sources[MODEL] = files.resolved, sum(files.names.values())
            options = _pinned(options, files)
    if problems:
        raise UserError(problems)
    if CODE in p.rewards and runs_here():
        check_sandbox()
    given = {name: getattr(p, name) for name in RewardSettings.model_fields if name != "digests"}
    asked = RewardSettings(**given | {"reward_funcs": ",".join(p.rewards)})  # also those that no parameter names
    # A model of the Hub has its commit in the options instead.
    changes = {"digests": digests_of(p), "reward_options": json.dumps(options, ensure_ascii=False) if options else ""}
    return RewardsFound(asked.model_copy(update=changes), needs, sources, _system_prompt(p, settings), _told(p))


def packages_of_rewards(parameters: SupervisedParameters) -> Iterator[tuple[str, str, str, str]]:
    """Yield (parameter, its value, the package it needs, what to do without it)."""
    p = judged(parameters)
    for name in p.rewards if p else ():
        if package := PACKAGES.get(name):
            yield "reward_funcs", name, package, f"leave {name} out"


def _model_files(options: Any) -> ModelFiles | None:
    """Return the files of a reward model: a folder, or a model of the Hub; None for a folder of the pod's volume."""
    name = options.model
    if "://" in name:
        raise UserError(
            Problem("PLAN-E0514", WHERE, shown(name), "a folder, or an id on the Hub",
                    "copy it to a folder on a volume, or name its id on the Hub")
        )  # fmt: skip
    if os.path.isdir(name):
        return opened(WHERE, "pytorch", name)
    if name.startswith(("/", ".", "~")):
        if not runs_here():
            return None
        raise UserError(
            Problem("PLAN-E0514", WHERE, f"no folder {shown(name)}",
                    "the folder of a model, or its id on the Hub", "correct it")
        )  # fmt: skip
    try:
        return opened(WHERE, "huggingface", name, options.revision or "main")
    except UserError as error:  # of the Hub, which names the parameter of the base model
        problems = [replace(one, where=WHERE) if one.where == "huggingface_id" else one for one in error.problems]
        raise UserError(problems) from error


def _model_problems(files: ModelFiles | None, options: Any) -> Iterator[Problem]:
    """Refuse what the training would refuse when it loads the model: another kind of model, or no such output."""
    if files is None:
        return
    where, uri = WHERE, shown(files.uri)
    if not any(name.endswith(".safetensors") for name in files.names) or "config.json" not in files.names:
        yield Problem("PLAN-E0511", where, f"{uri} without config.json and safetensors",
                      "a model for sequence classification with its tokenizer", "name another one")  # fmt: skip
        return
    try:
        config = json.loads(files.read("config.json"))
        heads, labels = config.get("architectures") or [], config.get("label2id") or {}
        named = {str(label): int(number) for label, number in labels.items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        yield Problem("PLAN-E0511", where, f"{uri}: config.json: {shown(str(error))}", "JSON", "upload it again")
        return
    if heads and not any(str(head).endswith(HEADS) for head in heads):
        yield Problem("PLAN-E0511", where, f"{uri}, a {heads[0]}", "a model for sequence classification",
                      "name another one", why="another head would start with random weights")  # fmt: skip
    count = len(named) or int(config.get("num_labels") or 2)  # transformers has two labels where none are named
    if options.label not in named and (options.label or count != 1):
        yield Problem("PLAN-E0512", "option label of reward_model", shown(options.label) if options.label else "none",
                      f"one of the model's classes ({', '.join(named)[:200]})",
                      nearest(options.label, named) or "name the class whose score is the reward")  # fmt: skip


def _pinned(options: dict[str, dict[str, Any]], files: ModelFiles) -> dict[str, dict[str, Any]]:
    """Return the options with the commit of a model of the Hub, so that the training loads what the plan saw."""
    if files.repository is None:
        return options
    return {**options, MODEL: {**options.get(MODEL, {}), "revision": files.digest}}


def _system_prompt(p: Rewarded, settings: Any) -> str:
    """Return the instruction that system_prompt asks for."""
    asked: str = getattr(p, "system_prompt", "")
    if asked != USUAL_SYSTEM_PROMPT:
        return asked
    if "format" in p.rewards and (tags := tuple(settings["format"].tags)) != TAGS:
        blocks = " ".join(f"<{tag}>…</{tag}>" for tag in tags)
        return f"Build your reply of these blocks, in this order and with nothing else: {blocks}"
    return THINK if {"format", "think_format"} & set(p.rewards) else ""


def _told(p: Rewarded) -> str:
    pairs = zip(p.reward_weight_list, p.rewards, strict=True)
    return " + ".join(f"{weight:g} × {name}" for weight, name in pairs)


def column_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse rows without a column that a reward needs, where the plan can read them; prepare_data checks all."""
    p, found = judged(seen.parameters), seen.rewards
    if p is None or found is None or p.processing_function or p.training_data:
        return
    task = load_task(p.task)
    columns = task.Columns.of(p)
    truth = task.truth_column(columns)
    for one in seen.data.values():
        there = columns_in(one.resolved.uri)
        if there is None:
            continue
        named = some_of(sorted(there))
        truths = {truth, *task.other_truths(columns)}
        for column in found.columns:
            if column == TRUTH and not truths & there:
                yield Problem("PLAN-E0513", one.resolved.uri, f"no column {truth!r} (there are {named})",
                              f"the right answer of each row, for {found.who(TRUTH)}",
                              nearest(truth, there)
                              or task.NAME_TRUTH)  # fmt: skip
            elif column not in {TRUTH, *there} and not task.nested_column(columns):
                yield Problem("PLAN-E0513", one.resolved.uri, f"no column {column!r} (there are {named})",
                              f"every column that {found.who(column)} takes by name",
                              nearest(column, there) or "add the column to the rows, or name another one")  # fmt: skip


def reward_notes(seen: Seen) -> Iterator[str]:
    """Say what a reward needs where the training runs."""
    p = judged(seen.parameters)
    if p is None:
        return
    if CODE in p.rewards and not runs_here():
        yield ("reward_funcs: code runs programs in a sandbox, which needs Linux 5.13 or later and a container that "
               "may use Landlock and seccomp; finetune and evaluate refuse it elsewhere (REWARD-E0215)")  # fmt: skip
    if MODEL in p.rewards and not runs_here():
        yield "reward_funcs: reward_model is loaded by finetune and by evaluate, besides the model that is trained"
