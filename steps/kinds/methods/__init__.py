"""The training methods, one file each. To add one: a file with its record `METHOD`, and its name below."""

from steps.kinds.method import Method
from steps.kinds.methods import cpo, dpo, ipo, kto, orpo, simpo, supervised

METHODS: dict[str, Method] = {
    module.METHOD.name: module.METHOD for module in (supervised, dpo, ipo, kto, orpo, cpo, simpo)
}
# Methods that train on preferences: the choices of the parameter `method`.
PREFERENCE_METHODS = tuple(name for name in METHODS if name != supervised.METHOD.name)
