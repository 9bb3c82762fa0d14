"""The settings of a training with verl: the parameters with everything resolved that they leave open."""

from typing import Any

from pydantic import Field

from steps.params.verl import VerlParams, VerlTraining

# What changes when verl saves and how its log is named, and no weight.
NO_RESULT = ("trainer_save_freq", "trainer_max_ckpt_to_keep", "resume", "project", "experiment")


class VerlSettings(VerlTraining):
    """For finetune with verl; rollout_name, trainer_n_gpus_per_node and trainer_nnodes are what is used."""

    images: bool = False
    """Whether prompts have images."""

    resume: str = "auto"
    """Continue with the newest checkpoint (auto), with none (disable), or with that of a folder global_step_<n>."""

    project: str = Field("finetune", min_length=1)
    """Name of the project in verl's log."""

    experiment: str = Field("verl", min_length=1)
    """Name of the run in verl's log."""

    @classmethod
    def resolved(cls, p: VerlParams, **found: Any) -> "VerlSettings":
        """Build the settings from parameters and from what only the plan knows: images, resume, project, experiment."""
        values = {name: getattr(p, name) for name in VerlTraining.model_fields}
        decided = {
            "rollout_name": p.rollout,
            "trainer_n_gpus_per_node": p.gpus_per_node,
            "trainer_nnodes": p.nodes,
        }
        return cls(**{**values, **decided, **found})
