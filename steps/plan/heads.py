"""What the tuned model will put out: who writes the tokens, trains, measures and serves follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steps.errors import Problem
from steps.params.pipelines import PretrainingParameters, SupervisedParameters
from steps.params.settings import Head
from steps.tasks import load_task

# Kinds of models that read a whole text at once and put back what is hidden in it; transformers has a masked head for
# each of them. The configuration names the kind, `is_decoder` makes one of them write instead.
READERS = {
    "albert", "bert", "big_bird", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
    "esm", "eurobert", "flaubert", "fnet", "funnel", "ibert", "layoutlm", "longformer", "luke", "megatron-bert",
    "mobilebert", "modernbert", "mpnet", "mra", "nystromformer", "rembert", "roberta", "roberta-prelayernorm",
    "roc_bert", "roformer", "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
}  # fmt: skip


def head_of(parameters: SupervisedParameters, config: dict[str, Any]) -> Head:
    """Give what the task's models put out: for pretraining as asked for, or what the model is made for."""
    if not isinstance(parameters, PretrainingParameters):
        return load_task(parameters.task).HEAD
    asked = parameters.pretraining_objective
    masked = _reads(config) if asked == "auto" else asked == "masked"
    return "masked_lm" if masked else "causal_lm"


def head_problems(
    parameters: SupervisedParameters, head: Head, config: dict[str, Any], source: str
) -> Iterator[Problem]:
    """Yield why this kind of model cannot have this head; `source` is the parameter that names the model."""
    reads, kind = _reads(config), config.get("model_type", "unknown")
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


def _reads(config: dict[str, Any]) -> bool:
    return config.get("model_type") in READERS and not config.get("is_decoder")
