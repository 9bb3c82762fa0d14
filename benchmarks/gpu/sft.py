"""Tokens per second, MFU and memory of LoRA training on one GPU: ours, TRL with its defaults, and a loop by hand.

    python benchmarks/gpu/sft.py [--shape llama-3.2-1b qwen-2.5-7b] [--budget 285] [--json FILE] [--device cuda]
    python benchmarks/gpu/sft.py --device cpu --shape tiny      # the same on a CPU, in seconds

Random weights in real shapes and rows of random tokens with skewed lengths are made on the spot; nothing is downloaded.
Every arm trains rank 16 in all linear layers on the same rows, as many per optimizer step:

    ours          the step finetune, with the settings that the plan decides for this machine and precision=16
    TRL defaults  SFTTrainer with the model by its path and SFTConfig's defaults (float32 base, autocast, checkpointing)
    by hand       torch and PEFT alone: bfloat16 base, autocast, fused AdamW, checkpointing only where the plan has it
    ours, packed  as ours, rows packed to full length

Each runs in a process of its own, in rounds as long as the budget lasts; what does not fit into memory or the budget is
left out and said. Tokens do not count padding; the first steps are not measured. Exits with 1 if an arm fails, or on a
GPU if a target is missed: at least as fast as TRL's defaults, memory at most what the plan estimated.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shapes import SHAPES
from workers import Failed, Job, Workers

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
REAL = ["llama-3.2-1b", "qwen-2.5-7b"]
CORE = ["ours", "TRL defaults", "by hand"]
MORE = ["ours, packed"]
GIB = 2**30
ROOM = 1.15  # of memory and disk, for a model's weights
OVERDUE = 10.0  # seconds behind the budget after which a process is ended


def main() -> int:
    """Measure, print and write."""
    options = _options()
    _set_environment()
    started = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="gpu-sft-", dir=options.scratch))
    try:
        workers = Workers(scratch / "log")
        facts = workers.facts(options.device)
        if options.device == "cuda" and not facts["memory_bytes"]:
            raise SystemExit("no GPU here; --device cpu --shape tiny runs the same on a CPU")
        facts["date"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        memory = f"{facts['memory_bytes'] / GIB:.0f} GiB"
        print(f"{facts['card']}, {memory}, {facts['date']}, {_versions(facts)}", flush=True)
        bench = Bench(options, workers, facts, scratch, started + options.budget)
        bench.run()
        if options.json:
            _write(options.json, options, facts, bench)
        return report(bench.found, bench.left_out, facts, options.device)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _set_environment() -> None:
    """Set what the processes need before they load anything."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asking whether there is a GPU must not use it
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=REAL)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--budget", type=float, default=285, help="seconds for everything (default 285)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds at most (default 3)")
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    parser.add_argument("--scratch", help="folder for the weights, 18 GB with 7B (default: the system's)")
    return parser.parse_args()


class Bench:
    """The trainings in the order of their importance, until the budget is used up."""

    def __init__(
        self, options: argparse.Namespace, workers: Workers, facts: dict[str, Any], scratch: Path, deadline: float
    ):
        self.options, self.workers, self.facts = options, workers, facts
        self.scratch, self.deadline = scratch, deadline
        self.found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.left_out: dict[tuple[str, str], str] = {}
        self._seconds: dict[tuple[str, str], float] = {}
        self._made: dict[str, dict[str, int]] = {}
        self._runs = 0  # finetune would go on with a run of the same path

    def run(self) -> None:
        """Measure every arm once, then the packed ones, then in further rounds what there is time for."""
        for shape, arm, first in self._order():
            if (shape, arm) in self.left_out:
                continue
            if why := self._impossible(shape, arm):
                if first:
                    self.left_out[shape, arm] = why
                    print(f"{shape}, {arm}: left out, {why}", flush=True)
                continue
            self._measure(shape, arm)

    def _order(self) -> Iterator[tuple[str, str, bool]]:
        shapes = self.options.shape
        yield from ((shape, arm, True) for shape in shapes for arm in CORE)
        yield from ((shape, arm, True) for shape in shapes for arm in MORE)
        for _ in range(1, self.options.rounds):
            yield from ((shape, arm, False) for shape in shapes for arm in (*CORE, *MORE))

    def _impossible(self, shape: str, arm: str) -> str:
        """Return why this training cannot be measured; empty if it can."""
        count, memory, host = SHAPES[shape].weights * 1e9, self.facts["memory_bytes"], self.facts["host_bytes"]
        width = 4 if arm == "TRL defaults" else 2
        if memory and count * width > memory:
            return f"its weights are {count * width / GIB:.1f} GiB, the GPU's memory is {memory / GIB:.1f} GiB"
        if count * width * ROOM > host:
            return f"its weights are {count * width / GIB:.1f} GiB, this machine's memory is {host / GIB:.1f} GiB"
        if shape not in self._made and shutil.disk_usage(self.scratch).free < count * 2 * ROOM:
            return f"less than {count * 2 * ROOM / 1e9:.0f} GB free for the weights (choose another --scratch)"
        left, expected = self.deadline - time.monotonic(), self._expected(shape, arm)
        return f"{left:.0f} s of the budget left, about {expected:.0f} needed" if left < expected else ""

    def _expected(self, shape: str, arm: str) -> float:
        mine = [seconds for (name, _), seconds in self._seconds.items() if name == shape]
        return self._seconds.get((shape, arm)) or max(mine, default=SHAPES[shape].expected_seconds)

    def _measure(self, shape: str, arm: str) -> None:
        started = time.monotonic()
        folder, out = self.scratch / shape, self.scratch / f"run-{self._runs}"
        self._runs += 1
        until = self.deadline + OVERDUE
        try:
            if shape not in self._made:
                folder.mkdir()
                made = self.workers.call(until - time.monotonic(), "build", shape, str(folder), self.options.device)
                self._made[shape] = made["counts"]
                print(f"{shape}: made in {time.monotonic() - started:.0f} s, {_millions(made['counts'])}", flush=True)
                started = time.monotonic()
            out.mkdir()
            job = Job(arm, shape, str(folder), str(out), self.options.device, self._made[shape])
            told = self.workers.call(until - time.monotonic(), "measure", job)
        except TimeoutError:
            told = {"left_out": "it was ended when the budget was used up"}
        finally:
            shutil.rmtree(out, ignore_errors=True)
        self._seconds[shape, arm] = time.monotonic() - started
        if "left_out" in told:
            self.left_out.setdefault((shape, arm), told["left_out"])
            print(f"{shape}, {arm}: left out, {told['left_out']}", flush=True)
            return
        self.found.setdefault((shape, arm), []).append(told)
        print(f"{shape}, {arm}: {told['tokens_per_second']:,.0f} tokens/s, {told['seconds']:.0f} s", flush=True)


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of numbers over rounds; the first round's value of everything else."""
    first = rounds[0]
    return {
        name: value if isinstance(value, bool) or not isinstance(value, int | float) else
        statistics.median(one[name] for one in rounds)
        for name, value in first.items()
    }  # fmt: skip


def report(
    found: dict[tuple[str, str], list[dict[str, Any]]],
    left_out: dict[tuple[str, str], str],
    facts: dict[str, Any],
    device: str,
) -> int:
    """Print a table of medians and, for a GPU, whether the targets are met; return 1 if one is missed."""
    told = {key: medians(rounds) for key, rounds in found.items()}
    print(f"\n{'':27} {'tokens/s':>9} {'MFU':>6} {'peak GiB':>9} {'plan':>6} {'plan/peak':>9} {'recompute':>9} "
          f"{'s/step':>7} {'seconds':>8} {'loss':>7} {'rounds':>6}")  # fmt: skip
    for (shape, arm), one in told.items():
        print(_line(f"{shape}, {arm}", one, facts["peak_flops"], len(found[shape, arm])))
    for (shape, arm), why in left_out.items():
        if (shape, arm) not in told:
            print(f"{f'{shape}, {arm}':27} left out: {why}")
    peak = facts["peak_flops"]
    source = f"{peak / 1e12:.0f} TFLOP/s (bfloat16, TRL's table)" if peak else "not known for this device, so no MFU"
    print(f"\nMFU counts 4 operations per frozen weight, 6 per trained one, and causal attention; peak {source}.")
    if device != "cuda":
        return 0
    checks = targets(told)
    print()
    for what, met in checks.items():
        print(f"{'ok    ' if met else 'MISSED'} {what}")
    return int(not all(checks.values()))


def _line(name: str, one: dict[str, Any], peak: float | None, rounds: int) -> str:
    mfu = f"{one['flops_per_second'] / peak:.1%}" if peak else "-"
    used, planned = one["peak_bytes"], one.get("planned_bytes")
    return (
        f"{name:27} {one['tokens_per_second']:9,.0f} {mfu:>6} {f'{used / GIB:.2f}' if used else '-':>9} "
        f"{f'{planned / GIB:.2f}' if planned else '-':>6} {f'{planned / used:.2f}' if planned and used else '-':>9} "
        f"{'yes' if one['checkpointing'] else 'no':>9} {one['steady_seconds'] / one['steps']:7.3f} "
        f"{one['seconds']:8.1f} {one['loss']:7.3f} {rounds:6}"
    )


def targets(told: dict[tuple[str, str], dict[str, Any]]) -> dict[str, bool]:
    """Return each target with whether it is met, for what was measured."""
    checks: dict[str, bool] = {}
    for (shape, arm), one in told.items():
        peer = told.get((shape, "TRL defaults"))
        if arm == "ours" and peer:
            ratio = one["tokens_per_second"] / peer["tokens_per_second"]
            checks[f"{shape}: {ratio:.2f} times as fast as TRL's defaults (target 1)"] = ratio >= 1
        if one["peak_bytes"] and one.get("planned_bytes"):
            share = one["peak_bytes"] / one["planned_bytes"]
            checks[f"{shape}, {arm}: {share:.2f} of the memory that the plan estimated (target 1)"] = share <= 1
    return checks


def _write(file: Path, options: argparse.Namespace, facts: dict[str, Any], bench: Bench) -> None:
    rows = [
        {"shape": shape, "arm": arm, "median": medians(rounds), "rounds": rounds}
        for (shape, arm), rounds in bench.found.items()
    ]
    left = [{"shape": shape, "arm": arm, "why": why} for (shape, arm), why in bench.left_out.items()]
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    told = {"device": facts, "options": settings, "weights": bench._made, "measured": rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**told, "left_out": left}, indent=1) + "\n", encoding="utf-8")


def _versions(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in facts["versions"].items() if number)


def _millions(counts: dict[str, int]) -> str:
    return f"{counts['base'] / 1e6:,.1f} M weights multiplied, {counts['adapter'] / 1e6:.2f} M in the adapter"


if __name__ == "__main__":
    sys.exit(main())
