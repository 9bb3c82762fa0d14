"""Models that predict one or several classes of a text or a pair of texts."""

from steps.kinds.model_kind import ModelKind
from steps.kinds.models.unfit import without_text

KIND = ModelKind(
    name="sequence_classification",
    auto_class="AutoModelForSequenceClassification",
    peft_task="SEQ_CLS",
    new_head=True,
    reads_images=False,
    made_for=lambda config: False,
    writer="steps.prepare_data.write.classification",
    trainer="steps.finetune.trainers.classification:build",
    trained_as="classification",
    evaluator="steps.evaluate.classified:compare",
    engine="",
    served="served_labels.py",
    signature="steps.register_model.signatures:of_labels",
    report=("labels", "steps.reports.label_facts:label_facts"),
    goes_on=False,
    has_encoder=False,
    writes_while_training=False,
    compares_texts=False,
    takes_new_tokens=False,
    logits_over_vocabulary=False,
    longest_window=None,
    length_parameters=("max_seq_length",),
    served_columns=False,
    unfit=without_text("the model predicts a label and writes no text"),
)
