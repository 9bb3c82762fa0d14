"""The function of a pipeline's plan component, whose inputs are the parameters of the pipeline."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_origin, get_type_hints

from kfp.dsl import HTML, Artifact, Output

from pipelines.kfp_values import kfp_type, our_value
from steps.params.pipeline import PipelineParameters


def plan_function(
    pipeline_name: str, model: type[PipelineParameters], inputs: tuple[str, ...], fixed: Mapping[str, Any]
) -> Callable[..., Any]:
    """Return a function of the parameters in `inputs` and the places of the plan; `fixed` are values of others.

    It returns the outputs in `model.planned`.
    """

    def plan(plan: Any, plan_report: Any, **arguments: Any) -> Any:
        from steps.running import listed, run_step

        fields = model.model_fields
        given = {**fixed, **{name: our_value(fields[name], value) for name, value in arguments.items()}}
        made = run_step("plan", pipeline=pipeline_name, arguments=given, plan=plan.path, report=plan_report.path)
        plan.metadata |= listed(plan.path)
        return made

    types = {"plan": Output[Artifact], "plan_report": Output[HTML]}
    types |= {name: kfp_type(field) for name, field in model.model_fields.items() if name in inputs}
    outputs = [(name, get_origin(kind) or kind) for name, kind in get_type_hints(model.planned).items()]
    returns = NamedTuple("Outputs", outputs)  # type: ignore[misc]
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    taken = [inspect.Parameter(name, keyword, annotation=kind) for name, kind in types.items()]
    plan.__signature__ = inspect.Signature(taken, return_annotation=returns)  # type: ignore[attr-defined]
    plan.__annotations__ = {**types, "return": returns}
    return plan
