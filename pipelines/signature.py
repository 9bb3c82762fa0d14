"""Builds from a parameter model the pipeline's signature, its plan component and the choices in the UI.

This file depends on three facts about the KFP SDK. A pipeline function can have a generated `__signature__`. A
lightweight component cannot, because KFP copies its source text to the pod; so the source of the plan component is
generated and registered with `linecache`, where `inspect` finds it. The SDK rejects `Literal` in annotations although
the compiled form has a field for it, so choices are added after compilation.
"""

import inspect
import linecache
import types
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from google.protobuf import struct_pb2
from kfp import dsl
from pydantic.fields import FieldInfo

from pipelines.images import CORE
from steps.params.pipeline import PipelineParameters
from steps.params.reading import choices_of, default_of

KFP_TYPES = (str, int, float, bool, dict, list)


def pipeline(
    model: type[PipelineParameters], component: Callable[[str, type[PipelineParameters]], Any] | None = None
) -> Callable:
    """Turn `def name(p, plan) -> Outputs` into a KFP pipeline whose inputs are the model's parameters.

    The function receives the parameters as attributes of `p`, and `plan`, the task that checks them.
    """

    def wrap(function: Callable) -> Any:
        signature = signature_of(model, inspect.signature(function).return_annotation)
        plan = (component or plan_component)(function.__name__, model)

        def flow(*args: Any, **kwargs: Any) -> Any:  # kfp passes the inputs by position
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return function(types.SimpleNamespace(**bound.arguments), plan(**bound.arguments))

        flow.__name__ = flow.__qualname__ = function.__name__
        flow.__module__ = function.__module__
        flow.__signature__ = signature  # type: ignore[attr-defined]
        flow.__doc__ = docstring_of(inspect.getdoc(function) or "", model)
        # A pipeline must not have the name of one of its components: kfp would load the component instead.
        made = dsl.pipeline(name=function.__name__.replace("_", "-"), description=(flow.__doc__ or "").split("\n")[0])(
            flow
        )
        made.parameter_model = model
        return made

    return wrap


def signature_of(model: type[PipelineParameters], returns: Any) -> inspect.Signature:
    """Build the signature that kfp reads: each parameter with a KFP type and a default."""
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter(name, keyword, default=default_of(field), annotation=kfp_type(field))
        for name, field in model.model_fields.items()
    ]
    return inspect.Signature(parameters, return_annotation=returns)


def docstring_of(summary: str, model: type[PipelineParameters]) -> str:
    """Write the docstring from which kfp parses the description of every parameter."""
    lines = [f"    {name}: {field.description}" for name, field in model.model_fields.items()]
    return "\n".join([summary, "", "Args:", *lines])


def plan_component(pipeline_name: str, model: type[PipelineParameters]) -> Any:
    """Generate the component that takes every parameter of a pipeline and returns the outputs of its plan."""
    inputs = "".join(f"    {name}: {kfp_type(field).__name__},\n" for name, field in model.model_fields.items())
    hints = get_type_hints(model.planned)
    outputs = "".join(f"        ('{name}', {(get_origin(kind) or kind).__name__}),\n" for name, kind in hints.items())
    source = PLAN_SOURCE.format(inputs=inputs, outputs=outputs, pipeline=pipeline_name)
    filename = f"<plan of {pipeline_name}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    names: dict[str, Any] = {}
    exec(compile(source, filename, "exec"), names)
    return dsl.component(names["plan"], base_image=CORE, install_kfp_package=False)


PLAN_SOURCE = """\
from typing import NamedTuple
from kfp.dsl import Artifact, HTML, Output

def plan(
    plan: Output[Artifact],
    report: Output[HTML],
{inputs}) -> NamedTuple(
    'Outputs',
    [
{outputs}    ],
):
    arguments = {{name: value for name, value in locals().items() if name not in ('plan', 'report')}}
    from steps.running import run_step

    return run_step('plan', pipeline='{pipeline}', arguments=arguments, plan=plan.path, report=report.path)
"""


def set_choices(made: Any, model: type[PipelineParameters], wanted: bool) -> None:
    """Add a drop-down for every closed choice if `wanted`, else remove all; KFP before 2.16 rejects drop-downs."""
    inputs = made.pipeline_spec.root.input_definitions.parameters
    for name, field in model.model_fields.items():
        literals = inputs[name].literals
        del literals[:]
        if wanted and (choices := choices_of(field)):
            literals.extend(struct_pb2.Value(string_value=choice) for choice in choices)


def kfp_type(field: FieldInfo) -> type:
    """Return the KFP parameter type of a field. Raises TypeError if KFP has none."""
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        kind = type(get_args(kind)[0])
    kind = get_origin(kind) or kind
    if kind not in KFP_TYPES:
        raise TypeError(f"{kind} is not a KFP parameter type: use one of {', '.join(t.__name__ for t in KFP_TYPES)}")
    return kind
