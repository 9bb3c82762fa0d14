"""Optuna's samplers compared with random search, through our own sweep: the best validation loss of each seed.

    python benchmarks/sweep_search.py [--seeds 3] [--tpe 20] [--random 40] [--gp 20] [--together 2] [--space rate]

A classifier of the example `topics` is trained with parameters that each sampler chooses: learning rate, steps, rows
per step and warmup; or, with `--space rate`, learning rate, weight decay, warmup, gradient norm and schedule, of which
the rate decides nearly everything. TPE has half as many trials as random search. What it should find: at least what
random search finds. Nothing is asserted, since three seeds prove little; the scores do not depend on the load of the
machine.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

CONFIG = "examples/topics/config.yaml"
STEPS = 40  # of each training, which takes about a second
# warmup_steps is given by each trial; the classes are compared by loss, which differs between any two trials.
SHORT = {"metric_for_best_model": "loss", "gate_metric": "loss", "gate_min_value": -1}
SPACES = {
    # One parameter decides nearly everything: random search is hard to beat.
    "rate": {
        "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
        "weight_decay": {"low": 0.0, "high": 0.3},
        "warmup_steps": {"low": 0, "high": 30},
        "max_grad_norm": {"low": 0.1, "high": 10.0, "log": True},
        "lr_scheduler_type": ["linear", "cosine", "constant_with_warmup"],
    },
    # Several matter: a good rate needs enough steps, and rows per step.
    "length": {
        "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
        "max_steps": {"low": 4, "high": 60},
        "per_device_train_batch_size": {"low": 1, "high": 32},
        "warmup_ratio": {"low": 0.0, "high": 0.5},
    },
}


def main() -> None:
    """Run all sweeps and print one line per seed and sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    for search, trials in (("tpe", 20), ("random", 40), ("gp", 20)):
        parser.add_argument(f"--{search}", type=int, default=trials, metavar="TRIALS", help="0 leaves it out")
    parser.add_argument("--together", type=int, default=1, help="sweeps at the same time; the scores are the same")
    parser.add_argument("--space", choices=list(SPACES), default="length", help="the parameters that are searched")
    given = parser.parse_args()
    os.chdir(ROOT)
    subprocess.run([sys.executable, "examples/topics/make.py"], check=True)
    budgets = {search: getattr(given, search) for search in ("tpe", "random", "gp") if getattr(given, search)}
    asked = [(seed, search, trials) for seed in range(given.seeds) for search, trials in budgets.items()]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(given.together) as pool:
        losses = list(pool.map(lambda one: searched(Path(scratch), given.space, *one), asked))
    found = {(seed, search): scores for (seed, search, _), scores in zip(asked, losses, strict=True)}
    print("\nbest validation loss")
    print("seed  " + "  ".join(f"{f'{search}, {trials} trials':>18}" for search, trials in budgets.items()))
    for seed in range(given.seeds):
        print(f"{seed:<4}  " + "  ".join(f"{min(found[seed, search]):>18.4f}" for search in budgets))
    if {"tpe", "random"} <= set(budgets):
        wins = sum(min(found[seed, "tpe"]) <= min(found[seed, "random"]) for seed in range(given.seeds))
        print(f"TPE found at least what random search found with {wins} of {given.seeds} seeds")


def searched(root: Path, space: str, seed: int, search: str, trials: int) -> list[float]:
    """Run one sweep and return the losses of its trials in their order; a trial that diverged has infinity."""
    from pipelines import sweep

    started = time.monotonic()
    made = sweep("text_classification", CONFIG, SPACES[space], root, search=search, budget=trials, seed=seed,
                 name=f"{search}-{seed}", max_steps=STEPS, warmup_steps=0, **SHORT).wait(show=False)  # fmt: skip
    scores = [trial["score"] if trial["state"] == "finished" else float("inf") for trial in made.facts["trials"]]
    chosen = made.best["parameters"]
    values = " ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                      for name, value in chosen.items())  # fmt: skip
    print(f"{search}, seed {seed}: {min(scores):.4f} after {scores.index(min(scores)) + 1} of {len(scores)} trials "
          f"({time.monotonic() - started:.0f} s): {values}", flush=True)  # fmt: skip
    return scores


if __name__ == "__main__":
    main()
