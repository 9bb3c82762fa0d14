"""The kinds of models, one file each. To add one: a file with its record `KIND`, and its name below."""

from steps.kinds.model_kind import ModelKind
from steps.kinds.models import (
    causal_lm,
    image_text_lm,
    masked_lm,
    question_answering,
    seq2seq_lm,
    sequence_classification,
    token_classification,
)

MODEL_KINDS: dict[str, ModelKind] = {
    module.KIND.name: module.KIND
    for module in (
        causal_lm, masked_lm, sequence_classification, token_classification, question_answering, seq2seq_lm,
        image_text_lm,
    )
}  # fmt: skip
