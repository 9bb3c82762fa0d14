"""The task graph of training with rewards: that of every training, and the model in MLflow's format."""

from typing import Any

from kfp import dsl
from kfp.dsl import Model

from pipelines.components import evaluate, package_model
from pipelines.resources import named, small, with_hub_token
from pipelines.signature import pipeline
from pipelines.supervised import outputs_with, supervised
from steps.params.pipelines.grpo_chat_completion import GrpoChatCompletionParameters

Outputs = outputs_with(output_model_path=Model, mlflow_model_folder=Model)  # named as those of Azure's component


@pipeline(GrpoChatCompletionParameters)
def grpo_chat_completion(p: Any, plan: dsl.PipelineTask) -> Outputs:  # type: ignore[valid-type]
    """Train a chat model with rewards of its own answers, compare it with its base, register it if it passes."""
    made = supervised(p, plan, evaluate, judged=lambda task: with_hub_token(task, p.huggingface_token_secret))
    # Outside of the conditions of the gate, because an output of a task that may not run is no output of a pipeline.
    package = package_model(
        settings=plan.outputs["registration"], tuned=made.tuned, merged=made.merged, evaluation=made.evaluation_result
    )
    small(named(package, "Write MLflow model"))
    return Outputs(
        **made._asdict(), output_model_path=made.tuned, mlflow_model_folder=package.outputs["mlflow_model"]
    )  # fmt: skip
