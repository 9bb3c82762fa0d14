"""Encoder-decoder models, which generate a text from another: T5, BART, Marian, …"""

from collections.abc import Mapping
from typing import Any

from steps.kinds.model_kind import ModelKind
from steps.kinds.models.unfit import VOCABULARY_KEPT

MODEL_TYPES = frozenset({"bart", "longt5", "m2m_100", "marian", "mbart", "mt5", "pegasus", "t5", "umt5"})
MULTILINGUAL = frozenset({"m2m_100", "mbart"})  # models that need the codes of the source and target languages
TOLD_WHAT_TO_DO = frozenset({"t5"})  # models trained on several tasks, each with its own prompt prefix

_DECODED = "the encoder reads the text, and the loss always covers the whole answer"


def made_for(config: Mapping[str, Any]) -> bool:
    """Whether a model has an encoder and a decoder."""
    return bool(config.get("is_encoder_decoder")) or config.get("model_type") in MODEL_TYPES


KIND = ModelKind(
    name="seq2seq_lm",
    puts_out="another text",
    auto_class="AutoModelForSeq2SeqLM",
    peft_task="SEQ_2_SEQ_LM",
    new_head=False,
    made_for=made_for,
    writer="steps.prepare_data.write.seq2seq",
    trainer="steps.finetune.trainers.seq2seq:build",
    trained_as="seq2seq",
    evaluator="steps.evaluate.generated:compare",
    engine="steps.evaluate.seq2seq_engine:measure",
    served="served_texts.py",
    signature="steps.register_model.signatures:of_prompts",
    report=("", ""),
    goes_on=False,
    has_encoder=True,
    writes_while_training=True,
    compares_texts=True,
    takes_new_tokens=False,
    logits_over_vocabulary=True,
    longest_window=None,
    length_parameters=("max_seq_length", "max_target_length"),
    served_columns=False,
    unfit={
        "additional_special_tokens": VOCABULARY_KEPT,
        "packing": "the encoder reads each text separately",
        "pad_to_max_length": "text and answer are padded to the longest of their batch",
        "text_separator": "text and answer are separate sequences",
        "train_on_completions_only": _DECODED,
        "response_template": _DECODED,
        "instruction_template": _DECODED,
        "comma_separated_template": _DECODED,
    },
)
