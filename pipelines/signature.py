"""Generates a pipeline's signature, its plan component and the UI's choices from its parameter model.

Functions of pipelines and components can have a generated `__signature__`: of a component KFP would ship the source
text, which has none, but ours are loaded from the image (`in_pod.py`). KFP rejects `Literal` in annotations although
the compiled form has a field for choices, so they are added to the compiled form.
"""

import contextlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from google.protobuf import struct_pb2
from kfp import dsl
from kfp.dsl import pipeline_task

from pipelines.components import as_component
from pipelines.form import Form
from pipelines.images import CORE
from pipelines.kfp_values import kfp_choices, kfp_type, kfp_value
from pipelines.plan_function import plan_function
from steps.params.pipeline import PipelineParameters
from steps.params.reading import defaults
from steps.wire import dump


def pipeline(model: type[PipelineParameters], form: Form | None = None) -> Callable:
    """Turn `def name(p, plan) -> Outputs` into a KFP pipeline whose inputs are the model's parameters, or its form's.

    The function gets the parameters as attributes of `p`, and the task that checks them as `plan`.
    """

    def wrap(function: Callable) -> Any:
        inputs, fixed = (form.inputs, form.fixed) if form else (tuple(model.model_fields), {})
        usual = {**defaults(model), **fixed}
        signature = signature_of(model, inspect.signature(function).return_annotation, {n: usual[n] for n in inputs})
        plan = plan_component(function.__name__, model, inputs, {n: v for n, v in fixed.items() if n not in inputs})

        def flow(*args: Any, **kwargs: Any) -> Any:  # kfp passes the inputs by position
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return function(types.SimpleNamespace(**{**usual, **bound.arguments}), plan(**bound.arguments))

        flow.__name__ = flow.__qualname__ = form.name if form else function.__name__
        flow.__module__ = function.__module__
        flow.__signature__ = signature  # type: ignore[attr-defined]
        summary = inspect.getdoc(function) or ""
        flow.__doc__ = docstring_of(summary, model)
        # A pipeline must not have the name of one of its components: kfp would load the component instead.
        named = dsl.pipeline(
            name=flow.__name__.replace("_", "-"),
            description=description_of(summary, function.__name__, model, inputs, fixed),
            display_name=flow.__name__.replace("_", " ").capitalize(),
        )
        with _quick_stack():
            made = named(flow)
        _drop_undeclared_inputs(made.pipeline_spec)
        made.parameter_model, made.flow = model, function
        return made

    return wrap


def _drop_undeclared_inputs(spec: Any) -> None:
    """Remove inputs of tasks that their component does not declare, and that hold no value of the plan.

    For every resource that is set at run time, kfp (2.17.0) adds an input such as cpu_limit with the text of a
    placeholder. The driver reads the plan's value, and the user interface shows the placeholder.
    """
    for dag in (spec.root.dag, *(component.dag for component in spec.components.values())):
        for task in dag.tasks.values():
            declared = spec.components[task.component_ref.name].input_definitions.parameters
            for name in set(task.inputs.parameters) - set(declared):
                if not name.startswith("pipelinechannel--"):
                    del task.inputs.parameters[name]


@contextlib.contextmanager
def _quick_stack() -> Iterator[None]:
    """Replace `inspect.stack` in kfp by one that does not read the source lines of the whole call stack.

    kfp (2.17.0) evaluates `inspect.stack()[1][3]` at every setting of every task, for an error message that is rarely
    raised. It costs a quarter of a second per pipeline, and eight seconds when thousands of modules are loaded.
    """

    def stack() -> list[tuple[Any, ...]]:
        called = sys._getframe(1)
        frames = [called, *([called.f_back] if called.f_back else [])]
        return [(frame, frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name) for frame in frames]

    usual = pipeline_task.inspect
    pipeline_task.inspect = types.SimpleNamespace(stack=stack)
    try:
        yield
    finally:
        pipeline_task.inspect = usual


def signature_of(
    model: type[PipelineParameters], returns: Any, inputs: Mapping[str, Any] | None = None
) -> inspect.Signature:
    """Return the signature that kfp reads: plain types, and a default for every input (name → default; None: all)."""
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    usual = defaults(model) if inputs is None else inputs
    parameters = [
        inspect.Parameter(name, keyword, default=kfp_value(field, usual[name]), annotation=kfp_type(field))
        for name, field in model.model_fields.items()
        if name in usual
    ]
    return inspect.Signature(parameters, return_annotation=returns)


def description_of(
    summary: str, name: str, model: type[PipelineParameters], inputs: tuple[str, ...], fixed: Mapping[str, Any]
) -> str:
    """Return the description of a compiled pipeline, for people who fill in its form: that describes no input."""
    fields = set(model.model_fields)
    missing = [group for group in model.needed if not any(fixed.get(key) for key in group)]
    needed = [[key for key in group if key in inputs] for group in missing]
    told = [summary]
    if needed and all(needed):
        told.append(f"Give {' and '.join(f'one of {_either(group)}' if group[1:] else group[0] for group in needed)}.")
    if len(inputs) == len(fields):
        told.append("Every other input has a default.")
    else:
        told.append(f"This form of {name} has {len(inputs)} inputs; overrides takes every other parameter, as JSON.")
    return " ".join(told)


def _either(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def docstring_of(summary: str, model: type[PipelineParameters]) -> str:
    """Return a docstring in the format from which kfp copies parameter descriptions into the YAML."""
    lines = [f"    {name}: {field.description}" for name, field in model.model_fields.items()]
    return "\n".join([summary, "", "Args:", *lines])


def plan_component(
    pipeline_name: str, model: type[PipelineParameters], inputs: tuple[str, ...], fixed: Mapping[str, Any]
) -> Any:
    """Return the component that takes parameters of a pipeline and returns the outputs in `model.planned`."""
    baked = [dump(fixed)] if fixed else []
    return as_component(plan_function(pipeline_name, model, inputs, fixed), CORE, "plan", pipeline_name, *baked)


def set_choices(made: Any, model: type[PipelineParameters], wanted: bool) -> None:
    """Add the UI's drop-downs for all closed choices and booleans, or remove them: backends before 2.16 reject them."""
    inputs = made.pipeline_spec.root.input_definitions.parameters
    for name, field in model.model_fields.items():
        if name not in inputs:
            continue
        literals = inputs[name].literals
        del literals[:]
        for choice in kfp_choices(field) if wanted else ():
            literals.add().CopyFrom(_as_value(choice))


def _as_value(choice: Any) -> struct_pb2.Value:
    if isinstance(choice, bool):
        return struct_pb2.Value(bool_value=choice)
    return struct_pb2.Value(number_value=choice) if isinstance(choice, int) else struct_pb2.Value(string_value=choice)
