"""Adapters that were written to stop a run, and slow expressions of a user: the plan refuses them, and the import."""

import math
from pathlib import Path

import pytest
from hostile_files import LORA, folder_for, put
from hostile_trials import digest_of, imported, planned

from steps.errors import SecurityRefusal, UserError
from steps.params.settings import AdapterFound, Resolved

SLOW = "(([a-z_.0-9]+)+)+x"
ADAPTERS = {
    "a slow expression": ({"target_modules": SLOW}, "MERGE-E0106.*seconds"),
    "a slow expression for ranks": ({"rank_pattern": {SLOW: 4}}, "MERGE-E0106.*seconds"),
    "a slow expression for others": ({"exclude_modules": SLOW}, "MERGE-E0106.*seconds"),
    "a deep expression": ({"target_modules": "(" * 4000 + ")" * 4000}, "MERGE-E0106"),
    "an endless repetition": ({"alpha_pattern": {"a{99999999999999}": 3}}, "MERGE-E0106"),
    "a long expression": ({"target_modules": "a|" * 100_000}, "MERGE-E0106"),
    "targets of a number": ({"target_modules": 3}, "target_modules"),
    "targets of lists": ({"target_modules": [["q_proj"]]}, "target_modules"),
    "an infinite rank": ({"r": math.inf}, "MODEL-E0116.*a whole number"),
    "a rank of 300 digits": ({"r": 10**300}, "MODEL-E0116"),
    "a rank of a text": ({"r": "2"}, "MODEL-E0116"),
    "half a rank": ({"r": 2.5}, "MODEL-E0116"),
    "a dropout of a list": ({"lora_dropout": [1]}, "lora_dropout"),
    "a dropout of more than everything": ({"lora_dropout": 7}, "lora_dropout"),
    "a dropout that is no number": ({"lora_dropout": math.nan}, "lora_dropout"),
    "an unknown bias": ({"bias": "evil"}, "bias"),
    "layers by name": ({"layers_to_transform": ["a"]}, "layers_to_transform"),
    "ranks of a list": ({"rank_pattern": [1]}, "rank_pattern"),
    "an alpha of 400 digits": ({"lora_alpha": 10**400}, "MERGE-E0106"),
    "an alpha that is no number": ({"lora_alpha": math.nan}, "MERGE-E0106"),
    "a kind of a list": ({"peft_type": ["LORA"]}, "peft_type"),
    "a task of a list": ({"task_type": ["x"]}, "task_type"),
    "modules of lists": ({"modules_to_save": [["a"]]}, "modules_to_save"),
    "a base of an object": ({"base_model_name_or_path": {"x": 1}}, "base_model_name_or_path"),
}
ADAPTED_FILES = {
    "code of a processor": (put("processor_config.json", {"auto_map": {"A": "evil.M"}}), SecurityRefusal, r"evil\.py"),
    "a tokenizer that reads elsewhere": (
        put("tokenizer_config.json", {"vocab": "/etc/passwd"}), SecurityRefusal, "MODEL-E0306"
    ),
    "generation by a text": (put("generation_config.json", {"eos_token_id": "x"}), UserError, "eos_token_id"),
    "settings that are a folder": (folder_for("tokenizer_config.json"), UserError, "MODEL-E0128 adapter_path"),
}  # fmt: skip


@pytest.fixture
def model(good_model) -> Path:
    return good_model


@pytest.fixture
def adapter(good_adapter) -> Path:
    return good_adapter


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_hostile_adapter_is_refused_by_the_plan_and_by_the_import_alone(model, adapter, name):
    changes, words = ADAPTERS[name]
    put("adapter_config.json", {**LORA, **changes})(adapter)
    found = AdapterFound(kind="pytorch", source=Resolved(uri=str(adapter), digest=digest_of(adapter)), use="continue")
    with pytest.raises(UserError, match=words):
        planned(model, adapter_path=str(adapter), adapter_use="continue")
    with pytest.raises(UserError, match=words):
        imported(model, digest=digest_of(model), adapter=found)


@pytest.mark.parametrize("name", ADAPTED_FILES)
def test_a_hostile_file_beside_an_adapter_is_refused_by_the_plan_and_by_the_import_alone(model, adapter, name):
    act, error, words = ADAPTED_FILES[name]
    act(adapter)
    found = AdapterFound(kind="pytorch", source=Resolved(uri=str(adapter), digest=digest_of(adapter)), use="continue")
    with pytest.raises(error, match=words):
        planned(model, adapter_path=str(adapter), adapter_use="continue")
    with pytest.raises(error, match=words):
        imported(model, digest=digest_of(model), adapter=found)


def test_a_slow_expression_of_the_user_is_told(model):
    with pytest.raises(UserError, match=r"PLAN-E0390 lora_target_modules: .*seconds"):
        planned(model, lora_target_modules=SLOW, apply_lora=True)
