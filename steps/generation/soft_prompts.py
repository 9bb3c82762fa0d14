"""Models with an adapter beside their weights, such as a learned prompt: vectors before the text of every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from steps.adapters.layout import kept_adapter_of
from steps.errors import Problem, UserError
from steps.models.layout import refuse_unsafe_weights


def with_kept_adapter(model: Any, folder: Path) -> Any:
    """Add the adapter to a model that was loaded from `folder`, if the folder has one that cannot be merged."""
    own = kept_adapter_of(folder)
    if own is None:
        return model
    return with_adapter(model, own)


def with_adapter(model: Any, adapter: Path) -> Any:
    """Add an adapter beside the model's weights, without merging.

    Raises UserError if it was trained on a model of another shape, SecurityRefusal if it is pickled.
    """
    refuse_unsafe_weights(adapter)
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(adapter))
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise UserError(
            Problem("GEN-E0207", str(adapter), "weights of another shape", "an adapter that was trained on this model",
                    "name its base, or merge it, which adds rows for its new tokens")
        ) from error  # fmt: skip


def virtual_tokens(model: Any) -> int:
    """Return the number of vectors before every text; 0 for other models."""
    return model.active_peft_config.num_virtual_tokens if hasattr(model, "prompt_encoder") else 0


def continue_rows(model: Any, rows: list[list[int]], how: Any, **more: Any) -> torch.Tensor:
    """Continue rows of tokens with a model that has a learned prompt; return the new tokens, (rows, longest answer).

    PEFT's generate puts the vectors before the padding and counts the padding as positions, so that an answer would
    depend on the other rows of its batch. Here the vectors are between padding and text, as in training.
    """
    joined = [with_vectors(model, ids) for ids in rows]
    longest = max(map(len, joined))
    inputs = torch.stack([torch.nn.functional.pad(one, (0, 0, longest - len(one), 0)) for one in joined])
    mask = torch.zeros(inputs.shape[:2], dtype=torch.long, device=inputs.device)
    for line, one in enumerate(joined):
        mask[line, longest - len(one) :] = 1
    return model.get_base_model().generate(inputs_embeds=inputs, attention_mask=mask, generation_config=how, **more)


def with_vectors(model: Any, ids: list[int]) -> torch.Tensor:
    """Return the embeddings of the learned prompt and of a text's tokens behind it, (vectors + tokens, hidden size)."""
    vectors = model.get_prompt(batch_size=1)[0]
    text = model.word_embeddings(torch.tensor(ids, dtype=torch.long, device=model.device))
    return torch.cat((vectors.to(text.dtype).to(text.device), text))
