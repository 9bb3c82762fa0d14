"""The rewards of a training or an evaluation, as its settings ask for them, and whether their files are unchanged."""

from __future__ import annotations

import os
from collections.abc import Iterator

from steps.errors import Problem, UserError
from steps.params.rewards import RewardParams
from steps.params.settings import RewardSettings
from steps.rewards.loading import load_rewards
from steps.rewards.scoring import Rewards
from steps.sources import storage
from steps.sources.user_code import find_function

MODEL = "reward_model"


def load_asked(asked: RewardSettings) -> Rewards:
    """Load the rewards that settings ask for.

    Raises UserError if the file of a reward, or its model, is another one than when the plan looked at it, and as
    `load_rewards` and `digests_of`.
    """
    now = digests_of(asked)
    changed = [
        Problem("REWARD-E0230", name, f"files with the digest {now.get(name, 'of nothing')[:12]}",
                f"those that the plan saw ({digest[:12]})", "restore the file, or start a new run",
                why="results would not follow from what the plan recorded")
        for name, digest in asked.digests.items()
        if now.get(name) != digest
    ]  # fmt: skip
    if changed:
        raise UserError(changed)
    return load_rewards(asked.rewards, asked.reward_weight_list, asked.options_by_reward, asked.reward_timeout_seconds)


def digests_of(asked: RewardParams) -> dict[str, str]:
    """Return the content digest of each reward that is a file or a model in files, by its name in reward_funcs.

    A model that is named by its id on the Hub has none. Raises UserError, and as `storage.find_files`.
    """
    return dict(_digests(asked))


def _digests(asked: RewardParams) -> Iterator[tuple[str, str]]:
    for name in asked.rewards:
        if ".py" in name:
            yield name, find_function("reward_funcs", name).digest
    model = asked.options_by_reward.get(MODEL, {}).get("model")
    if MODEL in asked.rewards and isinstance(model, str) and _is_files(model):
        yield MODEL, storage.digest_of("option model of reward_model", model)


def _is_files(model: str) -> bool:
    """Whether a model is a folder or a URI, and no id on the Hub."""
    local = storage.local_path(model)
    return local is None or os.path.exists(local)
