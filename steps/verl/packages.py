"""Packages that verl finds where it runs: what is missing for a training, and what verl is told because of it."""

from __future__ import annotations

from importlib.util import find_spec

from steps.errors import Problem, UserError
from steps.params.verl_settings import VerlSettings

ENGINES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt_llm"}
FLASH_ATTENTION = "flash_attn"
ATTENTION = "+actor_rollout_ref.model.override_config.attn_implementation"


def refuse_missing(settings: VerlSettings) -> None:
    """Raise UserError if verl would stop because a package is not installed, before anything is loaded."""
    problems = []
    engine = settings.rollout_name
    if find_spec(ENGINES[engine]) is None:
        problems.append(
            Problem("VERL-E0701", "ENGINE", f"{engine}, but the package {ENGINES[engine]} is missing",
                    f"{ENGINES[engine]} in the environment of finetune",
                    "use an engine that the image has, or name an image that has this one (images.verl of the profile)")
        )  # fmt: skip
    # verl 0.9.1 loads a critic with FlashAttention 2, whatever its configuration says (load_valuehead_model).
    if settings.with_critic and find_spec(FLASH_ATTENTION) is None:
        problems.append(
            Problem("VERL-E0702", "algorithm_adv_estimator", f"{settings.algorithm_adv_estimator}, which trains a "
                    f"critic, but the package {FLASH_ATTENTION} is missing", f"{FLASH_ATTENTION} in the environment of "
                    "finetune", "build the image with FLASH_ATTN (containers/README.md), or use an estimator without "
                    "a critic")
        )  # fmt: skip
    if problems:
        raise UserError(problems)


def attention() -> dict[str, str]:
    """Return the override that this environment needs: torch's attention where FlashAttention 2 is missing.

    verl asks for FlashAttention 2 if it is told nothing. With position ids that begin anew, transformers keeps the
    sequences of a batch without padding apart in torch's attention too, with a mask of its size squared.
    """
    return {ATTENTION: "sdpa"} if find_spec(FLASH_ATTENTION) is None else {}
