"""Models that predict a tag for each word of a text."""

from steps.kinds.model_kind import ModelKind
from steps.kinds.models.unfit import without_text

KIND = ModelKind(
    name="token_classification",
    auto_class="AutoModelForTokenClassification",
    peft_task="TOKEN_CLS",
    new_head=True,
    reads_images=False,
    made_for=lambda config: False,
    writer="steps.prepare_data.write.tagged",
    trainer="steps.finetune.trainers.tagging:build",
    trained_as="tagging",
    evaluator="steps.evaluate.tagged:compare",
    engine="",
    served="served_tags.py",
    signature="steps.register_model.signatures:of_tags",
    report=("tags", "steps.reports.tag_facts:tag_facts"),
    goes_on=False,
    has_encoder=False,
    writes_while_training=False,
    compares_texts=False,
    takes_new_tokens=False,
    logits_over_vocabulary=False,
    longest_window=None,
    length_parameters=("max_seq_length",),
    served_columns=False,
    unfit=without_text("the model predicts tags and writes no text"),
)
