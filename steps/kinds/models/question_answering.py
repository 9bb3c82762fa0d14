"""Models that predict the start and end of an answer in a text."""

from steps.kinds.model_kind import ModelKind
from steps.kinds.models.unfit import without_text

KIND = ModelKind(
    name="question_answering",
    auto_class="AutoModelForQuestionAnswering",
    peft_task="QUESTION_ANS",
    new_head=True,
    reads_images=False,
    made_for=lambda config: False,
    writer="steps.prepare_data.write.spans",
    trainer="steps.finetune.trainers.answering:build",
    trained_as="answering",
    evaluator="steps.evaluate.answered:compare",
    engine="",
    served="served_answers.py",
    signature="steps.register_model.signatures:of_answers",
    report=("answers", "steps.reports.answer_facts:answer_facts"),
    goes_on=False,
    has_encoder=False,
    writes_while_training=False,
    compares_texts=True,
    takes_new_tokens=False,
    logits_over_vocabulary=False,
    longest_window=384,  # the cost of attention grows with its square, and windows overlap anyway
    length_parameters=("max_seq_length",),
    served_columns=True,
    unfit={
        **without_text("the model predicts the position of the answer and writes no text"),
        "length_handling": "a long context is split into windows",
    },
)
