"""Values shared by all methods that learn from rewards of answers that the model writes itself during training."""

from __future__ import annotations

from typing import Any

_WRITTEN = "the answers are written during training, and prompt tokens never have loss"

REWARDS: dict[str, Any] = {
    "kinds": ("causal_lm", "image_text_lm"),
    "writer": "steps.prepare_data.write.rewarded",
    "evaluator": "steps.evaluate.rewarded:compare",
    "report": ("rewards", "steps.reports.reward_facts:reward_facts"),
    "rated": False,
    "rewarded": True,
    "sums_losses": False,
    "asks_reference": False,
    "answers_per_row": 1,
    "whole_logits": False,
    "pads_to_max_length": False,
    "best_metrics": True,
    "takes_new_tokens": False,
    "takes_prompts": False,
    "unfit": {
        "packing": "each completion has a reward of its own",
        "train_on_completions_only": _WRITTEN,
        "response_template": _WRITTEN,
        "instruction_template": _WRITTEN,
        "comma_separated_template": _WRITTEN,
        "auto_find_batch_size": "completions are compared within groups, which a batch holds whole",
        "evaluation_max_new_tokens": "max_completion_length sets the length, also in the evaluation",
        "pad_to_max_length": "completions are padded to the longest of their batch",
        "lora_dropout": "dropout is disabled, because the loss compares probabilities before and after an update",
        "neftune_noise_alpha": "noise would change the probabilities that are compared before and after an update",
        "max_seq_length": "max_prompt_length and max_completion_length set the lengths",
    },
}
