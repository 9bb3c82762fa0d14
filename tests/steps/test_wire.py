"""Settings are unchanged after serialisation."""

import pytest

from steps import wire

NASTY = [
    {"a": 1, "b": [1, 2.0, None, True]}, 2**53 + 1, -0.0, 1e-7, "python3 -m x", "{{$.inputs.parameters['s']}}",
    'quotes " and \' and \\', "line\nbreak\ttab", "ünïcode 🦙", "", {"nested": {"python3": "{{x}}"}}, [], {},
]  # fmt: skip


@pytest.mark.parametrize("value", NASTY)
def test_every_value_survives_and_holds_nothing_that_kfp_rewrites(value):
    text = wire.dump(value)
    assert wire.load(text) == value
    assert "python3" not in text
    assert "{{" not in text


def test_equal_values_have_equal_text_whatever_their_order():
    assert wire.dump({"a": 1, "b": 2}) == wire.dump({"b": 2, "a": 1})


def test_numbers_that_json_does_not_know_are_refused():
    with pytest.raises(ValueError, match="Out of range"):
        wire.dump(float("nan"))
