"""The task graph of every pipeline that trains: one statement per task, in the order of the data flow.

`pipelines.supervised.chat_completion` and the other pipelines are created on first access, from the parameter model of
that name.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, get_type_hints

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Model

from pipelines.components import (
    evaluate,
    evaluate_labels,
    finetune,
    import_model,
    prepare_data,
    register_model,
    report,
)
from pipelines.resources import (
    SERVER,
    SERVER_OR_OFF,
    named,
    on_cpu,
    on_gpu,
    small,
    uncached,
    with_hub_token,
    with_tracking,
)
from pipelines.signature import pipeline
from steps.params.pipeline import SupervisedParameters
from steps.params.pipelines import PARAMETER_MODELS


class Outputs(NamedTuple):
    """Outputs of the pipeline."""

    plan: Artifact
    data: Dataset
    tuned: Model
    merged: Model
    evaluation_result: Artifact
    report: HTML
    passed: bool
    score: float


def outputs_with(**more: Any) -> Any:
    """Make the type of the outputs of a pipeline that has more than these, by name."""
    return NamedTuple("Outputs", [*get_type_hints(Outputs).items(), *more.items()])


def supervised(
    p: Any,
    plan: dsl.PipelineTask,
    evaluator: Any,
    judged: Callable[[dsl.PipelineTask], Any] = lambda task: task,
    trainer: Any = finetune,
) -> Outputs:
    """Plan, import, prepare, train, merge, evaluate, report; register the model if it passes the gate.

    `judged` adds what the tasks that train and evaluate need besides. `trainer` and `evaluator` are their components,
    whose tasks are named finetune and evaluate.
    """
    uncached(small(with_tracking(with_hub_token(plan, p.huggingface_token_secret), p.mlflow_config_map)))
    named(plan, "Plan and check")
    base = named(import_model(settings=plan.outputs["model"]), "Import model")
    on_cpu(with_tracking(with_hub_token(base, p.huggingface_token_secret), p.mlflow_config_map, SERVER), plan, "import")
    data = named(prepare_data(settings=plan.outputs["data"], tokenizer=base.outputs["tokenizer"]), "Prepare data")
    on_cpu(with_hub_token(data, p.huggingface_token_secret), plan, "prepare")
    tuned = trainer(settings=plan.outputs["training"], model=base.outputs["base_model"], data=data.outputs["data"])
    on_gpu(judged(with_tracking(named(tuned, "Train and merge"), p.mlflow_config_map)), plan, "finetune")
    verdict = evaluator(
        settings=plan.outputs["evaluation"],
        base=base.outputs["base_model"],
        tuned=tuned.outputs["tuned_model"],
        merged=tuned.outputs["merged_model"],
        data=data.outputs["data"],
    )
    on_gpu(judged(named(verdict, "Evaluate and compare")), plan, "evaluate")
    weights = {"tuned": tuned.outputs["tuned_model"], "merged": tuned.outputs["merged_model"]}
    page = report_and_register(
        verdict, plan.outputs["plan"], plan.outputs["registration"], plan.outputs["registers"], p.mlflow_config_map,
        **weights,
    )  # fmt: skip
    return Outputs(
        plan=plan.outputs["plan"],
        data=data.outputs["data"],
        **weights,
        evaluation_result=verdict.outputs["evaluation"],
        report=page,
        passed=verdict.outputs["Output"],
        score=verdict.outputs["score"],
    )


def report_and_register(
    verdict: dsl.PipelineTask, plan: Any, settings: Any, registers: Any, config_map: Any, tuned: Any, merged: Any
) -> Any:
    """Add the run's report, and the registration of a model that passed; return the page.

    `plan` is the artifact, `settings` those of register_model, `registers` whether the run wants it registered.
    """
    page = named(report(plan=plan, evaluation=verdict.outputs["evaluation"]), "Write run report")
    uncached(small(with_tracking(page, config_map, SERVER_OR_OFF)))
    # The gate must be the component's single return value: kfp.local evaluates a condition on a named output as false
    # without a message. It is a condition of its own: whether it was taken tells the gate's verdict, also of a run that
    # does not want the model registered.
    passed = dsl.If(verdict.outputs["Output"] == True, "Register if it passed")  # noqa: E712
    # Inside the first condition, the plan's named output is an input of its graph, which kfp.local does read.
    wanted = dsl.If(registers == True, "If registration is on")  # noqa: E712
    with passed, wanted:
        version = register_model(
            settings=settings,
            tuned=tuned,
            merged=merged,
            evaluation=verdict.outputs["evaluation"],
            report=page.outputs["run_report"],
        )
        uncached(small(with_tracking(named(version, "Register model"), config_map)))
    return page.outputs["run_report"]


@cache
def flow_of(name: str) -> Any:
    """Create the pipeline with this name; pipelines differ only in their parameter model."""
    model = PARAMETER_MODELS[name]
    assert issubclass(model, SupervisedParameters)

    def flow(p: Any, plan: dsl.PipelineTask) -> Outputs:
        return supervised(p, plan, evaluate_labels if model.confusion_chart else evaluate)

    flow.__name__ = flow.__qualname__ = name
    summary = (model.__doc__ or "").splitlines()[0]
    flow.__doc__ = f"{summary} Compare it with its base, and register it if it passes the gate."
    return pipeline(model)(flow)


def __getattr__(name: str) -> Any:
    if name in PARAMETER_MODELS:
        return flow_of(name)
    raise AttributeError(name)
