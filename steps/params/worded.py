"""Settings of steps whose messages name parameters as the pipeline does (`steps/params/wording.py`)."""

from pydantic import Field

from steps.params.group import Group


class Worded(Group):
    """For steps whose messages name parameters."""

    named_by: str = ""
    """Pipeline whose names messages have; empty for one with the usual names."""

    names: dict[str, str] = Field(default_factory=dict)
    """Further names that messages have: usual name → what the user set."""

    @property
    def names_told(self) -> dict[str, str]:
        """What messages say in place of the usual names."""
        return {**names_of(self.named_by), **self.names}


def names_of(pipeline: str) -> dict[str, str]:
    """Return what messages of a pipeline say in place of the usual names of parameters."""
    from steps.params.pipelines import PARAMETER_MODELS

    known = PARAMETER_MODELS.get(pipeline)
    return known.other_names() if known else {}


class OfPipeline(Group):
    """For steps that are told their pipeline in any case."""

    pipeline: str
    """Name of the pipeline, used to name checkpoints and tracked runs."""

    @property
    def names_told(self) -> dict[str, str]:
        """What messages say in place of the usual names."""
        return names_of(self.pipeline)
