"""Check the option device_map, which is accepted for compatibility and has no effect."""

from __future__ import annotations

import re

from steps.errors import Problem, UserError, shown
from steps.params.text_file import any_json

NAMES = ("auto", "balanced", "balanced_low_0", "sequential")
DEVICE = re.compile(r"(cpu|disk|meta|(cuda|xpu|mps|npu)(:\d+)?|\d+)")
NOT_NEEDED = "device_map=%s has no effect: the merge runs on the CPU, one tensor at a time"


def check_device_map(device_map: str) -> None:
    """Check a device map: a mode, a device, or a JSON object of module → device. Raises UserError for anything else."""
    text = device_map.strip()
    if text in NAMES or DEVICE.fullmatch(text):
        return
    try:
        placed = any_json(text)
    except ValueError:
        placed = None
    if not isinstance(placed, dict) or not placed:
        raise _refused(shown(device_map))
    for module, device in placed.items():
        if isinstance(device, bool) or not isinstance(device, int | str) or not DEVICE.fullmatch(str(device)):
            raise _refused(f"{shown(device)} for {shown(module)}")


def _refused(found: str) -> UserError:
    return UserError(
        Problem("MERGE-E0112", "device_map", found, 'auto, cpu, cuda, or JSON such as {"": 0, "lm_head": "cpu"}',
                "leave it out")
    )  # fmt: skip
