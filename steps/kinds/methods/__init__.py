"""The training methods, one file each. To add one: a file with its record `METHOD`, and its name below."""

from steps.kinds.method import Method
from steps.kinds.methods import cpo, dpo, grpo, ipo, kto, orpo, rloo, simpo, supervised

METHODS: dict[str, Method] = {
    module.METHOD.name: module.METHOD for module in (supervised, dpo, ipo, kto, orpo, cpo, simpo, grpo, rloo)
}
# Methods that learn from rewards: the choices of the parameter `method` of those pipelines.
REWARD_METHODS = tuple(name for name, method in METHODS.items() if method.rewarded)
# Methods that train on preferences: the choices of the parameter `method` of theirs.
PREFERENCE_METHODS = tuple(name for name in METHODS if name not in (supervised.METHOD.name, *REWARD_METHODS))
