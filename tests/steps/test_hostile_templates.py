"""Chat templates and tokenizers that do not end: the plan finds out in a process with limits."""

import importlib.util
from pathlib import Path

import pytest
from hostile_files import DOUBLING, ENDLESS, put, tokens
from hostile_trials import planned

from steps.errors import UserError
from steps.models.template_trial import is_plain

DOUBLED = {"type": "Replace", "pattern": {"Regex": "a|b"}, "content": "aa"}


@pytest.fixture
def model(good_model) -> Path:
    return good_model


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_refused_by_the_plan(model, name):
    put("chat_template.jinja", ENDLESS[name])(model)
    with pytest.raises(UserError, match=r"DATA-E0806 chat_template: .*takes more than"):
        planned(model, seconds=60)  # two of computing, on a machine that may be busy


@pytest.mark.parametrize(
    "text",
    [
        "{{ " + "+".join("a" * 5000) + " }}",
        "{{ a" + ".b" * 5000 + " }}",
        "{{ a" + "|trim" * 5000 + " }}",
        "{% if a %}" * 100 + "{% endif %}" * 100,
        "{% for a in a %}" * 30 + "{% endfor %}" * 30,
    ],
)
def test_a_template_that_is_nested_too_deep_to_be_compiled_is_refused_by_the_plan(model, text):
    put("chat_template.jinja", text)(model)
    with pytest.raises(UserError, match=r"DATA-E0806 chat_template: .*nested"):
        planned(model, seconds=60)


def test_a_tokenizer_that_does_not_end_is_refused_by_the_plan(model):
    tokens(normalizer={"type": "Sequence", "normalizers": [DOUBLED] * 40})(model)
    with pytest.raises(UserError, match=r"MODEL-E0117 .*(seconds|memory) for a few words"):
        planned(model, seconds=60)  # one of computing


@pytest.mark.parametrize("name", DOUBLING)
def test_a_template_whose_texts_may_double_is_tried_first(name):
    assert not is_plain(DOUBLING[name])


def test_the_templates_of_common_models_need_no_trial():
    trl = Path(importlib.util.find_spec("trl").origin).parent  # type: ignore[union-attr, arg-type]
    files = [file for kind in ("qwen", "llama", "phi") for file in (trl / "chat_templates").glob(f"{kind}*.jinja")]
    assert len(files) > 10
    assert [file.name for file in files if not is_plain(file.read_text())] == []


@pytest.mark.parametrize("text", ["{{ 'a' | nope }}", "{{ 1 / 0 }}", "{{ raise_exception('no') }}", "{{ 2 * 3 }}"])
def test_a_template_that_raises_is_left_to_the_rows(model, text):
    put("chat_template.jinja", text)(model)
    planned(model)


def test_a_number_of_thousands_of_digits_in_a_template_is_told(model):
    put("chat_template.jinja", "{{ " + "9" * 6000 + " }}")(model)
    with pytest.raises(UserError, match="DATA-E0806"):
        planned(model)
