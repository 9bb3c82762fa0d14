"""sweep: many trainings of one pipeline that differ in some parameters, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.interface.failed import python_words
from pipelines.interface.given import Parameters, given
from steps.errors import Problem, UserError, nearest, shown
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import todays_name

if TYPE_CHECKING:
    from pipelines.sweeping.cluster import ClusterSweep
    from pipelines.sweeping.handle import Sweep


REMOTE = re.compile(r"(?!https?://)[A-Za-z][A-Za-z0-9+.-]+://")
MEANT = {"root": "runner", "endpoint": "runner", "n_trials": "budget", "parallelism": "max_parallel",
         "sampler": "search"}  # fmt: skip


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
    from pipelines.sweeping.checked import all_told
    from pipelines.sweeping.described import describe

    runner = "runs" if runner is None else runner
    _refuse_others(runner, more, pipeline)
    known, values = given(pipeline, parameters, more)
    if trials is None and isinstance(space, list | tuple):
        space, trials = None, space
    here = isinstance(runner, str | os.PathLike) and "://" not in str(runner)
    with all_told(Path(runner)) if here else contextlib.nullcontext():
        described = describe(
            known, values, space, trials, search=search, budget=budget,
            metric=metric, pruner=pruner, max_parallel=max_parallel, seed=seed, name=name,
        )  # fmt: skip
    if here:
        return _here(described, Path(runner))
    from pipelines.sweeping.cluster import start_on_cluster

    return start_on_cluster(described, runner, profile=profile)


def _refuse_others(runner: Any, more: dict[str, Any], pipeline: Any) -> None:
    """Refuse a runner that is none, and keywords that are nearly those of `sweep`."""
    from pipelines.client.connection import Connection, Server

    if not isinstance(runner, str | os.PathLike | Connection | Server) or REMOTE.match(str(runner)):
        raise UserError(
            Problem("SWEEP-E0166", "runner", shown(runner), "a folder on this machine, the http address of a KFP "
                    "endpoint, or a Connection", "write runner='runs' for this machine")
        )  # fmt: skip
    model = PARAMETER_MODELS.get(pipeline.strip().replace("-", "_")) if isinstance(pipeline, str) else None
    own = [name for name in inspect.signature(sweep).parameters if name != "more"]
    for name in more:
        if not model or todays_name(model, name) in model.model_fields:
            continue
        meant = MEANT.get(name) or nearest(name, [*own, *model.model_fields])[13:-1]
        if meant in own:
            raise UserError(Problem("SWEEP-E0167", name, shown(more[name]), "an argument of sweep, or a parameter of "
                                    f"{pipeline}", f"did you mean {meant}?"))  # fmt: skip


def _here(described: Any, root: Path) -> Sweep:
    from pipelines.outputs import refuse_in_uri, refuse_unwritable
    from pipelines.sweeping.checked import check
    from pipelines.sweeping.handle import Sweep, begin

    refuse_unwritable("--root", root)
    refuse_in_uri("--root", root)
    check(described, root)
    return Sweep(begin(described, root)).resume()
