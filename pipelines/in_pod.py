"""What a task's pod runs: `python3 -m pipelines.in_pod kfp.dsl.executor_main NAME [PIPELINE] --executor_input …`.

KFP would ship the source text of each component's function, and its own program would log all inputs of the task before
the first line of ours. The driver writes that text several times into the object that describes a run, whose size
Kubernetes limits, and a function only works with the code of its image anyway. So this program loads the function by
name and gives it to kfp's executor. The first word is there because kfp's local runner demands it of a command.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from steps.outlets import open_outlets
from steps.stopping import ending, stop_when_asked

EXECUTOR = "kfp.dsl.executor_main"
AT_RUN_TIME = "_KFP_RUNTIME"  # kfp then imports only what a running component needs


def command_of(*function: str) -> list[str]:
    """Return the command of a component; `function` are the arguments of `function_of`."""
    return ["python3", "-m", "pipelines.in_pod", EXECUTOR, *function]


def bake(command: list[str], values: dict[str, Any]) -> None:
    """Add fixed values of parameters to the command of a plan; those that it has already stay."""
    from steps.wire import dump, load

    first = command.index(EXECUTOR) + 1
    fixed = load(command[first + 2]) if len(command) > first + 2 else {}
    command[first + 2 :] = [dump({**values, **fixed})]


def function_of(given: dict[str, Any], name: str, pipeline: str = "", fixed: str = "{}") -> Callable[..., Any]:
    """Return the function of a component, or of a pipeline's plan.

    The plan gets the inputs that are `given` to its task, and the values in `fixed`, a text of `steps/wire.py`.
    """
    if pipeline:
        from pipelines.plan_function import plan_function
        from steps.params.pipelines import model_of
        from steps.wire import load

        model = model_of(pipeline)
        assert model is not None, pipeline
        return plan_function(pipeline, model, tuple(given), load(fixed))
    return getattr(importlib.import_module("pipelines.components"), name)


def main(words: list[str]) -> None:
    """Run a component's function on the inputs that KFP passes."""
    open_outlets()
    stop_when_asked()
    os.environ[AT_RUN_TIME] = "true"
    from steps.running import begin_task, leave, watch_memory

    begin_task(words[1])
    watch_memory(words[1].replace("_", "-"), leave)
    from kfp.dsl.executor import Executor

    flags = words.index("--executor_input")
    task = json.loads(words[flags + 1])
    given = task.get("inputs", {}).get("parameterValues", {})
    Executor(task, function_of(given, *words[1:flags])).execute()


if __name__ == "__main__":
    with ending():
        stop_when_asked()
        from steps.running import RECORDS, mask_children

        if RECORDS not in os.environ:  # `finetune run` reads the whole output, and masks it
            mask_children()
        main(sys.argv[1:])
