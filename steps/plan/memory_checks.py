"""Refuse a training that cannot fit into memory, warn of one that probably does not, and say with what it would fit."""

from __future__ import annotations

from collections.abc import Iterator

from steps.errors import Problem
from steps.plan.memory import HEADROOM
from steps.plan.need import GIB
from steps.plan.remedies import remedies, told
from steps.plan.room import is_asked_for, room_here
from steps.plan.seen import Seen, runs_here
from steps.plan.strategy import FIT_FSDP, Choice, choose, estimate_of, unfit_for_fsdp
from steps.plan.verl_memory import ENGINES


def sharing_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse distributed_strategy=fsdp with weights or an optimizer that cannot be sharded."""
    p = seen.parameters
    if p.distributed_strategy != "fsdp" or p.devices == 1:
        return
    if p.bits:
        yield Problem("PLAN-E0396", "distributed_strategy", f"fsdp with load_in_{p.bits}bit=true", "ddp",
                      "set distributed_strategy=ddp, or leave it out", why=unfit_for_fsdp(p))  # fmt: skip
    elif unfit_for_fsdp(p):
        yield Problem("PLAN-E0397", "optim", f"{p.optim} with distributed_strategy=fsdp",
                      f"one of {', '.join(FIT_FSDP)}", "set optim=adamw_torch, or distributed_strategy=ddp",
                      why=unfit_for_fsdp(p))  # fmt: skip


def memory_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse a training whose weights, gradients and optimizer states alone exceed the memory."""
    choice = choose(seen)
    if not choice or not choice.room.bytes:
        return
    needs, room = choice.memory, choice.room
    if needs.least > room.bytes:
        fix = _fix(seen, choice)
        each = " in each process" if choice.sharing.processes > 1 else ""
        engines = "".join(f", with the share of {name}" for name in ENGINES.values() if name in needs.parts)
        yield Problem("PLAN-E0365", room.parameter,
                      f"{needs.least / GIB:.1f} GiB of weights, gradients and optimizer states{each}{engines} for the "
                      f"{room.bytes / GIB:.1f} GiB of {room.what}", "room for them, and for activations besides",
                      fix)  # fmt: skip


def _fix(seen: Seen, choice: Choice) -> str:
    """Say with what the training would fit; a local run may also be planned for another machine."""
    found = told(remedies(seen, choice))
    if choice.room.parameter == "instance_type_finetune":
        return found or "name a larger instance_type_finetune, or train a smaller model"
    elsewhere = "train on another machine (and plan for it with instance_type_finetune)"
    return f"{found}; or {elsewhere}" if found else elsewhere


def memory_notes(seen: Seen) -> Iterator[str]:
    """Warn if the memory, or CPU memory for offloading, is probably too small."""
    choice = choose(seen)
    if choice is None:
        return
    p, hardware, needs = seen.parameters, seen.hardware["finetune"], choice.memory
    if choice.room.bytes and not needs.fits:
        yield _too_small(choice, _fix(seen, choice))
    if runs_here() and is_asked_for(p):
        here = room_here(p)
        own = estimate_of(seen, p, choice.sharing.strategy, here)
        if here.bytes and not own.fits:
            yield _too_small(Choice(choice.sharing, own, here, ""), "run it on the machine that is named")
    there = hardware.memory_gib
    if not runs_here() and needs.on_cpu >= there * GIB:  # offloaded states must fit into CPU memory
        yield (f"{needs.on_cpu / GIB:.0f} GiB are kept in CPU memory, but finetune has {there} GiB: "
               "choose a larger instance_type_finetune")  # fmt: skip


def _too_small(choice: Choice, fix: str) -> str:
    usable = int(choice.room.bytes * HEADROOM)
    each = " in each process" if choice.sharing.processes > 1 else ""
    return (
        f"finetune is expected to need {choice.memory.needed / GIB:.1f} GiB{each}, but {usable / GIB:.1f} GiB of "
        f"{choice.room.what} are usable: {fix}"
    )
