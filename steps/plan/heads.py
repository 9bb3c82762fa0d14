"""What the tuned model will put out: who writes the tokens, trains, measures and serves follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steps.errors import Problem
from steps.params.pipelines import (
    PretrainingParameters,
    SummarizationParameters,
    SupervisedParameters,
    TranslationParameters,
)
from steps.params.settings import Head
from steps.params.task_columns import USUAL_PREFIX
from steps.tasks import load_task
from steps.tasks.translation import LANGUAGES

# Kinds of models that read a whole text at once and put back what is hidden in it; transformers has a masked head for
# each of them. The configuration names the kind, `is_decoder` makes one of them write instead.
READERS = {
    "albert", "bert", "big_bird", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
    "esm", "eurobert", "flaubert", "fnet", "funnel", "ibert", "layoutlm", "longformer", "luke", "megatron-bert",
    "mobilebert", "modernbert", "mpnet", "mra", "nystromformer", "rembert", "roberta", "roberta-prelayernorm",
    "roc_bert", "roformer", "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
}  # fmt: skip


# Kinds of models with an encoder for the given text and a decoder that writes another one.
WRITERS = {"bart", "longt5", "m2m_100", "marian", "mbart", "mt5", "pegasus", "t5", "umt5"}
MULTILINGUAL = {"m2m_100", "mbart"}  # those of them that are told which language they read and write
TOLD_WHAT_TO_DO = {"t5"}  # those that learned several tasks at once, each behind words of its own


def head_of(parameters: SupervisedParameters, config: dict[str, Any]) -> Head:
    """Give what the task's models put out: for pretraining as asked for, or what the model is made for."""
    if not isinstance(parameters, PretrainingParameters):
        written = isinstance(parameters, SummarizationParameters | TranslationParameters)
        return "seq2seq_lm" if written and _has_encoder(config) else load_task(parameters.task).HEAD
    asked = parameters.pretraining_objective
    masked = _reads(config) if asked == "auto" else asked == "masked"
    return "masked_lm" if masked else "causal_lm"


def head_problems(
    parameters: SupervisedParameters, head: Head, config: dict[str, Any], source: str
) -> Iterator[Problem]:
    """Yield why this kind of model cannot have this head; `source` is the parameter that names the model."""
    reads, kind = _reads(config), config.get("model_type", "unknown")
    if _has_encoder(config) and (head != "seq2seq_lm" or kind not in WRITERS):
        name = (config.get("architectures") or [kind])[0]
        usual = "a model that goes on from its prompt, such as Llama or Qwen: models with an encoder and a decoder are "
        yield Problem("PLAN-E0307", source, f"{name}, an encoder with a decoder",
                      f"one of the kinds {', '.join(sorted(WRITERS))}, or a decoder" if head == "seq2seq_lm" else
                      f"{usual}for summarization and translation", "name another model")  # fmt: skip
    if isinstance(parameters, SummarizationParameters | TranslationParameters):
        yield from _writing_problems(parameters, head, kind)
    if head in ("causal_lm", "preference_lm") and reads:
        yield Problem("PLAN-E0308", source, f"a model of the type {kind}, which reads a text as a whole",
                      f"a model that goes on from its prompt, such as Llama or Qwen, for {parameters.task}",
                      "name another model")  # fmt: skip
    if head == "masked_lm" and not reads:
        yield Problem("PLAN-E0309", "pretraining_objective", f"masked with a model of the type {kind}",
                      "a model that puts back hidden tokens, such as BERT or RoBERTa",
                      "set pretraining_objective=causal, or name another model")  # fmt: skip
    if head == "causal_lm" and isinstance(parameters, PretrainingParameters):
        usual = PretrainingParameters.model_fields["mlm_probability"].default
        changed = {"mlm_probability": parameters.mlm_probability != usual,
                   "gate_metric": parameters.gate_metric == "masked_accuracy"}  # fmt: skip
        for name in (name for name, value in changed.items() if value):
            yield Problem("PLAN-E0310", name, str(getattr(parameters, name)), "nothing: each next token is learned, "
                          "nothing is hidden", "leave it out, or set pretraining_objective=masked")  # fmt: skip


def asked_form(parameters: SupervisedParameters, head: Head, config: dict[str, Any]) -> dict[str, str]:
    """Give the columns' parameters that the kind of model decides: what stands around a text that an encoder reads."""
    if head != "seq2seq_lm":
        return {}
    prefix = getattr(parameters, "prompt_prefix", "")
    nothing = prefix == USUAL_PREFIX and config.get("model_type") not in TOLD_WHAT_TO_DO
    return {"prompt_prefix": "" if nothing else prefix, "text_separator": ""}


def _writing_problems(p: SummarizationParameters | TranslationParameters, head: Head, kind: str) -> Iterator[Problem]:
    """Yield what this kind of model cannot be asked for."""
    if head == "causal_lm" and p.metric_for_best_model != "loss":
        yield Problem("PLAN-E0312", "metric_for_best_model", f"{p.metric_for_best_model} with a model without encoder",
                      "loss: such a model writes nothing while it trains",
                      "set metric_for_best_model=loss, or name a model such as T5 or BART")  # fmt: skip
    if isinstance(p, SummarizationParameters):
        usual = type(p).model_fields["summarization_lang"].default
        if p.summarization_lang != usual and kind not in MULTILINGUAL:
            yield Problem("PLAN-E0102", "summarization_lang", p.summarization_lang,
                          f"{usual!r} for a model of the type {kind}: only those of the types "
                          f"{' and '.join(sorted(MULTILINGUAL))} are told the language", "leave it out")  # fmt: skip
    elif head == "seq2seq_lm" and kind in TOLD_WHAT_TO_DO and p.prompt_prefix == USUAL_PREFIX:
        for name in ("source_lang", "target_lang"):
            if (language := getattr(p, name)) not in LANGUAGES:
                yield Problem("PLAN-E0313", name, f"{language} with a T5",
                              f"one of {', '.join(LANGUAGES)}, which it was trained to translate",
                              'set prompt_prefix to words of your own, such as "translate: "')  # fmt: skip


def _has_encoder(config: dict[str, Any]) -> bool:
    return bool(config.get("is_encoder_decoder")) or config.get("model_type") in WRITERS


def _reads(config: dict[str, Any]) -> bool:
    return config.get("model_type") in READERS and not config.get("is_decoder")
