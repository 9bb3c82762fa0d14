"""The pipeline that checks, merges or converts a finished adapter, without training."""

from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Model

from pipelines.components import adapter_tool, import_adapter, import_model
from pipelines.resources import SERVER, named, on_cpu, small, uncached, with_hub_token, with_tracking
from pipelines.signature import pipeline
from steps.params.pipelines.adapter_tools import AdapterToolsParameters


class Outputs(NamedTuple):
    """Outputs of the pipeline."""

    plan: Artifact
    result: Model


def planned_and_imported(p: Any, plan: dsl.PipelineTask) -> tuple[dsl.PipelineTask, dsl.PipelineTask]:
    """Plan, and import the base model and its adapter; return the tasks of the two."""
    uncached(small(with_tracking(with_hub_token(plan, p.huggingface_token_secret), p.mlflow_config_map)))
    named(plan, "Plan and check")
    base = named(import_model(settings=plan.outputs["model"]), "Import model")
    on_cpu(with_tracking(with_hub_token(base, p.huggingface_token_secret), p.mlflow_config_map, SERVER), plan, "import")
    adapter = named(import_adapter(settings=plan.outputs["adapter"]), "Import adapter")
    on_cpu(with_hub_token(adapter, p.huggingface_token_secret), plan, "import")
    return base, adapter


@pipeline(AdapterToolsParameters)
def adapter_tools(p: Any, plan: dsl.PipelineTask) -> Outputs:
    """Merge an adapter, prepare it for vLLM, rename tokens, or check whether it fits a base model."""
    base, adapter = planned_and_imported(p, plan)
    made = adapter_tool(
        settings=plan.outputs["tool"], base=base.outputs["base_model"], adapter=adapter.outputs["adapter"]
    )
    on_cpu(named(made, "Run the tool"), plan, "import")
    return Outputs(plan=plan.outputs["plan"], result=made.outputs["result"])
