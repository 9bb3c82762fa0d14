"""Prompts against max_prompt_length."""

import pytest

from steps.prepare_data.write.prompts import TooLong, fit_prompts

PROMPTS = [[1, 2, 3], [], [1, 2, 3, 4, 5], [9], [5, 6, 7, 8]]


def test_long_prompts_are_left_out_and_counted():
    fitted = fit_prompts(PROMPTS, 3, "filter")
    assert fitted.prompts == [[1, 2, 3], [], [9]]
    assert fitted.kept.tolist() == [True, True, False, True, False]
    assert (fitted.left_out, fitted.truncated, fitted.long.tolist()) == (2, 0, [2, 4])
    assert fitted.lengths.tolist() == [3, 0, 5, 1, 4]


def test_cut_prompts_keep_their_end():
    fitted = fit_prompts(PROMPTS, 3, "truncate")
    assert fitted.prompts == [[1, 2, 3], [], [3, 4, 5], [9], [6, 7, 8]]
    assert (fitted.left_out, fitted.truncated, fitted.long.tolist()) == (0, 2, [2, 4])
    assert PROMPTS[2] == [1, 2, 3, 4, 5]


def test_long_prompts_are_refused_by_position():
    with pytest.raises(TooLong, match="2 prompts longer than 3 tokens, the longest has 5") as refused:
        fit_prompts(PROMPTS, 3, "refuse")
    assert refused.value.positions.tolist() == [2, 4]
    assert fit_prompts(PROMPTS, 5, "refuse").prompts == PROMPTS


@pytest.mark.parametrize("handling", ["filter", "truncate"])
def test_a_limit_that_no_prompt_keeps_is_seen(handling):  # 123
    """Catalogue row 123."""
    assert fit_prompts([[1, 2], [3, 4, 5]], 1, handling).all_long
    assert not fit_prompts([[1, 2], [3, 4, 5]], 2, handling).all_long
    assert not fit_prompts([], 2, handling).all_long


def test_a_limit_below_one_token_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="a limit of 0 tokens"):
        fit_prompts(PROMPTS, 0, "truncate")
