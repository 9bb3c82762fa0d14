"""Parameters that are declared but whose engine does not exist yet: set away from the default, they are refused."""

from collections.abc import Iterator

from steps.errors import Problem, shown
from steps.params.pipelines import SupervisedParameters

# Parameter → what to do instead. A row goes when its engine is built.
UNBUILT = {
    "num_nodes_finetune": "use one node",
}


def unbuilt(parameters: SupervisedParameters) -> Iterator[Problem]:
    """Refuse what would otherwise be ignored."""
    for name, instead in UNBUILT.items():
        value = getattr(parameters, name)
        default = type(parameters).model_fields[name].default
        if value != default:
            yield Problem(
                "PLAN-E0101", name, shown(value), f"{default!r}: nothing else is implemented in this version", instead
            )
    if parameters.number_of_gpu_to_use_finetuning > 1:
        yield Problem(
            "PLAN-E0101",
            "number_of_gpu_to_use_finetuning",
            str(parameters.number_of_gpu_to_use_finetuning),
            "0 or 1: training on several GPUs is not implemented in this version",
            "use one GPU with a larger gradient_accumulation_steps",
        )
