"""Each step as a KFP component: typed inputs and outputs, and a body that calls the step.

The images hold this file, and their pods load the bodies from it (`in_pod.py`). `steps` is imported in the bodies: to
compile a pipeline it is not needed.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output, OutputPath

from pipelines.images import CORE, TRAIN, VERL
from pipelines.in_pod import AT_RUN_TIME, command_of


def as_component(function: Callable[..., Any], image: str, *source: str) -> Any:
    """Make a KFP component that runs `function`, and has its name; `source` tells `function_of` where it is."""
    made: Any = dsl.component(function, base_image=image, install_kfp_package=False)
    made.component_spec.implementation.container.command = command_of(*source)
    return made


def component(image: str, name: str = "") -> Callable[[Callable[..., Any]], Any]:
    """Make a component of a function of this module that runs in `image`; `name` is the task's if it differs.

    In a pod the function stays as it is.
    """

    def made(function: Callable[..., Any]) -> Any:
        if os.environ.get(AT_RUN_TIME) == "true":
            return function
        source = function.__name__
        function.__name__ = name or source
        return as_component(function, image, source)

    return made


# In the large image, because it merges an adapter given with the model.
@component(TRAIN)
def import_model(settings: str, base_model: Output[Model], tokenizer: Output[Artifact]):
    from steps.running import listed, run_step

    run_step("import-model", settings, model=base_model.path, tokenizer=tokenizer.path)
    base_model.metadata |= listed(base_model.path)


@component(CORE)
def import_adapter(settings: str, adapter: Output[Model]):
    from steps.running import listed, run_step

    run_step("import-adapter", settings, adapter=adapter.path)
    adapter.metadata |= listed(adapter.path)


@component(TRAIN)
def adapter_tool(settings: str, base: Input[Model], adapter: Input[Model], result: Output[Model]):
    from steps.running import listed, run_step

    run_step("adapter-tool", settings, base=base.path, adapter=adapter.path, result=result.path)
    result.metadata |= listed(result.path, base.path)


@component(CORE)
def prepare_data(settings: str, tokenizer: Input[Artifact], data: Output[Dataset], data_report: Output[HTML]):
    from steps.running import listed, run_step

    run_step("prepare-data", settings, tokenizer=tokenizer.path, data=data.path, report=data_report.path)
    data.metadata |= listed(data.path)


@component(TRAIN)
def finetune(
    settings: str,
    model: Input[Model],
    data: Input[Dataset],
    tuned_model: Output[Model],
    merged_model: Output[Model],
    training_report: Output[HTML],
):
    _finetuned(settings, model.path, data.path, tuned_model, merged_model, training_report)


@component(VERL, name="finetune")
def finetune_verl(
    settings: str,
    model: Input[Model],
    data: Input[Dataset],
    tuned_model: Output[Model],
    merged_model: Output[Model],
    training_report: Output[HTML],
):
    _finetuned(settings, model.path, data.path, tuned_model, merged_model, training_report)


def _finetuned(settings, model, data, tuned_model, merged_model, training_report):
    from steps.running import listed, run_step

    run_step(
        "finetune",
        settings,
        model=model,
        data=data,
        tuned=tuned_model.path,
        checkpoints=None,  # no output of their own: those that are kept are in the tuned model's folder
        report=training_report.path,
        merged=merged_model.path,
    )
    tuned_model.metadata |= listed(tuned_model.path, model)
    merged_model.metadata |= listed(merged_model.path)


@component(TRAIN)
def evaluate(
    settings: str,
    base: Input[Model],
    tuned: Input[Model],
    merged: Input[Model],
    data: Input[Dataset],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    score: OutputPath(float),
) -> bool:
    return _evaluated(settings, base.path, tuned, merged, data.path, evaluation, metrics, score)


@component(TRAIN, name="evaluate")
def evaluate_labels(
    settings: str,
    base: Input[Model],
    tuned: Input[Model],
    merged: Input[Model],
    data: Input[Dataset],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    classification: Output[ClassificationMetrics],
    score: OutputPath(float),
) -> bool:
    passed = _evaluated(settings, base.path, tuned, merged, data.path, evaluation, metrics, score)
    return _charted(passed, evaluation, classification)


def _charted(passed, evaluation, classification):
    """Write the confusion matrix and the ROC curve."""
    labels = json.loads(Path(evaluation.path, "metrics.json").read_text())["labels"]
    names, curves = labels["names"], labels.get("roc", {})
    if "confusion" in labels:
        classification.log_confusion_matrix(names, labels["confusion"]["counts"])
    if len(names) == 2 and names[1] in curves:  # the UI draws one curve: that of the positive label
        curve = curves[names[1]]
        classification.log_roc_curve(curve["fpr"], curve["tpr"], curve["threshold"])
    Path(classification.path).write_text(json.dumps(classification.metadata))  # for kfp's local cache, as below
    return passed


def _evaluated(settings, base, tuned, merged, data, evaluation, metrics, score):
    from steps.running import few_metrics, listed, run_step

    passed = run_step(
        "evaluate",
        settings,
        base=base,
        tuned=tuned.path,
        merged=merged.path,
        data=data,
        evaluation=evaluation.path,
    )
    measured = json.loads(Path(evaluation.path, "metrics.json").read_text())
    evaluation.metadata |= listed(evaluation.path)
    for name, value in few_metrics(measured).items():
        metrics.log_metric(name, value)
    # kfp's local cache does not reuse a task if an artifact's file is missing, and kfp writes none for Metrics.
    Path(metrics.path).write_text(json.dumps(metrics.metadata))
    Path(score).write_text(str(measured["gate"]["tuned"]))
    return passed


@component(CORE)
def report(plan: Input[Artifact], evaluation: Input[Artifact], run_report: Output[HTML]):
    from steps.running import run_step

    run_step("report", plan=plan.path, evaluation=evaluation.path, report=run_report.path)


@component(CORE)
def register_model(
    settings: str,
    tuned: Input[Model],
    merged: Input[Model],
    evaluation: Input[Artifact],
    report: Input[HTML],
    registration: Output[Artifact],
):
    from steps.running import listed, run_step

    run_step(
        "register-model",
        settings,
        tuned=tuned.path,
        merged=merged.path,
        evaluation=evaluation.path,
        tuned_uri=tuned.uri,
        merged_uri=merged.uri,
        registration=registration.path,
        report=report.path,
    )
    registration.metadata |= listed(registration.path)


@component(CORE)
def package_model(
    settings: str, tuned: Input[Model], merged: Input[Model], evaluation: Input[Artifact], mlflow_model: Output[Model]
):
    from steps.running import listed, run_step

    run_step(
        "package-model",
        settings,
        tuned=tuned.path,
        merged=merged.path,
        evaluation=evaluation.path,
        mlflow_model=mlflow_model.path,
        tuned_uri=tuned.uri,
        merged_uri=merged.uri,
    )
    mlflow_model.metadata |= listed(mlflow_model.path)


@component(TRAIN)
def generate(
    settings: str,
    model: Input[Model],
    adapter: Input[Model],
    data: Input[Dataset],
    generations: Output[Dataset],
    generation_report: Output[HTML],
) -> bool:
    from steps.running import given, has_references, listed, run_step

    run_step(
        "generate",
        settings,
        model=given(model.path),
        data=data.path,
        generations=generations.path,
        report=generation_report.path,
        adapter=given(adapter.path),
    )
    generations.metadata |= listed(generations.path, model.path)
    return has_references(data.path)


@component(CORE)
def score(
    settings: str,
    generations: Input[Dataset],
    scores: Output[Artifact],
    metrics: Output[Metrics],
    score_report: Output[HTML],
):
    from steps.running import listed, run_step, some_metrics

    measured = run_step("score", settings, generations=generations.path, scores=scores.path, report=score_report.path)
    scores.metadata |= listed(scores.path)
    for name, value in some_metrics(measured).items():
        metrics.log_metric(name, value)
    Path(metrics.path).write_text(json.dumps(metrics.metadata))  # for kfp's local cache, as above


# The tasks of a sweep. Models and data that trials share are numbered folders of one artifact.
@component(TRAIN)
def import_models(settings: str, base_models: Output[Model], tokenizers: Output[Artifact]):
    from steps.params.sweep import MODEL
    from steps.running import listed, run_step

    for place, one in enumerate(json.loads(settings)):
        own = MODEL.format(place)
        run_step("import-model", one, model=f"{base_models.path}/{own}", tokenizer=f"{tokenizers.path}/{own}")
    base_models.metadata |= listed(f"{base_models.path}/{MODEL.format(0)}")


@component(CORE)
def prepare_all(settings: str, tokenizers: Input[Artifact], data: Output[Dataset], data_report: Output[HTML]):
    from steps.params.sweep import DATA, MODEL
    from steps.running import listed, run_step

    for place, (model, one) in enumerate(json.loads(settings)):
        own = f"{data.path}/{DATA.format(place)}"
        page = data_report.path if place == 0 else f"{own}.html"
        run_step("prepare-data", one, tokenizer=f"{tokenizers.path}/{MODEL.format(model)}", data=own, report=page)
    data.metadata |= listed(f"{data.path}/{DATA.format(0)}")


@component(TRAIN)
def trial(
    settings: str,
    base_models: Input[Model],
    data: Input[Dataset],
    tuned_model: Output[Model],
    measured: Output[Artifact],
) -> str:
    from steps.running import listed, run_step

    result = run_step(
        "trial",
        settings,
        models=base_models.path,
        data=data.path,
        tuned=tuned_model.path,
        measured=measured.path,
        report=f"{tuned_model.path}.html",  # no output of its own: the sweep's report has the curves of all trials
        tuned_uri=tuned_model.uri,
    )
    tuned_model.metadata |= listed(tuned_model.path)
    measured.metadata |= listed(measured.path)
    return result


@component(CORE)
def choose_trial(
    results: list,
    plan: Input[Artifact],
    chosen_plan: Output[Artifact],
    sweep: Output[Artifact],
    sweep_report: Output[HTML],
) -> NamedTuple("Choice", [(name, str) for name in ("evaluation", "registration", "tuned_uri", "model", "data")]):
    from steps.running import listed, run_step

    chosen = run_step(
        "choose-trial",
        results=results,
        plan=Path(plan.path),
        chosen_plan=chosen_plan.path,
        sweep=sweep.path,
        report=sweep_report.path,
    )
    sweep.metadata |= listed(sweep.path)
    return chosen


@component(TRAIN)
def evaluate_best(
    settings: str,
    model: str,
    rows: str,
    base_models: Input[Model],
    tuned: Input[Model],
    data: Input[Dataset],
    merged_model: Output[Model],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    score: OutputPath(float),
) -> bool:
    from steps.params.sweep import DATA, MODEL

    base, own = f"{base_models.path}/{MODEL.format(model)}", f"{data.path}/{DATA.format(rows)}"
    _merged(base, tuned, merged_model)
    return _evaluated(settings, base, tuned, merged_model, own, evaluation, metrics, score)


@component(TRAIN, name="evaluate_best")
def evaluate_best_labels(
    settings: str,
    model: str,
    rows: str,
    base_models: Input[Model],
    tuned: Input[Model],
    data: Input[Dataset],
    merged_model: Output[Model],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    classification: Output[ClassificationMetrics],
    score: OutputPath(float),
) -> bool:
    from steps.params.sweep import DATA, MODEL

    base, own = f"{base_models.path}/{MODEL.format(model)}", f"{data.path}/{DATA.format(rows)}"
    _merged(base, tuned, merged_model)
    passed = _evaluated(settings, base, tuned, merged_model, own, evaluation, metrics, score)
    return _charted(passed, evaluation, classification)


def _merged(base, tuned, merged_model):
    from steps.running import listed, run_step

    run_step("merge-adapter", base=base, adapter=tuned.path, output=merged_model.path)
    merged_model.metadata |= listed(merged_model.path)
