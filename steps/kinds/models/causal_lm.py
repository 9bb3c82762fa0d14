"""Models that predict the next token: Llama, Qwen, GPT-2, …"""

from steps.kinds.model_kind import ModelKind
from steps.kinds.models.unfit import ENCODER_ONLY

KIND = ModelKind(
    name="causal_lm",
    auto_class="AutoModelForCausalLM",
    peft_task="CAUSAL_LM",
    new_head=False,
    reads_images=False,
    made_for=lambda config: True,  # any model that is not of another kind
    writer="steps.prepare_data.write.causal",
    trainer="steps.finetune.trainers.sft:build",
    trained_as="sft",
    evaluator="steps.evaluate.generated:compare",
    engine="steps.evaluate.transformers_engine:measure",
    served="",
    signature="steps.register_model.signatures:of_prompts",
    report=("", ""),
    goes_on=True,
    has_encoder=False,
    writes_while_training=False,
    compares_texts=True,
    takes_new_tokens=True,
    logits_over_vocabulary=True,
    longest_window=None,
    length_parameters=("max_seq_length",),
    served_columns=False,
    unfit={"max_target_length": ENCODER_ONLY, "num_beams": ENCODER_ONLY},
)
