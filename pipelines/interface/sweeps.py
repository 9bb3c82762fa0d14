"""sweep: many trainings of one pipeline that differ in some parameters, on this machine or on a cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.interface.failed import python_words
from pipelines.interface.given import Parameters, given, plain

if TYPE_CHECKING:
    from pipelines.sweeping.cluster import ClusterSweep
    from pipelines.sweeping.handle import Sweep


@python_words()
def sweep(
    pipeline: str,
    parameters: Parameters = None,
    space: Any = None,
    runner: Any = "runs",
    max_parallel: int = 1,
    metric: str = "",
    budget: int | None = None,
    *,
    trials: Any = None,
    search: str = "grid",
    pruner: str = "none",
    seed: int = 42,
    name: str = "",
    profile: Any = None,
    **more: Any,
) -> Sweep | ClusterSweep:
    """Check and start a sweep, and return it at once: `.table()`, `.best`, `.wait()`, `.stop()`, `.report`.

    `space` has the values of each parameter, {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "lora_r":
    [4, 8]}; a list, or `trials`, is every trial by itself. `search` is grid, random, or one of Optuna's samplers (tpe,
    gp), which need a `budget`, the number of trials. `metric` selects the best trial on the validation rows (default:
    gate_metric), `pruner` (median, successive_halving) ends bad trials early. `runner` is the folder of runs on this
    machine, the address of a KFP endpoint, or a `pipelines.client.Connection`; `profile` is that of the cluster.
    Parameters given as keywords override `parameters`. With the `name` of a sweep that was begun, it goes on.

    Raises UserError before anything is started, with every problem of every trial.
    """
    from pipelines.sweeping.described import describe

    known, values = given(pipeline, parameters, more)
    if trials is None and isinstance(space, list | tuple):
        space, trials = None, space
    described = describe(
        known, values, plain(space), plain(trials), search=search, budget=budget, metric=metric, pruner=pruner,
        max_parallel=max_parallel, seed=seed, name=name,
    )  # fmt: skip
    if isinstance(runner, str | os.PathLike) and "://" not in str(runner):
        return _here(described, Path(runner))
    from pipelines.sweeping.cluster import start_on_cluster

    return start_on_cluster(described, runner, profile=profile)


def _here(described: Any, root: Path) -> Sweep:
    from pipelines.outputs import refuse_in_uri, refuse_unwritable
    from pipelines.sweeping.checked import check
    from pipelines.sweeping.handle import Sweep, begin

    refuse_unwritable("--root", root)
    refuse_in_uri("--root", root)
    check(described, root)
    return Sweep(begin(described, root)).resume()
