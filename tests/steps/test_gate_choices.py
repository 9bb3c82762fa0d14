"""What a pipeline's gate may ask for is what its evaluation measures, no more and no less."""

import numpy as np
import pytest

from steps.params.evaluation import EvaluationParams
from steps.params.metrics import OF_LABEL_SETS, OF_ONE_LABEL, OF_PAIRS, OF_RATED, direction_of
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import choices_of
from steps.scoring.answer_metrics import score_answers
from steps.scoring.classification_metrics import score_label_sets, score_labels
from steps.scoring.preference_metrics import Likely, score_pairs, score_rated
from steps.scoring.tag_metrics import score_tags

GOOD = np.array([True, False])
LIKELY = Likely(np.array([-1.0, -2.0]), np.array([2, 2]))
ONE_LABEL = set(score_labels(["a", "b"], ["a", "b"], np.array([[0.9, 0.1], [0.2, 0.8]]), ["a", "b"]).values)
SETS = np.array([[True, False], [False, True]])
LABEL_SETS = set(score_label_sets(SETS, SETS, np.where(SETS, 0.9, 0.1), ["a", "b"]).values)
RATED = set(score_rated(LIKELY, LIKELY, GOOD, beta=1.0))
PAIRED = set(score_pairs({"chosen": LIKELY, "rejected": LIKELY}, {"chosen": LIKELY, "rejected": LIKELY}, beta=1.0))
MEASURED = {
    "token_classification": set(score_tags([["B-A", "O"]], [["B-A", "O"]]).values),
    "question_answering": set(score_answers(["x", ""], [["x"], []], [0.1, 0.9])),
    "text_classification": ONE_LABEL | LABEL_SETS,
    # The loss of one answer alone says nothing of a preference.
    "preference": (PAIRED | RATED) - {"chosen_loss", "rejected_loss"},
}


@pytest.mark.parametrize("pipeline", MEASURED)
def test_every_metric_with_a_direction_can_be_gated_and_no_other(pipeline):
    choices = set(choices_of(PARAMETER_MODELS[pipeline].model_fields["gate_metric"]))
    directed = {name for name in MEASURED[pipeline] if direction_of(name) is not None}
    assert choices == directed | {"loss"}
    for metric in choices:
        assert EvaluationParams(gate_metric=metric).gate_metric == metric  # as evaluate is told it


def test_what_is_measured_of_some_rows_alone_is_listed_as_such():
    assert set(OF_ONE_LABEL) == ONE_LABEL - LABEL_SETS
    assert set(OF_LABEL_SETS) == LABEL_SETS - ONE_LABEL
    assert set(OF_RATED) == RATED - PAIRED
    assert PAIRED - RATED - {"chosen_loss", "rejected_loss"} == set(OF_PAIRS)
