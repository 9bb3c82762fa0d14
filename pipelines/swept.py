"""The task graph of a sweep: one plan, one import, one preparation, a task for each trial, and the best one registered.

kfp's limit of a loop (`parallelism`) is a number in the compiled file. So that it can be an input, the plan returns as
many lists of trials as may run at the same time: the lists are run side by side, and the trials of each one by one.
"""

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Model

from pipelines.components import (
    choose_trial,
    evaluate_best,
    evaluate_best_labels,
    import_models,
    prepare_all,
    trial,
)
from pipelines.form import sweep_form
from pipelines.resources import (
    SERVER,
    named,
    on_cpu,
    on_gpu,
    small,
    uncached,
    with_hub_token,
    with_tracking,
)
from pipelines.signature import pipeline
from pipelines.supervised import report_and_register
from steps.params.pipelines import is_sweep, sweep_model


class Outputs(NamedTuple):
    """Outputs of the pipeline."""

    plan: Artifact
    data: Dataset
    sweep: Artifact
    sweep_report: HTML
    tuned: Model
    merged: Model
    evaluation_result: Artifact
    report: HTML
    passed: bool
    score: float


class Chosen(NamedTuple):
    """What the loop over the trials returns."""

    evaluation: str
    registration: str
    tuned_uri: str
    model: str
    rows: str
    chosen_plan: Artifact
    sweep: Artifact
    sweep_report: HTML


class Finished(NamedTuple):
    """What becomes of the best trial."""

    tuned: Model
    merged: Model
    evaluation_result: Artifact
    report: HTML
    passed: bool
    score: float


REQUESTS = ("cpu", "memory", "gpu_type", "gpu_count", "node_selector", "tolerations")


def _requests(plan: dsl.PipelineTask, group: str) -> dict[str, Any]:
    """Return the plan's requests for a group as inputs of a sub-pipeline, which has no access to the plan."""
    return {what: plan.outputs[f"{group}_{what}"] for what in REQUESTS}


def _as_plan(group: str, **inputs: Any) -> Any:
    """Return requests that are inputs of a sub-pipeline in the form in which `on_gpu` reads the plan's."""
    return SimpleNamespace(outputs={f"{group}_{what}": value for what, value in inputs.items()})


@dsl.pipeline(name="lane")
def lane(
    trials: list[str],
    base_models: Input[Model],
    data: Input[Dataset],
    config_map: str,
    cpu: str,
    memory: str,
    gpu_type: str,
    gpu_count: str,
    node_selector: dict,
    tolerations: list,
) -> list:
    """Train and measure trials one after another; return their results."""
    with dsl.ParallelFor(trials, name="One after another", parallelism=1) as settings:
        one = trial(settings=settings, base_models=base_models, data=data)
        requests = _as_plan("finetune", cpu=cpu, memory=memory, gpu_type=gpu_type, gpu_count=gpu_count,
                            node_selector=node_selector, tolerations=tolerations)  # fmt: skip
        on_gpu(with_tracking(named(one, "Train and measure"), config_map), requests, "finetune")
    return dsl.Collected(one.outputs["Output"])


@dsl.pipeline(name="trials")
def all_trials(
    lanes: list[list],
    plan: Input[Artifact],
    base_models: Input[Model],
    data: Input[Dataset],
    config_map: str,
    cpu: str,
    memory: str,
    gpu_type: str,
    gpu_count: str,
    node_selector: dict,
    tolerations: list,
) -> Chosen:
    """Run all trials, as many at the same time as there are lanes, and choose the best one."""
    with dsl.ParallelFor(lanes, name="Lanes") as trials:
        results = lane(
            trials=trials, base_models=base_models, data=data, config_map=config_map, cpu=cpu, memory=memory,
            gpu_type=gpu_type, gpu_count=gpu_count, node_selector=node_selector, tolerations=tolerations,
        ).set_display_name("Lane")  # fmt: skip
    best = named(choose_trial(results=dsl.Collected(results.output), plan=plan), "Choose the best trial")
    uncached(small(with_tracking(best, config_map)))
    told = {name: best.outputs[name] for name in Chosen._fields if name != "rows"}
    return Chosen(**told, rows=best.outputs["data"])


def _finish(evaluator: Any) -> Any:
    """Make the sub-pipeline that evaluates and registers the best trial.

    The address of its model has to be an input of the pipeline that imports it: KFP's importer reads no outputs.
    """

    @dsl.pipeline(name="best-trial")
    def finish(
        tuned_uri: str,
        evaluation: str,
        registration: str,
        model: str,
        rows: str,
        registers: bool,
        base_models: Input[Model],
        data: Input[Dataset],
        chosen_plan: Input[Artifact],
        config_map: str,
        cpu: str,
        memory: str,
        gpu_type: str,
        gpu_count: str,
        node_selector: dict,
        tolerations: list,
    ) -> Finished:
        tuned = named(dsl.importer(artifact_uri=tuned_uri, artifact_class=Model), "Best trial's model").output
        verdict = evaluator(
            settings=evaluation, model=model, rows=rows, base_models=base_models, tuned=tuned, data=data
        )  # fmt: skip
        requests = _as_plan("evaluate", cpu=cpu, memory=memory, gpu_type=gpu_type, gpu_count=gpu_count,
                            node_selector=node_selector, tolerations=tolerations)  # fmt: skip
        on_gpu(named(verdict, "Merge and evaluate"), requests, "evaluate")
        weights = {"tuned": tuned, "merged": verdict.outputs["merged_model"]}
        page = report_and_register(verdict, chosen_plan, registration, registers, config_map, **weights)
        return Finished(
            **weights,
            evaluation_result=verdict.outputs["evaluation"],
            report=page,
            passed=verdict.outputs["Output"],
            score=verdict.outputs["score"],
        )

    return finish


def swept(p: Any, plan: dsl.PipelineTask, finish: Any) -> Outputs:
    """Plan all trials, import, prepare, train and measure each, evaluate and register the best one."""
    uncached(small(with_tracking(with_hub_token(plan, p.huggingface_token_secret), p.mlflow_config_map)))
    named(plan, "Plan and check")
    base = named(import_models(settings=plan.outputs["models"]), "Import model")
    on_cpu(with_tracking(with_hub_token(base, p.huggingface_token_secret), p.mlflow_config_map, SERVER), plan, "import")
    data = named(prepare_all(settings=plan.outputs["data"], tokenizers=base.outputs["tokenizers"]), "Prepare data")
    on_cpu(with_hub_token(data, p.huggingface_token_secret), plan, "prepare")
    shared = {"base_models": base.outputs["base_models"], "data": data.outputs["data"],
              "config_map": p.mlflow_config_map}  # fmt: skip
    chosen = named(
        all_trials(lanes=plan.outputs["lanes"], plan=plan.outputs["plan"], **shared, **_requests(plan, "finetune")),
        "Trials",
    )
    names = ("tuned_uri", "evaluation", "registration", "model", "rows", "chosen_plan")
    of_best = {name: chosen.outputs[name] for name in names}
    done = named(
        finish(**of_best, registers=plan.outputs["registers"], **shared, **_requests(plan, "evaluate")), "Best trial"
    )
    return Outputs(
        plan=plan.outputs["plan"],
        data=data.outputs["data"],
        sweep=chosen.outputs["sweep"],
        sweep_report=chosen.outputs["sweep_report"],
        **{name: done.outputs[name] for name in Finished._fields},
    )


@cache
def flow_of(name: str) -> Callable[..., Any]:
    """Return the function of a sweep; sweeps differ only in their parameter model."""
    model = sweep_model(name)
    labels = model.confusion_chart  # type: ignore[attr-defined]
    finish = _finish(evaluate_best_labels if labels else evaluate_best)

    def flow(p: Any, plan: dsl.PipelineTask) -> Outputs:
        return swept(p, plan, finish)

    flow.__name__ = flow.__qualname__ = name
    flow.__doc__ = f"{model.__doc__} The trials share one import and one preparation of the data."
    return flow


@cache
def _made(name: str) -> Any:
    return pipeline(sweep_model(name), sweep_form(name))(flow_of(name))


def __getattr__(name: str) -> Any:
    if is_sweep(name):
        return _made(name)
    raise AttributeError(name)
