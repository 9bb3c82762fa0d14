"""The pipeline that answers prompts, without training."""

from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset

from pipelines.adapter_tools import planned_and_imported
from pipelines.components import generate, prepare_data, score
from pipelines.resources import named, on_cpu, on_gpu, uncached, with_endpoint_key, with_hub_token
from pipelines.signature import pipeline
from steps.params.pipelines.batch_inference import BatchInferenceParameters


class Outputs(NamedTuple):
    """Outputs of the pipeline."""

    plan: Artifact
    data: Dataset
    generations: Dataset
    report: HTML
    has_references: bool


@pipeline(BatchInferenceParameters)
def batch_inference(p: Any, plan: dsl.PipelineTask) -> Outputs:
    """Answer prompts with a model, its adapter or a server, and score the answers where the right ones are known."""
    base, adapter = planned_and_imported(p, plan)
    data = named(prepare_data(settings=plan.outputs["data"], tokenizer=base.outputs["tokenizer"]), "Prepare prompts")
    on_cpu(with_hub_token(data, p.huggingface_token_secret), plan, "prepare")
    answers = generate(
        settings=plan.outputs["generation"],
        model=base.outputs["base_model"],
        adapter=adapter.outputs["adapter"],
        data=data.outputs["data"],
    )
    on_gpu(with_endpoint_key(named(answers, "Generate answers"), p.endpoint_key_secret), plan, "generate")
    # Only prepare_data knows whether the rows have right answers; the gate is a component's single return value,
    # because kfp.local evaluates a condition on a named output as false without a message.
    with dsl.If(answers.outputs["Output"] == True, "If answers are known"):  # noqa: E712
        compared = score(settings=plan.outputs["scoring"], generations=answers.outputs["generations"])
        # Not from a cache: a local run reads the scores from what the step recorded.
        uncached(on_cpu(named(compared, "Score answers"), plan, "prepare"))
    return Outputs(
        plan=plan.outputs["plan"],
        data=data.outputs["data"],
        generations=answers.outputs["generations"],
        report=answers.outputs["generation_report"],
        has_references=answers.outputs["Output"],
    )
