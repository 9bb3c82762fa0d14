"""Reward of a model for sequence classification, such as a reward model trained on preferences.

The model reads the prompt with the completion: as a conversation through its chat template if it has one and the rows
are conversations, otherwise as one text. It is loaded at the first use, on the GPU if there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

from pydantic import Field

from steps.errors import Problem, UserError, shown
from steps.params.group import Group
from steps.rewards.library import Function
from steps.rewards.texts import text_of

DIGITS = 4  # the last digits depend on what else is in a batch


class Options(Group):
    """The model, and what of it is the reward."""

    model: str = Field("", min_length=1)
    """Folder of the model, or its id on the Hugging Face Hub."""

    revision: str = ""
    """Branch, tag or commit of a model of the Hub; the plan of a training pins it. Empty: the newest."""

    label: str = ""
    """Class whose score is the reward; needed if the model has more than one output."""

    scale: Literal["score", "probability"] = "score"
    """The output itself, or a probability from 0 to 1."""

    batch_size: int = Field(8, ge=1)
    """Texts at a time."""

    max_length: int = Field(2048, ge=1)
    """Tokens that the model reads; longer texts lose their beginning."""


def columns(options: Options) -> tuple[str, ...]:
    """Return no column: only prompt and completion are read."""
    return ()


def reward(options: Options) -> Function:
    """Return the reward: the model's output, rounded to four digits. Its first call raises UserError."""
    known: dict[str, float] = {}

    def call(prompts: list[Any], completions: list[Any], **_: Any) -> list[float | None]:
        tokenizer, model = _loaded(options.model, options.revision or "main")
        index = _index(options, model)
        texts = [_joined(tokenizer, *pair) for pair in zip(prompts, completions, strict=True)]
        new = sorted({text for text in texts if text not in known}, key=lambda text: (len(text), text))
        if len(known) + len(new) > 100_000:
            known.clear()
            new = sorted(set(texts), key=lambda text: (len(text), text))
        for start in range(0, len(new), options.batch_size):
            batch = new[start : start + options.batch_size]
            known.update(zip(batch, _scores(tokenizer, model, batch, options, index), strict=True))
        return [known[text] for text in texts]

    return call


@cache
def _loaded(name: str, revision: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, truncation_side="left")
        model = AutoModelForSequenceClassification.from_pretrained(name, revision=revision, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0][:160]
        raise UserError(
            Problem("REWARD-E0216", "option model of reward_model", f"{shown(name)}: {reason}",
                    "a model for sequence classification with its tokenizer", "name its folder, or its id on the Hub")
        ) from error  # fmt: skip
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _index(options: Options, model: Any) -> int:
    """Return the number of the output that is the reward."""
    labels = {str(label): int(number) for label, number in model.config.label2id.items()}
    if options.label in labels:
        return labels[options.label]
    if model.config.num_labels == 1 and not options.label:
        return 0
    raise UserError(
        Problem("REWARD-E0228", "option label of reward_model", shown(options.label),
                f"one of the model's classes ({', '.join(labels)[:200]})", "name the class whose score is the reward")
    )  # fmt: skip


def _joined(tokenizer: Any, prompt: Any, completion: Any) -> str:
    """Return prompt and completion as the text that the model reads."""
    conversation = isinstance(prompt, list) and isinstance(completion, list)
    if conversation and tokenizer.chat_template:
        return str(tokenizer.apply_chat_template([*prompt, *completion], tokenize=False))
    mark = "\n" if conversation else ""
    return f"{text_of(prompt)}{mark}{text_of(completion)}"


def _scores(tokenizer: Any, model: Any, batch: list[str], options: Options, index: int) -> list[float]:
    import torch

    places = getattr(model.config.get_text_config(), "max_position_embeddings", None) or options.max_length
    longest = min(options.max_length, tokenizer.model_max_length, places)
    clean = [text.encode("utf-8", "replace").decode() or " " for text in batch]  # no model reads no token at all
    inputs = tokenizer(clean, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    inputs = {name: value.to(model.device) for name, value in inputs.items() if name != "token_type_ids"}
    with torch.inference_mode():
        logits = model(**inputs).logits.float()
    to_probability: Callable[[Any], Any] = torch.sigmoid if logits.shape[1] == 1 else lambda one: one.softmax(dim=1)
    values = to_probability(logits) if options.scale == "probability" else logits
    return [round(float(value), DIGITS) + 0.0 for value in values[:, index]]
