"""The mixture of several sources equals that of the library datasets row by row."""

import numpy as np
import pytest
from datasets import Dataset, interleave_datasets

from steps.prepare_data.check.mixing import MIXING_SEED, mix, mix_rows


def interleaved(counts, weights, seed):
    """Say what datasets gives: (source, row) of every row; it knows neither weight 0 nor round robin by weights."""
    parts = [
        Dataset.from_dict({"source": [source] * count, "row": list(range(count))})
        for source, count in enumerate(counts)
        if weights[source]
    ]
    used = [weight for weight in weights if weight]
    chances = None if set(used) == {1.0} else [weight / sum(used) for weight in used]
    mixed = interleave_datasets(parts, probabilities=chances, seed=seed, stopping_strategy="all_exhausted")
    return list(zip(mixed["source"], mixed["row"], strict=True))


@pytest.mark.parametrize("seed", [MIXING_SEED, 0])
@pytest.mark.parametrize(
    ("counts", "weights"),
    [
        ([3, 5, 2], [1.0, 1.0, 1.0]),
        ([4], [1.0]),
        ([4], [2.5]),
        ([30, 5, 20], [1.0, 2.0, 1.0]),
        ([7, 900], [0.7, 0.3]),
        ([2000, 3000, 10], [5, 3, 0.01]),
        ([10, 10, 10], [2.0, 2.0, 2.0]),
        ([9, 4, 6], [1.0, 0.0, 3.0]),
        ([9, 4, 6], [1.0, 0.0, 1.0]),
    ],
)
def test_the_order_is_that_of_interleave_datasets(counts, weights, seed):
    assert list(map(tuple, mix(counts, weights, seed).tolist())) == interleaved(counts, weights, seed)


def test_equal_weights_take_turns_exactly():
    assert mix([2, 3], [1.0, 1.0]).tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [0, 0], [1, 2]]


def test_rows_are_mixed_wherever_they_stand():
    sources = np.array([1, 0, 1, 2, 0, 1])
    places = [[1, 4], [0, 2, 5], [3]]
    for weights in ([1.0, 1.0, 1.0], [0.5, 2.0, 1.0], [1.0, 0.0, 1.0]):
        counts = [len(of_source) for of_source in places]
        expected = [places[source][row] for source, row in mix(counts, weights).tolist()]
        assert mix_rows(sources, weights).tolist() == expected


def test_the_shares_are_the_weights():
    sources = mix([20_000, 20_000], [3.0, 1.0])[:, 0]
    assert abs((sources == 0).mean() - 0.75) < 0.01


@pytest.mark.parametrize(
    ("counts", "weights", "words"),
    [
        ([1, 1], [1.0, -0.5], "negative"),
        ([1, 1], [0.0, 0.0], "all 0"),
        ([1, 1], [1.0, float("nan")], "negative"),
        ([1, 0], [1.0, 1.0], "without rows"),
        ([1], [1.0, 1.0], "1 sources, 2 weights"),
        ([], [], "0 sources"),
    ],
)
def test_weights_that_mean_nothing_are_refused(counts, weights, words):
    with pytest.raises(ValueError, match=words):
        mix(counts, weights)


def test_the_order_of_a_million_rows_takes_no_loop_over_rows():
    order = mix([400_000, 100_000], [0.9, 0.1])
    assert order.shape[1] == 2
    assert (np.bincount(order[:, 0]) >= [400_000, 100_000]).all()
