"""Models with a learned prompt: vectors before the text of every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from steps.adapters.layout import kept_adapter_of
from steps.models.layout import refuse_unsafe_weights


def with_kept_adapter(model: Any, folder: Path) -> Any:
    """Add the adapter to a model that was loaded from `folder`, if the folder has one that cannot be merged."""
    own = kept_adapter_of(folder)
    if own is None:
        return model
    refuse_unsafe_weights(own)
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(own))


def virtual_tokens(model: Any) -> int:
    """Return the number of vectors before every text; 0 for other models."""
    return model.active_peft_config.num_virtual_tokens if hasattr(model, "prompt_encoder") else 0


def continue_rows(model: Any, rows: list[list[int]], how: Any) -> torch.Tensor:
    """Continue rows of tokens with a model that has a learned prompt; return the new tokens, (rows, longest answer).

    PEFT's generate puts the vectors before the padding and counts the padding as positions, so that an answer would
    depend on the other rows of its batch. Here the vectors are between padding and text, as in training.
    """
    vectors = model.get_prompt(batch_size=1)[0]
    texts = [model.word_embeddings(torch.tensor(ids, dtype=torch.long, device=model.device)) for ids in rows]
    joined = [torch.cat((vectors.to(text.dtype).to(text.device), text)) for text in texts]
    longest = max(map(len, joined))
    inputs = torch.stack([torch.nn.functional.pad(one, (0, 0, longest - len(one), 0)) for one in joined])
    mask = torch.zeros(inputs.shape[:2], dtype=torch.long, device=inputs.device)
    for line, one in enumerate(joined):
        mask[line, longest - len(one) :] = 1
    return model.get_base_model().generate(inputs_embeds=inputs, attention_mask=mask, generation_config=how)
