"""The task graph of training with verl: that of every training, with the training in verl's own image."""

from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Model

from pipelines.components import evaluate, finetune_verl
from pipelines.resources import with_hub_token
from pipelines.signature import pipeline
from pipelines.supervised import supervised
from steps.params.pipelines.verl_finetune import VerlFinetuneParameters


class Outputs(NamedTuple):
    """Outputs of the pipeline; the last one has the name of Azure's component."""

    plan: Artifact
    data: Dataset
    tuned: Model
    merged: Model
    evaluation_result: Artifact
    report: HTML
    passed: bool
    score: float
    model_output: Model


@pipeline(VerlFinetuneParameters)
def verl_finetune(p: Any, plan: dsl.PipelineTask) -> Outputs:
    """Train a chat model with verl, compare it with its base, register it if it passes the gate."""
    made = supervised(
        p, plan, evaluate, trainer=finetune_verl, judged=lambda task: with_hub_token(task, p.huggingface_token_secret)
    )
    return Outputs(**made._asdict(), model_output=made.merged)
