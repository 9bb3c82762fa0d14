"""The flow of every supervised pipeline: one line per task, in the order of the data."""

from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Model

from pipelines.components import (
    chart_labels,
    evaluate,
    finetune,
    import_model,
    merge_adapter,
    prepare_data,
    register_model,
    report,
)
from pipelines.resources import on_cpu, on_gpu, small, uncached, with_hub_token, with_tracking
from pipelines.signature import pipeline
from steps.params.pipelines import (
    ChatCompletionParameters,
    PreferenceParameters,
    PretrainingParameters,
    QuestionAnsweringParameters,
    SummarizationParameters,
    TextClassificationParameters,
    TextGenerationParameters,
    TokenClassificationParameters,
    TranslationParameters,
)


class Outputs(NamedTuple):
    """What a run leaves behind."""

    plan: Artifact
    data: Dataset
    tuned: Model
    merged: Model
    evaluation_result: Artifact
    report: HTML
    passed: bool
    score: float


def supervised(p: Any, plan: dsl.PipelineTask) -> Any:
    """Plan, import, prepare, tune, merge, evaluate, report; register what passes the gate."""
    uncached(small(with_tracking(with_hub_token(plan, p.huggingface_token_secret), p.mlflow_config_map)))
    base = import_model(settings=plan.outputs["model"])
    on_cpu(with_hub_token(base, p.huggingface_token_secret), plan, "import")
    data = prepare_data(settings=plan.outputs["data"], tokenizer=base.outputs["tokenizer"])
    on_cpu(data, plan, "prepare")
    tuned = finetune(settings=plan.outputs["training"], model=base.outputs["model"], data=data.outputs["data"])
    on_gpu(with_tracking(tuned, p.mlflow_config_map), plan, "finetune")
    merged = merge_adapter(base=base.outputs["model"], tuned=tuned.outputs["tuned"])
    on_cpu(merged, plan, "import")
    verdict = evaluate(
        settings=plan.outputs["evaluation"],
        base=base.outputs["model"],
        tuned=tuned.outputs["tuned"],
        merged=merged.outputs["merged"],
        data=data.outputs["data"],
    )
    on_gpu(verdict, plan, "evaluate")
    page = report(
        plan=plan.outputs["plan"],
        data=data.outputs["data"],
        tuned=tuned.outputs["tuned"],
        evaluation=verdict.outputs["evaluation"],
    )
    uncached(small(page))
    # The gate is the component's single return value: a condition on a named output is silently false in kfp.local.
    with dsl.If(verdict.outputs["Output"] == True, "passed the gate"):  # noqa: E712
        version = register_model(
            settings=plan.outputs["registration"],
            base=base.outputs["model"],
            tuned=tuned.outputs["tuned"],
            merged=merged.outputs["merged"],
            evaluation=verdict.outputs["evaluation"],
        )
        uncached(small(with_tracking(version, p.mlflow_config_map)))
    return Outputs(
        plan=plan.outputs["plan"],
        data=data.outputs["data"],
        tuned=tuned.outputs["tuned"],
        merged=merged.outputs["merged"],
        evaluation_result=verdict.outputs["evaluation"],
        report=page.outputs["report"],
        passed=verdict.outputs["Output"],
        score=verdict.outputs["score"],
    )


@pipeline(ChatCompletionParameters)
def chat_completion(p: Any, plan: dsl.PipelineTask) -> Outputs:
    """Tune a chat model on conversations and register it when it beats its base."""
    return supervised(p, plan)


@pipeline(TextGenerationParameters)
def text_generation(p: Any, plan: dsl.PipelineTask) -> Outputs:
    """Tune a language model on texts or prompts with answers and register it when it beats its base."""
    return supervised(p, plan)


@pipeline(PretrainingParameters)
def pretraining(p: Any, plan: dsl.PipelineTask) -> Outputs:
    """Let a language model go on learning from plain texts and register it when it knows them better than its base."""
    return supervised(p, plan)


@pipeline(SummarizationParameters)
def summarization(p: Any, plan: dsl.PipelineTask) -> Outputs:
    """Tune a language model to sum up documents and register it when it beats its base."""
    return supervised(p, plan)


@pipeline(TranslationParameters)
def translation(p: Any, plan: dsl.PipelineTask) -> Outputs:
    """Tune a language model to translate texts and register it when it beats its base."""
    return supervised(p, plan)


@pipeline(TextClassificationParameters)
def text_classification(p: Any, plan: dsl.PipelineTask) -> Outputs:
    """Tune a model to give texts their class and register it when it beats the most frequent class."""
    outputs = supervised(p, plan)
    small(chart_labels(evaluation=outputs.evaluation_result))
    return outputs


@pipeline(TokenClassificationParameters)
def token_classification(p: Any, plan: dsl.PipelineTask) -> Outputs:
    """Tune a model to tag words and register it when it beats the most frequent tag of each word."""
    return supervised(p, plan)


@pipeline(QuestionAnsweringParameters)
def question_answering(p: Any, plan: dsl.PipelineTask) -> Outputs:
    """Tune a model to find answers in texts and register it when it beats one that never answers."""
    return supervised(p, plan)


@pipeline(PreferenceParameters)
def preference(p: Any, plan: dsl.PipelineTask) -> Outputs:
    """Tune a chat model on what people prefer and register it when it tells good answers from bad ones."""
    return supervised(p, plan)
