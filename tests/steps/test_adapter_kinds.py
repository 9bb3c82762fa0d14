"""The record of every kind of adapter is complete and agrees with PEFT; a LoRA parameter is declared in one place."""

import inspect
import re
from dataclasses import MISSING, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import pytest
from conftest import build_model
from pydantic import Field

from steps.errors import UserError
from steps.kinds import adapters, load
from steps.kinds.adapter_kind import AdapterKind
from steps.kinds.adapters import ADAPTER_KINDS
from steps.params.adapter_kinds import ReadBy, marks, peft_names
from steps.params.lora import LoraParams
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.pipelines.chat_completion import ChatCompletionParameters
from steps.params.reading import read_parameters

SLOTS = [slot.name for slot in fields(AdapterKind)]
KINDS = pytest.mark.parametrize("kind", ADAPTER_KINDS.values(), ids=ADAPTER_KINDS)
GIVEN = {"pytorch_model_path": "m", "train_file_path": "t.jsonl"}


# Every slot.


@pytest.mark.parametrize("slot", SLOTS)
def test_a_kind_with_a_missing_field_cannot_be_created(slot):
    record = ADAPTER_KINDS["lora"]
    said = {name: getattr(record, name) for name in SLOTS}
    assert AdapterKind(**said) == record
    del said[slot]
    with pytest.raises(TypeError, match=f"'{slot}'"):
        AdapterKind(**said)
    assert all(one.default is MISSING and one.default_factory is MISSING for one in fields(AdapterKind))


def test_every_file_holds_a_kind_of_its_name_and_is_listed():
    files = {file.stem for file in Path(adapters.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(ADAPTER_KINDS) == files
    for name in files:
        assert load(f"steps.kinds.adapters.{name}:KIND") is ADAPTER_KINDS[name]
        assert ADAPTER_KINDS[name].name == name
    assert next(iter(ADAPTER_KINDS)) == LoraParams().peft_type
    assert len({kind.peft_name for kind in ADAPTER_KINDS.values()}) == len(ADAPTER_KINDS)


@KINDS
def test_every_slot_is_filled_in(kind):
    for slot in ("name", "peft_name", "config", "settings_by", "tensors_begin", "tensors", "merging"):
        value = getattr(kind, slot)
        assert isinstance(value, str), slot
        assert value, slot
    assert kind.kwargs
    assert all(values.expected and callable(values.fits) for values in kind.kwargs.values())
    assert bool(kind.folded_by) != bool(kind.kept_because), "folded into weights, or kept beside them for a reason"
    assert bool(kind.folded_by) == bool(kind.understood), "what is folded in is understood key by key"
    assert bool(kind.heads) == bool(kind.why_heads)
    assert kind.layers <= {"linear", "conv1d", "quantised"}
    assert bool(kind.layers) == (kind.name in marks(LoraParams)["lora_target_modules"].kinds)
    assert all(words.startswith(kind.tensors_begin) for words in kind.tensors.split("|"))
    assert all(isinstance(values, tuple) and None in values for values in kind.harmless.values())
    assert all(value in (True, False) for value in (kind.trains_new_rows, kind.served_by_vllm))


@KINDS
def test_what_a_kind_computes_is_a_number_or_a_text(kind):
    p = read_parameters("chat_completion", {**GIVEN, "apply_lora": True, "peft_type": kind.name}).parameters
    assert re.fullmatch(r"\S[^\n]+\S", kind.described(p))
    assert type(kind.positions(p)) is int
    assert kind.positions(p) == (0 if kind.layers else p.num_virtual_tokens)
    assert kind.size(p, 8, [(8, 8), (8, 16)], 2) > 0
    twice = kind.size(p, 8, [(8, 8), (8, 16)], 4) / kind.size(p, 8, [(8, 8), (8, 16)], 2)
    assert twice == (2 if kind.layers else 1)


@KINDS
def test_what_a_kind_cannot_be_combined_with_is_a_switch(kind):
    for name, why in kind.never_with.items():
        assert ChatCompletionParameters.model_fields[name].annotation is bool
        assert why


# What is named is there, and PEFT agrees.


@KINDS
def test_every_name_in_a_record_exists(kind):
    assert load(kind.config)().peft_type.value == kind.peft_name
    assert list(inspect.signature(load(kind.settings_by)).parameters) == ["lora", "model", "new_modules"]
    if kind.folded_by:
        folding = load(kind.folded_by)
        assert all(callable(getattr(folding, name)) for name in ("wanted", "misfits", "changes"))


@KINDS
def test_what_a_kind_declares_about_peft_is_true(kind):
    known = set(load(kind.config)().to_dict())
    assert kind.trains_new_rows == ("trainable_token_indices" in known)
    assert set(kind.harmless) <= known
    for name, mark in marks(LoraParams).items():
        if kind.name in mark.kinds:
            assert kind.in_peft(name) in known, name


@KINDS
def test_tensors_have_the_names_that_the_record_says(kind, tmp_path):
    import peft

    trained = peft.get_peft_model(tiny(tmp_path), config_of(kind, tmp_path))
    names = list(peft.get_peft_model_state_dict(trained))
    assert names
    for name in names:
        assert re.search(rf"(^|\.)({kind.tensors})(\.weight)?$", name), name
    if kind.folded_by:
        parts = {re.search(rf"({kind.tensors})(\.weight)?$", name)[1] for name in names}
        assert load(kind.folded_by).wanted(parts, False) == parts


@KINDS
def test_gpt2_is_tuned_by_the_kinds_that_have_a_layer_for_it(kind, tmp_path):
    import peft
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_head=2, n_layer=1, vocab_size=32, n_positions=16))
    if kind.fits("conv1d"):
        peft.get_peft_model(model, config_of(kind, tmp_path))
    else:
        with pytest.raises(TypeError, match="not supported"):
            peft.get_peft_model(model, config_of(kind, tmp_path))


def tiny(folder: Path):
    from transformers import AutoModelForCausalLM

    if not (folder / "model").exists():
        build_model(folder / "model")
    return AutoModelForCausalLM.from_pretrained(folder / "model")


def config_of(kind: AdapterKind, folder: Path):
    targets = {"target_modules": "all-linear"} if kind.layers else {"num_virtual_tokens": 4}
    more = {"feedforward_modules": []} if kind.name == "ia3" else {}
    return load(kind.config)(task_type="CAUSAL_LM", **targets, **more)


# A parameter in one place.


def test_every_parameter_of_adapters_says_which_kinds_read_it():
    assert set(LoraParams.model_fields) - set(marks(LoraParams)) == {"apply_lora", "peft_type", "peft_kwargs"}
    assert all(mark.kinds and set(mark.kinds) <= set(ADAPTER_KINDS) for mark in marks(LoraParams).values())
    for kind in ADAPTER_KINDS.values():
        assert set(kind.renamed) <= {name for name, mark in marks(LoraParams).items() if kind.name in mark.kinds}


class MoreLora(LoraParams):
    """Parameters of LoRA that PEFT has and we have not: one under its own name, one under another."""

    ensure_weight_tying: Annotated[bool, ReadBy(("lora",))] = False
    """Tie the adapters of tied layers."""

    group_size: Annotated[int, ReadBy(("lora",))] = Field(16, ge=1)
    """Inputs that are pooled."""


class MoreChat(MoreLora, ChatCompletionParameters):
    """A pipeline with them."""


MORE = {"ensure_weight_tying": True, "group_size": 32}


@pytest.fixture
def pipeline(monkeypatch) -> str:
    """The one row that a parameter needs which PEFT calls otherwise, and a pipeline with both parameters."""
    lora = ADAPTER_KINDS["lora"]
    more = replace(lora, renamed={**lora.renamed, "group_size": "qalora_group_size"})
    monkeypatch.setitem(ADAPTER_KINDS, "lora", more)
    monkeypatch.setitem(PARAMETER_MODELS, "more", MoreChat)
    return "more"


def read(pipeline: str, **given) -> MoreChat:
    return read_parameters(pipeline, {**GIVEN, **given}).parameters


def test_a_new_parameter_is_one_of_the_pipeline(pipeline):
    from pipelines.signature import docstring_of, signature_of

    signature = signature_of(MoreChat, None)
    assert signature.parameters["group_size"].default == 16
    assert signature.parameters["ensure_weight_tying"].annotation is bool
    assert "group_size: Inputs that are pooled." in docstring_of("", MoreChat)
    assert read(pipeline, apply_lora=True, group_size="32").group_size == 32


@pytest.mark.parametrize("name", MORE)
def test_a_new_parameter_is_refused_where_nothing_reads_it(pipeline, name):
    with pytest.raises(UserError, match=f"PARAM-E0261 {name}: found {MORE[name]} with apply_lora=false"):
        read(pipeline, **{name: MORE[name]})
    with pytest.raises(UserError, match=f"{name}: found {MORE[name]} with peft_type=loha; .*set peft_type=lora"):
        read(pipeline, apply_lora=True, peft_type="loha", **{name: MORE[name]})


@pytest.mark.parametrize(
    ("key", "name"), [("qalora_group_size", "group_size"), ("ensure_weight_tying", "ensure_weight_tying")]
)
def test_a_new_parameter_is_refused_under_its_peft_name(pipeline, key, name):
    with pytest.raises(UserError, match=rf"peft_kwargs.{key}: .*set {name}\."):
        read(pipeline, apply_lora=True, peft_kwargs={key: 1})
    assert peft_names(MoreChat)[key] == name  # as experiment files are read


def test_a_new_parameter_reaches_peft(pipeline, tmp_path):
    from steps.finetune.adapters import adapter_config

    lora = MoreLora.of(read(pipeline, apply_lora=True, **MORE))
    made = adapter_config(lora, tiny(tmp_path), "CAUSAL_LM", ())
    assert made.ensure_weight_tying is True
    assert made.qalora_group_size == 32
    assert made.r == 8
    other = MoreLora.of(read(pipeline, apply_lora=True, peft_type="loha"))
    assert not hasattr(adapter_config(other, tiny(tmp_path), "CAUSAL_LM", ()), "qalora_group_size")


def test_a_new_parameter_is_read_from_an_adapter_whose_training_is_continued(pipeline):
    from steps.adapters.input_adapter import continued

    told = {"peft_type": "LORA", "r": 4, "qalora_group_size": 32, "ensure_weight_tying": True}
    adapter = SimpleNamespace(layout=SimpleNamespace(config=told))
    settled = continued(read(pipeline), adapter)
    assert {name: getattr(settled, name) for name in MORE} == MORE
    assert settled.lora_r == 4
    with pytest.raises(UserError, match="PLAN-E0352 group_size: found 8 where the adapter has 32"):
        continued(read(pipeline, apply_lora=True, group_size=8), adapter)


def test_initialisation_is_not_read_from_an_adapter_whose_training_is_continued():
    from steps.adapters.input_adapter import continued

    adapter = SimpleNamespace(layout=SimpleNamespace(config={"peft_type": "LORA", "r": 4, "init_lora_weights": True}))
    given = read_parameters("chat_completion", GIVEN).parameters
    assert continued(given, adapter).init_lora_weights == "true"


def test_a_choice_that_says_true_is_true_for_peft():
    class Chosen(LoraParams):
        """A choice of texts and true."""

        how: Annotated[Literal["true", "false", "gaussian"], ReadBy(("lora",))] = "true"
        """How."""

    said = [Chosen(apply_lora=True, how=how).peft_settings["how"] for how in ("true", "false", "gaussian")]
    assert said == [True, False, "gaussian"]
