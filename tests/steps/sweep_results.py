"""Makes sweep.json of sweeps that are hard to show: with failed and pruned trials, running, with many parameters."""

import json
import math
import random
from pathlib import Path

from steps.artifacts import new_artifact

SPACE = {
    "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
    "lora_r": [4, 8, 16, 64],
    "weight_decay": {"low": 0.0, "high": 0.2},
    "optim": ["adamw_torch", "adafactor", "lion_32bit"],
    "use_rslora": [False, True],
    "per_device_train_batch_size": [1, 2, 4, 8],
    "lora_dropout": {"low": 0.0, "high": 0.3},
    "num_train_epochs": {"low": 1, "high": 8},
}
REASON = "FINETUNE-E0301 The loss became infinite at step 40: the learning rate 0.0009 is too high."
LONG = REASON + " The last finite losses were " + ", ".join(f"{number / 8}" for number in range(60)) + "."


def trial(number: int, parameters: dict, state: str = "finished", **changes: object) -> dict:
    """Return one trial; its score is best near a learning rate of 2e-4 and grows a little with the rank."""
    chance = random.Random(number)
    rate, rank = parameters.get("learning_rate", 1e-4), parameters.get("lora_r", 8)
    score = 0.9 - 0.16 * math.log10(rate / 2e-4) ** 2 + 0.02 * math.log2(rank) + chance.uniform(-0.03, 0.03)
    score = round(min(max(score, 0.0), 1.0), 4)
    ends = {"pruned": 4, "failed": 3, "running": 5}.get(state, 12)
    curve = [[10 * n, 0.4 + 1.4 * (1.1 - score) + 1.6 * 0.7**n + chance.uniform(0, 0.03)] for n in range(1, ends + 1)]
    facts = {
        "number": number, "parameters": parameters, "state": state, "best": False,
        "metrics": {"exact_match": score, "loss": 1.2 - score, "bleu": 90 * score} if state == "finished" else {},
        "score": score if state == "finished" else None, "curve": curve, "curve_metric": "validation loss",
        "steps": 10 * ends, "max_steps": 120, "seconds": 5.1 * ends + number, "tokens": 10240 * ends,
        "mlflow_run_id": "", "reason": "", "error": None, "tuned_uri": "",
    }  # fmt: skip
    if state == "failed":
        facts["reason"] = REASON
    if state == "pruned":
        facts["reason"] = "Pruned at step 40: its validation loss was above the median of the other trials."
    if state == "waiting":
        facts |= {"curve": [], "steps": None, "seconds": None, "tokens": None}
    return facts | changes


def sweep(trials: list[dict], names: list[str], **changes: object) -> dict:
    """Return the content of sweep.json, with the best of `trials` chosen."""
    done = [entry for entry in trials if entry["state"] == "finished" and entry["score"] is not None]
    best = max(done, key=lambda entry: entry["score"])["number"] if done else None
    for entry in trials:
        entry["best"] = entry["number"] == best
    return {
        "name": "dates", "pipeline": "chat_completion", "metric": "exact_match", "higher_is_better": True,
        "search": "grid", "pruner": "none", "space": {name: SPACE[name] for name in names if name in SPACE},
        "varied": names, "trials": trials, "best": best, "importance": {}, "final": None,
        "cost": {
            "trainings": len(trials), "preparations": 1, "steps": sum(entry["steps"] or 0 for entry in trials),
            "seconds": sum(entry["seconds"] or 0 for entry in trials),
        },
        **changes,
    }  # fmt: skip


def drawn(names: list[str], number: int) -> dict:
    """Draw the parameters of a trial at random from SPACE."""
    chance = random.Random(1000 + number)

    def draw(entry: dict | list) -> object:
        if isinstance(entry, list):
            return chance.choice(entry)
        low, high = entry["low"], entry["high"]
        if entry.get("log"):
            return 10 ** chance.uniform(math.log10(low), math.log10(high))
        return chance.randint(low, high) if isinstance(low, int) else chance.uniform(low, high)

    return {name: draw(SPACE[name]) for name in names}


def random_sweep(number: int, names: list[str], states: dict[int, str] | None = None, **changes: object) -> dict:
    """Return a sweep of `number` random trials; `states` names those that did not finish."""
    trials = [trial(place, drawn(names, place), (states or {}).get(place, "finished")) for place in range(number)]
    return sweep(trials, names, search="tpe", **changes)


FINAL = {
    "metrics": {
        "base": {"exact_match": 0.125, "loss": 2.5, "bleu": 11.0},
        "tuned": {"exact_match": 0.9375, "loss": 0.25, "bleu": 88.0},
    },
    "gate": {
        "metric": "exact_match", "base": 0.125, "tuned": 0.9375, "passed": True,
        "reason": "Passed: exact_match of the tuned model beats the base model's",
    },
    "registered": {"name": "dates-best", "version": "3", "model_uri": "models:/dates-best@champion"},
}  # fmt: skip


def grid_sweep(**changes: object) -> dict:
    """Return eight finished trials over learning rate and rank, the best one evaluated and registered."""
    points = [(rate, rank) for rate in (1e-5, 5e-5, 2e-4, 1e-3) for rank in (8, 16)]
    trials = [trial(n, {"learning_rate": rate, "lora_r": rank}) for n, (rate, rank) in enumerate(points)]
    space = {"learning_rate": [1e-5, 5e-5, 2e-4, 1e-3], "lora_r": [8, 16]}
    return sweep(trials, ["learning_rate", "lora_r"], **{"space": space, "final": FINAL, **changes})


def write_sweep(folder: Path, facts: dict, finished: bool = True) -> Path:
    """Write sweep.json, as an artifact or, as a running sweep does, without a manifest."""
    if finished:
        with new_artifact(folder, "sweep") as draft:
            (draft / "sweep.json").write_text(json.dumps(facts))
        return folder
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps(facts))
    return folder
