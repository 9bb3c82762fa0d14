"""The plan reads and checks evaluation_config, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from steps.errors import UserError
from steps.kinds.recipe import Recipe
from steps.params.evaluation import EvaluationConfig
from steps.params.evaluation_config import EvaluationOptions, Measurable, OptionsRead, read_options
from steps.params.metrics import (
    NEITHER_IS_BETTER,
    OF_COMPLETIONS,
    OF_LABEL_SETS,
    OF_ONE_LABEL,
    OF_ONE_REWARD,
    OF_PAIRS,
    OF_RATED,
    REWARDED,
    WRITTEN,
)
from steps.params.pipeline import SupervisedParameters
from steps.params.preference import PreferenceMethod
from steps.params.reading import choices_of
from steps.params.rewards import RewardParams
from steps.params.text_file import decoded
from steps.sources import storage


def evaluation_options(parameters: SupervisedParameters, recipe: Recipe) -> OptionsRead:
    """Read evaluation_config or evaluation_config_params. Raises UserError, and the errors of `storage.read_bytes`."""
    return options_in(parameters, _measurable(parameters, recipe))


def options_of_answers(parameters: EvaluationConfig) -> OptionsRead:
    """Do the same for answers that are compared with right ones, without a model. Raises the same."""
    names = [*(name for name in WRITTEN if name not in ("loss", "perplexity")), "gen_len"]
    losses = dict.fromkeys(("loss", "perplexity"), "only answers are compared")
    return options_in(parameters, Measurable(names, losses, True, None))


def options_in(parameters: EvaluationConfig, has: Measurable) -> OptionsRead:
    """Do the same for the metrics that there are."""
    where, content = "evaluation_config_params", parameters.evaluation_config_params.encode()
    if file := parameters.evaluation_config:
        where = "evaluation_config"
        if file.lstrip().startswith("{"):  # the JSON itself
            content = file.encode()
        elif problems := storage.check_uri(where, file):
            raise UserError(problems)
        else:
            content = decoded(f"{where} {file}", storage.read_bytes(where, file)).encode()
    if not content:
        return OptionsRead(EvaluationOptions(), [])
    read = read_options(where, content, has)
    if isinstance(read, list):
        raise UserError(read)
    return read


def _measurable(p: SupervisedParameters, recipe: Recipe) -> Measurable:
    """Return the metrics that these rows can have, and those that only other rows of the task have."""
    every = [*choices_of(type(p).model_fields["gate_metric"]), *sorted(NEITHER_IS_BETTER)]
    elsewhere = dict(_elsewhere(p, every))
    if recipe.method.rewarded:
        return Measurable([*REWARDED, *_of_rewards(p), *OF_COMPLETIONS], {}, False)
    texts = recipe.kind.compares_texts and p.task != "pretraining"
    multilabel = getattr(p, "multilabel", None)
    return Measurable([name for name in every if name not in elsewhere], elsewhere, texts, multilabel)


def _of_rewards(p: SupervisedParameters) -> Iterator[str]:
    """Yield the metric of each reward; a user's function has its name without the file."""
    if isinstance(p, RewardParams):
        yield from (OF_ONE_REWARD + name.rpartition(":")[2] for name in p.rewards)


def _elsewhere(p: SupervisedParameters, every: list[str]) -> Iterator[tuple[str, str]]:
    if (multilabel := getattr(p, "multilabel", None)) is not None:
        other, rows = (OF_ONE_LABEL, "any number of labels") if multilabel else (OF_LABEL_SETS, "one label")
        yield from ((name, f"it has no value for rows with {rows}") for name in other)
    if isinstance(p, PreferenceMethod):
        other, rows = (OF_PAIRS, "rated answers") if p.rated else (OF_RATED, "pairs")
        yield from ((name, f"it has no value for {rows}") for name in other)
    if getattr(p, "ground_truth_key", None) == "":
        answers = (name for name in every if name not in ("loss", "perplexity"))
        yield from ((name, "without ground_truth_key there is no answer to compare with") for name in answers)
