"""The task graph of training with verl: that of every training, with the training in verl's own image."""

from typing import Any

from kfp import dsl
from kfp.dsl import Model

from pipelines.components import evaluate, finetune_verl
from pipelines.resources import with_hub_token
from pipelines.signature import pipeline
from pipelines.supervised import outputs_with, supervised
from steps.params.pipelines.verl_finetune import VerlFinetuneParameters

Outputs = outputs_with(model_output=Model)  # named as those of Azure's component


@pipeline(VerlFinetuneParameters)
def verl_finetune(p: Any, plan: dsl.PipelineTask) -> Outputs:  # type: ignore[valid-type]
    """Train a chat model with verl, compare it with its base, register it if it passes the gate."""
    made = supervised(
        p, plan, evaluate, trainer=finetune_verl, judged=lambda task: with_hub_token(task, p.huggingface_token_secret)
    )
    return Outputs(**made._asdict(), model_output=made.merged)
