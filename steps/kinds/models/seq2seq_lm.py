"""Encoder-decoder models, which read a text and write another: T5, BART, Marian, …"""

from collections.abc import Mapping
from typing import Any

from steps.kinds.model_kind import ModelKind
from steps.kinds.models.unfit import VOCABULARY_KEPT

MODEL_TYPES = frozenset({"bart", "longt5", "m2m_100", "marian", "mbart", "mt5", "pegasus", "t5", "umt5"})
MULTILINGUAL = frozenset({"m2m_100", "mbart"})  # their tokenizers need a source and a target language
TOLD_WHAT_TO_DO = frozenset({"t5"})  # pretrained on several tasks, each with its own prompt prefix

_DECODED = "encoder and decoder have separate inputs, and all tokens of the answer have loss"


def made_for(config: Mapping[str, Any]) -> bool:
    """Return whether a model has an encoder and a decoder."""
    return bool(config.get("is_encoder_decoder")) or config.get("model_type") in MODEL_TYPES


KIND = ModelKind(
    name="seq2seq_lm",
    auto_class="AutoModelForSeq2SeqLM",
    peft_task="SEQ_2_SEQ_LM",
    new_head=False,
    reads_images=False,
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
        "evaluation_engine": "vLLM has no models with an encoder",
        "packing": "each text is encoded separately",
        "pad_to_max_length": "text and answer are padded to the longest of their batch",
        "text_separator": "encoder and decoder have separate inputs, with no text between them",
        "train_on_completions_only": _DECODED,
        "response_template": _DECODED,
        "instruction_template": _DECODED,
        "comma_separated_template": _DECODED,
    },
)
