"""Supervised training, with the loss and the code of the kind of model."""

from steps.kinds.method import Method

METHOD = Method(
    name="supervised",
    kinds=(
        "causal_lm", "masked_lm", "sequence_classification", "token_classification", "question_answering", "seq2seq_lm",
    ),
    trainer="",
    writer="",
    evaluator="",
    report=("", ""),
    losses={},
    sums_losses=False,
    reads=frozenset(),
    asks_reference=False,
    rated=False,
    rewarded=False,
    answers_per_row=1,
    whole_logits=False,
    pads_to_max_length=True,
    best_metrics=True,
    takes_new_tokens=True,
    takes_prompts=True,
    unfit={},
)  # fmt: skip
