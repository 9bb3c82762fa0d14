"""Settings of steps whose messages name parameters as the pipeline does (`steps/params/wording.py`).

Of two names that a parameter has in one pipeline, the plan tells the one that was set, and later steps the usual one:
settings with the name would be others for each spelling, and their tasks would not be found in the cache.
"""

from steps.params.group import Group


class Worded(Group):
    """For steps whose messages name parameters."""

    named_by: str = ""
    """Pipeline whose names messages have; empty for one with the usual names."""

    @property
    def names_told(self) -> dict[str, str]:
        """What messages say in place of the usual names."""
        return names_of(self.named_by)


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
