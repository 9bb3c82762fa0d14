"""Each step as a KFP component: typed inputs and outputs, and a body that calls the step.

KFP ships only the source of a component's function to its pod, where `steps` is installed in the image. So each body
imports what it needs and the work itself is in `steps/`.
"""

from functools import partial

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output, OutputPath

from pipelines.images import CORE, TRAIN

component = partial(dsl.component, install_kfp_package=False)


# In the large image, because it merges an adapter given with the model. Its node pulls it for merge_adapter anyway.
@component(base_image=TRAIN)
def import_model(settings: str, model: Output[Model], tokenizer: Output[Artifact]):
    from steps.running import run_step

    run_step("import-model", settings, model=model.path, tokenizer=tokenizer.path)


@component(base_image=CORE)
def import_adapter(settings: str, adapter: Output[Model]):
    from steps.running import run_step

    run_step("import-adapter", settings, adapter=adapter.path)


@component(base_image=TRAIN)
def adapter_tool(settings: str, base: Input[Model], adapter: Input[Model], result: Output[Model]):
    from steps.running import run_step

    run_step("adapter-tool", settings, base=base.path, adapter=adapter.path, result=result.path)


@component(base_image=CORE)
def prepare_data(settings: str, tokenizer: Input[Artifact], data: Output[Dataset], report: Output[HTML]):
    from steps.running import run_step

    run_step("prepare-data", settings, tokenizer=tokenizer.path, data=data.path, report=report.path)


@component(base_image=TRAIN)
def finetune(
    settings: str,
    model: Input[Model],
    data: Input[Dataset],
    tuned: Output[Model],
    checkpoints: Output[Artifact],
    report: Output[HTML],
):
    from steps.running import run_step

    run_step(
        "finetune",
        settings,
        model=model.path,
        data=data.path,
        tuned=tuned.path,
        checkpoints=checkpoints.path,
        report=report.path,
    )


@component(base_image=TRAIN)
def merge_adapter(base: Input[Model], tuned: Input[Model], merged: Output[Model]):
    from steps.running import run_step

    run_step("merge-adapter", base=base.path, adapter=tuned.path, output=merged.path)


@component(base_image=TRAIN)
def evaluate(
    settings: str,
    base: Input[Model],
    tuned: Input[Model],
    merged: Input[Model],
    data: Input[Dataset],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    report: Output[HTML],
    score: OutputPath(float),
) -> bool:
    import json
    from pathlib import Path

    from steps.running import run_step

    passed = run_step(
        "evaluate",
        settings,
        base=base.path,
        tuned=tuned.path,
        merged=merged.path,
        data=data.path,
        evaluation=evaluation.path,
        report=report.path,
    )
    measured = json.loads(Path(evaluation.path, "metrics.json").read_text())
    for which in ("base", "tuned"):
        for name, value in measured[which].items():
            metrics.log_metric(f"{which}_{name}", value)
    # kfp's local cache does not reuse a task if an artifact's file is missing, and kfp writes none for Metrics.
    Path(metrics.path).write_text(json.dumps(metrics.metadata))
    Path(score).write_text(str(measured["gate"]["tuned"]))
    return passed


@component(base_image=CORE)
def chart_labels(evaluation: Input[Artifact], classification: Output[ClassificationMetrics]):
    import json
    from pathlib import Path

    labels = json.loads(Path(evaluation.path, "metrics.json").read_text())["labels"]
    names, curves = labels["names"], labels.get("roc", {})
    if "confusion" in labels:
        classification.log_confusion_matrix(names, labels["confusion"]["counts"])
    if len(names) == 2 and names[1] in curves:  # the UI draws one curve: that of the positive label
        curve = curves[names[1]]
        classification.log_roc_curve(curve["fpr"], curve["tpr"], curve["threshold"])
    Path(classification.path).write_text(json.dumps(classification.metadata))  # for kfp's local cache, as above


@component(base_image=CORE)
def report(
    plan: Input[Artifact],
    data: Input[Dataset],
    tuned: Input[Model],
    evaluation: Input[Artifact],
    report: Output[HTML],
):
    from steps.running import run_step

    run_step("report", plan=plan.path, data=data.path, tuned=tuned.path, evaluation=evaluation.path, report=report.path)


@component(base_image=CORE)
def register_model(
    settings: str,
    base: Input[Model],
    tuned: Input[Model],
    merged: Input[Model],
    evaluation: Input[Artifact],
    report: Input[HTML],
    registration: Output[Artifact],
    registered_report: Output[HTML],
):
    from steps.running import run_step

    run_step(
        "register-model",
        settings,
        base=base.path,
        tuned=tuned.path,
        merged=merged.path,
        evaluation=evaluation.path,
        tuned_uri=tuned.uri,
        merged_uri=merged.uri,
        registration=registration.path,
        report=report.path,
        registered_report=registered_report.path,
    )
