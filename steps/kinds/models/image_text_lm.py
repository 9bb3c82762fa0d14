"""Models that read images and texts, and predict the next token: Qwen2-VL, Qwen2.5-VL."""

from steps.kinds.model_kind import ModelKind
from steps.kinds.models.unfit import ENCODER_ONLY

# What verl 0.9.1 was read for: it hands images to these as qwen_vl_utils resizes them, in patches of 14 pixels.
MODEL_TYPES = {"qwen2_vl", "qwen2_5_vl"}

KIND = ModelKind(
    name="image_text_lm",
    auto_class="AutoModelForImageTextToText",
    peft_task="CAUSAL_LM",
    new_head=False,
    reads_images=True,
    made_for=lambda config: config.get("model_type") in MODEL_TYPES,
    writer="steps.prepare_data.write.causal",
    trainer="steps.finetune.trainers.sft:build",
    trained_as="sft",
    evaluator="steps.evaluate.generated:compare",
    engine="steps.evaluate.transformers_engine:measure",
    served="served_images.py",
    signature="steps.register_model.signatures:of_images",
    report=("", ""),
    goes_on=True,
    has_encoder=False,
    writes_while_training=False,
    compares_texts=True,
    takes_new_tokens=False,
    logits_over_vocabulary=True,
    longest_window=None,
    length_parameters=("max_seq_length",),
    served_columns=False,
    unfit={"max_target_length": ENCODER_ONLY, "num_beams": ENCODER_ONLY},
)
