"""Options of merge_adapter: another tokenizer, and a device map."""

import pytest
from conftest import build_tokenizer
from small_adapters import save_adapter

from steps.errors import UserError
from steps.merge_adapter.device_map import check_device_map
from steps.merge_adapter.step import merge_adapter


@pytest.fixture
def adapter(tiny_model, tmp_path):
    return save_adapter(tiny_model, tmp_path / "adapter", target_modules=["q_proj"])


def test_the_tokenizer_that_is_asked_for_wins_over_the_adapters(tiny_model, adapter, tmp_path):
    for place, template in (("adapter", "of the adapter"), ("tokenizer", "as asked for")):
        build_tokenizer(tmp_path / place)
        (tmp_path / place / "chat_template.jinja").write_text(template)
    (adapter / "special_tokens_map.json").write_text("{}")
    merge_adapter(tiny_model, adapter, tmp_path / "usual")
    merge_adapter(tiny_model, adapter, tmp_path / "asked", tokenizer=tmp_path / "tokenizer")
    assert (tmp_path / "usual/chat_template.jinja").read_text() == "of the adapter"
    assert (tmp_path / "asked/chat_template.jinja").read_text() == "as asked for"
    assert not (tmp_path / "asked/special_tokens_map.json").exists()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("usual", "asked")]
    assert weights[0] == weights[1]


def test_a_folder_without_tokenizer_is_refused_before_the_merge(tiny_model, adapter, tmp_path):
    with pytest.raises(UserError, match="MERGE-E0113"):
        merge_adapter(tiny_model, adapter, tmp_path / "merged", tokenizer=tmp_path)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    "device_map", ["auto", "cpu", "cuda", "cuda:1", "0", '{"": 0}', '{"lm_head": "cpu", "model": 1}']
)
def test_a_device_map_is_accepted(device_map):
    check_device_map(device_map)


@pytest.mark.parametrize("device_map", ["gpu", "{}", "[]", '{"": true}', '{"": "gpu"}', "{'': 0}", '{"": {"a": 0}}'])
def test_a_device_map_that_is_none_is_refused(device_map):
    with pytest.raises(UserError, match="MERGE-E0112"):
        check_device_map(device_map)


def test_a_device_map_changes_nothing_and_says_so(tiny_model, adapter, tmp_path, caplog):
    caplog.set_level("INFO", "finetune")
    merge_adapter(tiny_model, adapter, tmp_path / "plain")
    merge_adapter(tiny_model, adapter, tmp_path / "placed", device_map="cuda")
    assert "device_map=cuda has no effect" in caplog.text
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "placed")]
    assert weights[0] == weights[1]
