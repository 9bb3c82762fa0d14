"""Models that predict the masked tokens of a text: BERT, RoBERTa, …"""

from collections.abc import Mapping
from typing import Any

from steps.kinds.model_kind import ModelKind
from steps.kinds.models.unfit import NOTHING_WRITTEN, VOCABULARY_KEPT

# Values of model_type in config.json with a masked head in transformers; with `is_decoder` they are causal models.
MODEL_TYPES = frozenset({
    "albert", "bert", "big_bird", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
    "esm", "eurobert", "flaubert", "fnet", "funnel", "ibert", "layoutlm", "longformer", "luke", "megatron-bert",
    "mobilebert", "modernbert", "mpnet", "mra", "nystromformer", "rembert", "roberta", "roberta-prelayernorm",
    "roc_bert", "roformer", "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
})  # fmt: skip


def made_for(config: Mapping[str, Any]) -> bool:
    """Return whether a model is a masked language model."""
    return config.get("model_type") in MODEL_TYPES and not config.get("is_decoder")


KIND = ModelKind(
    name="masked_lm",
    auto_class="AutoModelForMaskedLM",
    peft_task=None,
    new_head=False,
    reads_images=False,
    made_for=made_for,
    writer="steps.prepare_data.write.masked",
    trainer="steps.finetune.trainers.masked:build",
    trained_as="masked",
    evaluator="steps.evaluate.unmasked:compare",
    engine="",
    served="served_words.py",
    signature="steps.register_model.signatures:of_words",
    report=("", ""),
    goes_on=False,
    has_encoder=False,
    writes_while_training=False,
    compares_texts=False,
    takes_new_tokens=False,
    logits_over_vocabulary=True,
    longest_window=None,
    length_parameters=("max_seq_length",),
    served_columns=False,
    unfit={"additional_special_tokens": VOCABULARY_KEPT, "evaluation_engine": NOTHING_WRITTEN},
)
