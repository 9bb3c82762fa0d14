"""Facts about a training with rewards: curves, completions of some steps, and what kept the model from learning."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from steps.reports.charts import Chart, curve_chart
from steps.reports.facts import COMPLETIONS
from steps.reports.formats import cut
from steps.reports.reward_facts import logged

STEPS_SHOWN = 3
REWARDS_DRAWN = 6
MOST = 0.5  # above this share, groups without variance and completions at the limit are warned of
MEAN = "/mean"
LENGTH, CLIPPED = "completions/mean_length", "completions/clipped_ratio"
WITHOUT = "frac_reward_zero_std"

Points = list[dict[str, Any]]


def reward_curves(points: Points, evaluations: Points, best: dict[str, Any] | None) -> dict[str, Any]:
    """Return the charts and warnings for the template reward_training.html; an empty dict without rewards."""
    if not any("reward" in point for point in points):
        return {}
    names = rewards_in([*points, *evaluations])
    step = (best or {}).get("step")

    def chart(label: str, name: str, **how: Any) -> Chart | None:
        if not any(isinstance(point.get(name), int | float) for point in [*points, *evaluations]):
            return None
        return curve_chart(f"{label} over steps", points, evaluations, name, **how)

    return {
        "reward_chart": chart("reward", "reward", spread="reward_std", best=step),
        "single_rewards": [
            {"name": name, "chart": chart(f"reward {name}", f"rewards/{name}{MEAN}", spread=f"rewards/{name}/std")}
            for name in (names[:REWARDS_DRAWN] if len(names) > 1 else [])
        ],
        "rewards_left": max(len(names) - REWARDS_DRAWN, 0),
        "length_chart": chart("completion length", LENGTH, bottom=0),
        "clipped_chart": chart("completions at the limit", CLIPPED, share=True),
        "kl_chart": chart("KL divergence", "kl"),
        "without_chart": chart("groups without variance", WITHOUT, share=True),
        "reward_warnings": _warnings(points),
    }


def rewards_in(points: Points) -> list[str]:
    """Return the names of the rewards that the log has a mean of."""
    keys = dict.fromkeys(key for point in points for key in point)
    return [
        key.removeprefix("rewards/").removesuffix(MEAN)
        for key in keys
        if key.startswith("rewards/") and key.endswith(MEAN)
    ]


def _warnings(points: Points) -> list[str]:
    """Return a sentence for what keeps a model from learning."""
    told = []
    without = _mean(points, WITHOUT)
    if without is not None and without > MOST:
        told.append(
            f"In {without:.0%} of the groups all completions had the same reward, so nothing could be learned from "
            "them. Rewards with more steps between none and full, prompts that the model sometimes answers right, more "
            "num_generations or a higher temperature help."
        )
    late = points[-max(len(points) // 4, 1) :]
    clipped = _mean(late, CLIPPED)
    if clipped is not None and clipped > MOST:
        told.append(
            f"At the end of the training {clipped:.0%} of the completions ran into max_completion_length, and were "
            "judged without their end. A higher max_completion_length, or a reward for length, helps."
        )
    return told


def _mean(points: Points, name: str) -> float | None:
    values = [point[name] for point in points if isinstance(point.get(name), int | float)]
    return sum(values) / len(values) if values else None


def sample_completions(tuned: Path) -> list[dict[str, Any]]:
    """Return the best and the worst completion of the first, the middle and the last step, as JSON values.

    `tuned` is the artifact of a training; an empty list if it has no completions.
    """
    file = tuned / COMPLETIONS
    if not file.is_file():
        return []
    import pyarrow.parquet as pq

    steps = sorted(set(pq.read_table(file, columns=["step"], filters=[("split", "=", "train")])["step"].to_pylist()))
    if not steps:
        return []
    places = {round(place * (len(steps) - 1) / (STEPS_SHOWN - 1)) for place in range(STEPS_SHOWN)}
    chosen = [steps[place] for place in sorted(places)]
    read = pq.read_table(file, filters=[("split", "=", "train"), ("step", "in", chosen)]).to_pylist()
    return [{"step": step, "completions": _extremes([row for row in read if row["step"] == step])} for step in chosen]


def _extremes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the completion with the highest and the one with the lowest reward, which may be the same."""
    judged = [row for row in rows if row["reward"] is not None]
    best = min(judged, key=lambda row: (-row["reward"], row["place"]), default=rows[0])
    worst = min(judged, key=lambda row: (row["reward"], row["place"]), default=rows[-1])
    chosen = [best] if best is worst else [best, worst]
    return [_shown(row) for row in chosen]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    names = [name.removeprefix("rewards/") for name in row if name.startswith("rewards/")]
    return {
        "prompt": asdict(cut(row["prompt"] or "")),
        "text": asdict(cut(row["completion"] or "")),
        "tokens": row["tokens"],
        "finished": row["finished"],
        "reward": row["reward"],
        "rewards": {name: row[f"rewards/{name}"] for name in names},
        "logged": logged(row, "", names),
    }
